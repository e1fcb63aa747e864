"""Polygons into vector files: several formats in one pass, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from tileseg.errors import TilesegError
from tileseg.formats import FORMATS, style_paths
from tileseg.polygons.shape import Shapes
from tileseg.publish.qgis import write_style
from tileseg.publish.table import Rows, Table, Writer


def write_vectors(shapes: Iterable[Shapes], outputs: Mapping[str, Path], table: Table) -> dict[int, int]:
    """Write one stream of shapes to several files; they appear complete or not at all. Then QGIS's style beside them.

    Formats in degrees need shapes with ``lonlat`` where the grid has a CRS. Returns the number of polygons of each
    class id. Raises TilesegError where a file cannot be written.
    """
    counts: dict[int, int] = {}
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(form, path, table, counts)) for form, path in outputs.items()]
        first_id = 1
        for batch in shapes:
            if not len(batch):
                continue
            rows = Rows(batch, first_id, table)
            for writer in writers:
                writer.write(rows)
            first_id += len(batch)
            for label, count in zip(*np.unique(batch.label, return_counts=True), strict=True):
                counts[int(label)] = counts.get(int(label), 0) + int(count)
        for writer in writers:
            writer.close()
    for path in style_paths(outputs).values():
        with writing(path):
            write_style(path, next(iter(table.styles(counts).values())))
    return counts


@contextmanager
def _writer(form: str, path: Path, table: Table, found: Mapping[int, int]) -> Iterator[Writer]:
    """A writer to a temporary name, renamed at the end if nothing went wrong. ``found``: the classes written, then."""
    # With the ending, by which GDAL goes; absolute, because it takes colons in a relative path for notation of its own.
    partial = path.absolute().with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(partial)
            with FORMATS[form].open(partial, table) as writer:
                yield writer
            FORMATS[form].add_styles(partial, table.styles(found))
            partial.replace(path)
    finally:
        _remove(partial)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise TilesegError that says what to do where a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise TilesegError(
            f"{path}: cannot be written: {error.strerror or error}; make space or choose another folder, "
            "then run the same command again"
        ) from error


def _remove(partial: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            partial.with_name(partial.name + ending).unlink()
