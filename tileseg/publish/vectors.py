"""Polygons into vector files: several formats in one pass, each whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from tileseg.errors import TilesegError
from tileseg.formats import FORMATS
from tileseg.polygons.shape import Shapes
from tileseg.publish.table import Rows, Table, Writer


def write_vectors(shapes: Iterable[Shapes], outputs: Mapping[str, Path], table: Table) -> dict[int, int]:
    """Write one stream of shapes to several files; they appear complete or not at all.

    Formats in degrees need shapes with ``lonlat`` where the grid has a CRS. Returns the number of polygons of each
    class id. Raises TilesegError where a file cannot be written.
    """
    counts: dict[int, int] = {}
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(form, path, table)) for form, path in outputs.items()]
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
    return counts


@contextmanager
def _writer(form: str, path: Path, table: Table) -> Iterator[Writer]:
    """A writer to a temporary name, renamed at the end if nothing went wrong."""
    # With the ending, by which GDAL goes; absolute, because it takes colons in a relative path for notation of its own.
    partial = path.absolute().with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        writer = FORMATS[form].open(partial, table)
        with writer:
            yield writer
        partial.replace(path)
    except OSError as error:
        raise TilesegError(
            f"{path}: cannot be written: {error.strerror or error}; make space or choose another folder, "
            "then run the same command again"
        ) from error
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            partial.with_name(partial.name + ending).unlink()
