"""Find scenes in folders and on object stores: rasters, but nothing hidden and nothing that tileseg wrote."""

from __future__ import annotations

import fnmatch
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from glob import has_magic
from pathlib import Path

from tileseg.errors import InputError
from tileseg.storage.place import Url
from tileseg.storage.store import at

ENDINGS = (
    ".tif", ".tiff", ".jp2", ".j2k", ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".img", ".ntf", ".nitf", ".gpkg", ".vrt",
    ".dcm", ".svs", ".ndpi", ".scn", ".mrxs", ".bif",
)  # fmt: skip
"""What rasters in folders are called."""

_NOT_FROM_SERVERS = (".gpkg", ".vrt", ".dcm", ".svs", ".ndpi", ".scn", ".mrxs", ".bif")
"""Endings, among these, of formats that are read as files only."""


def objects_below(url: Url) -> Iterator[str]:
    """Names of all objects below an address: nothing hidden, and nothing that tileseg wrote."""
    try:
        names = at(url).names()
    except FileNotFoundError as error:
        raise InputError(f"{url}: {error.strerror}") from error
    for name in names:
        parts = name.split("/")
        if not any(part.startswith(".") for part in parts) and not any(p.endswith(".tileseg") for p in parts[:-1]):
            yield name


def objects_named(url: Url) -> list[str]:
    """Addresses that a pattern, or else a folder, on an object store names, sorted."""
    if not has_magic(url.key):
        return [str(url / name) for name in sorted(objects_below(url)) if is_raster_name(name)]
    parts = url.key.split("/")
    fixed = next(i for i, part in enumerate(parts) if has_magic(part))
    base = Url(url.root, "/".join(parts[:fixed]))
    return [str(base / name) for name in sorted(objects_below(base)) if matches(name.split("/"), parts[fixed:])]


def is_raster_name(name: str) -> bool:
    """Whether an object of that name may be a scene that is read from a server."""
    ending = Path(name).suffix.lower()
    return ending in ENDINGS and ending not in _NOT_FROM_SERVERS


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name fits a pattern, part by part; ``**`` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def files_below(root: Path) -> Iterator[Path]:
    """All files in a folder and below. Links to folders are followed, but not to one that leads there."""
    above: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, inside, files in os.walk(root, followlinks=True):
        way = above.pop(folder)
        for name in tuple(inside):
            path = os.path.join(folder, name)  # noqa: PTH118 - as os.walk will call it
            if (real := os.path.realpath(path)) in way:
                inside.remove(name)
            else:
                above[path] = (*way, real)
        yield from (Path(folder, name) for name in files)


def is_written(folders: Sequence[Path]) -> bool:
    """Whether one of the folders that a file lies in is the output of a run."""
    return any(folder.suffix == ".tileseg" for folder in folders)


def is_raster(path: Path, root: Path) -> bool:
    """Whether a file in a folder is taken for a scene: not what tileseg wrote, and nothing hidden."""
    inside = path.relative_to(root)
    hidden = any(part.startswith(".") for part in inside.parts)
    written = is_written([*inside.parents, *root.absolute().parents, root.absolute()])
    return path.suffix.lower() in ENDINGS and not hidden and not written and path.is_file() and not is_index(path)


def is_index(path: Path) -> bool:
    """Whether it is a GeoPackage without raster tiles, such as a batch's index or a merged layer.

    Goes by its table of contents (OGC 12-128r19, section 1.1.3).
    """
    if path.suffix.lower() != ".gpkg":
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            kinds = {kind for (kind,) in database.execute("SELECT data_type FROM gpkg_contents")}
    except sqlite3.Error:
        return False  # whatever it is, reading it says what is wrong
    return not any("tile" in kind or "coverage" in kind for kind in kinds)
