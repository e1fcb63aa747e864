"""Which files a folder, a pattern or a list names."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tileseg.errors import InputError
from tileseg.source.search import files_below, is_index, is_raster, is_written
from tileseg.source.text_list import listed_in
from tileseg.storage.place import Named, Places, Url, is_address, parse_place


@dataclass(frozen=True, slots=True)
class Tile:
    """A file of a scene that lies in several."""

    place: Path | Url
    taken: float | None = None
    """When it was taken, seconds since 1970, where the source says so."""


def is_many(named: Named) -> bool:
    """Whether it names files that together are one scene: cheap, and without an error for what is not there."""
    if isinstance(named, Places):
        return True
    if isinstance(named, Url) or is_address(str(named)):
        return False
    path = Path(str(named))
    if path.is_dir():
        return True
    if path.is_file():
        return path.suffix.lower() == ".txt"
    return glob.has_magic(str(named)) and bool(glob.glob(str(named), recursive=True))  # noqa: PTH207 - pathlib's takes no absolute ones


def tiles_of(named: Named) -> tuple[Tile, ...]:
    """The files, each once, in their order; those of folders and patterns sorted by name. Raises InputError."""
    found = dict.fromkeys(_places(named))
    if not found:
        raise InputError(f"{named}: no rasters there")
    return tuple(map(Tile, found))


def _places(named: Named) -> Iterator[Path | Url]:
    if isinstance(named, Places):
        for place in named.places:
            yield from _places(place) if is_many(place) else (place,)
        return
    path = Path(str(named))
    if path.is_dir():
        yield from (p for p in sorted(files_below(path)) if is_raster(p, path))
    elif path.is_file():
        yield from map(parse_place, listed_in(path))
    else:
        found = map(Path, sorted(glob.glob(str(named), recursive=True)))  # noqa: PTH207 - as above
        yield from (p for p in found if p.is_file() and not is_written(p.parents) and not is_index(p))
