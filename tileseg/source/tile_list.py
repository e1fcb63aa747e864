"""Which files a folder, a pattern or a list names."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tileseg.errors import InputError
from tileseg.source.search import files_below, is_index, is_raster, is_written, objects_named
from tileseg.source.text_list import listed_in
from tileseg.source.tile_index import indexed_in, is_tile_index
from tileseg.storage.local import is_file
from tileseg.storage.place import Named, Places, Url, is_address, parse_place

_LIST = ".txt"
_STAC = (".json", ".geojson")
_HEAD = 1 << 20
"""Bytes in which a file of STAC says so."""


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
        url = named if isinstance(named, Url) else Url.parse(str(named))
        if url.suffix.lower() in (_LIST, *_STAC):
            return True
        return url.writable and (not url.suffix or glob.has_magic(url.key))
    path = Path(str(named))
    if path.is_dir():
        return True
    if is_file(path):
        return path.suffix.lower() in (_LIST, *_STAC) or is_tile_index(path)
    return glob.has_magic(str(named)) and bool(_matching(str(named)))


def tiles_of(named: Named, asset: str | None = None) -> tuple[Tile, ...]:
    """The files, each once, in their order; those of folders and patterns sorted by name. Raises InputError.

    ``asset``: key or role of what is read of an item of STAC.
    """
    found: dict[Path | Url, Tile] = {}
    for tile in _tiles(named, asset):
        found.setdefault(tile.place, tile)
    if not found:
        raise InputError(f"{named}: no rasters there")
    return tuple(found.values())


def _tiles(named: Named, asset: str | None) -> Iterator[Tile]:
    if isinstance(named, Places):
        for place in named.places:
            yield from _tiles(place, asset) if is_many(place) else (Tile(place),)
        return
    place = parse_place(named)
    ending = place.suffix.lower()
    if isinstance(place, Path) and place.is_dir():
        yield from (Tile(p) for p in sorted(files_below(place)) if is_raster(p, place))
    elif ending == _LIST:
        yield from (Tile(parse_place(text)) for text in listed_in(place))
    elif ending in _STAC and (isinstance(place, Url) or _is_stac(place)):
        yield from _items(str(place), asset)
    elif isinstance(place, Url):
        yield from (Tile(Url.parse(text)) for text in objects_named(place) or [str(place)])
    elif is_file(place):
        yield from (Tile(parse_place(text), taken) for text, taken in indexed_in(place))
    else:
        found = map(Path, sorted(_matching(str(named))))
        yield from (Tile(p) for p in found if p.is_file() and not is_written(p.parents) and not is_index(p))


def _matching(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207 - pathlib's takes no absolute ones


def _is_stac(path: Path) -> bool:
    """Whether a file of JSON says that it is of STAC; other GeoJSON may be a tile index."""
    with path.open("rb") as stream:
        return b'"stac_version"' in stream.read(_HEAD)


def _items(source: str, asset: str | None) -> Iterator[Tile]:
    from tileseg.source.stac import moment_of, read_items, scene_of

    for item in read_items(source):
        moment = moment_of(item)
        yield Tile(parse_place(scene_of(source, item, asset)), None if moment is None else moment.timestamp())
