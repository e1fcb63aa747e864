"""Which scenes a batch is about: files, globs, folders, lists, tables and STAC catalogues."""

from __future__ import annotations

import glob
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tileseg.batch.entry import Entry, plain_entries
from tileseg.batch.stac import read_stac
from tileseg.batch.table import read_list, read_table
from tileseg.errors import UsageError
from tileseg.source.search import files_below, is_index, is_raster, is_written, objects_named
from tileseg.storage.place import Url, file_of, is_address, similar_name


def read_sources(sources: Sequence[str | Path], asset: str | None = None) -> tuple[Entry, ...]:
    """All scenes, each once, in the order of the sources; those of globs and folders sorted by name.

    ``asset``: key or role of the asset that is the scene, in STAC sources. Raises UsageError where a source is none,
    or holds no scene, InputError where an address is not there.
    """
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Entry] = {}
    for source in sources:
        before = len(found)
        entries = list(_entries(str(source), asset))
        for entry in entries:
            found.setdefault((entry.place, tuple(sorted(entry.options.items()))), entry)
        if not entries and len(found) == before:
            raise UsageError(f"{source}: no scenes there")
    return _with_folders(list(found.values()))


def shard(entries: Sequence[Entry], part: str) -> tuple[Entry, ...]:
    """Every n-th scene, beginning with the i-th (from 1): ``i/n``. Raises UsageError."""
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {part}: expected i/n with i from 1 to n, such as 2/8")
    return tuple(entries[int(number) - 1 :: int(count)])


def _entries(source: str, asset: str | None) -> Iterator[Entry]:
    if is_address(source):
        yield from _far(source, asset)
        return
    path = Path(source)
    ending = path.suffix.lower()
    if path.is_dir():
        yield from plain_entries(p for p in sorted(files_below(path)) if is_raster(p, path))
    elif path.is_file() and ending == ".txt":
        yield from read_list(path)
    elif path.is_file() and ending == ".csv":
        yield from read_table(path)
    elif path.is_file() and ending in (".json", ".geojson"):
        yield from read_stac(source, asset)
    elif path.exists() or Path(file_of(source)).is_file():
        yield Entry(source, "")
    elif glob.has_magic(source):
        matches = map(Path, sorted(glob.glob(source, recursive=True)))  # noqa: PTH207 - pathlib's takes no absolute ones
        yield from plain_entries(m for m in matches if m.is_file() and not is_written(m.parents) and not is_index(m))
    else:
        raise UsageError(f"{source}: no such file, folder or pattern{similar_name(Path(source))}")


def _far(source: str, asset: str | None) -> Iterator[Entry]:
    """An address: a scene, a list, a table, STAC; on object stores also a folder (it ends with ``/``) or a pattern."""
    url = Url.parse(source)
    ending = url.suffix.lower()
    if url.writable and (source.endswith("/") or not url.key or glob.has_magic(url.key)):
        yield from plain_entries(objects_named(url))
    elif ending == ".txt":
        yield from read_list(url)
    elif ending == ".csv":
        yield from read_table(url)
    elif ending in (".json", ".geojson"):
        yield from read_stac(source, asset)
    else:
        yield Entry(source, "")


def _with_folders(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Name the output folders: those of scenes that share a stem all get a digest, so that their order is no matter.

    Stems that differ in case alone, or in how an accent is composed, count as shared: on many disks they are.
    """
    names = [entry.names for entry in entries]
    same = [unicodedata.normalize("NFC", plain).casefold() for plain, _ in names]
    shared = Counter(same)
    return tuple(
        replace(entry, folder=own if shared[key] > 1 else plain)
        for entry, (plain, own), key in zip(entries, names, same, strict=True)
    )
