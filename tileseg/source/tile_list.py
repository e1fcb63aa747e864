"""Which files a folder, a pattern or a list names."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tileseg.errors import InputError, UsageError
from tileseg.source.band_files import BandFile, by_pattern, chosen, is_pattern, of_item
from tileseg.source.protocol import ReadRequest
from tileseg.source.search import files_below, is_index, is_raster, is_written, objects_named
from tileseg.source.text_list import listed_in
from tileseg.source.tile_index import indexed_in, is_tile_index
from tileseg.storage.local import is_file
from tileseg.storage.place import BandFiles, Named, Places, Url, is_address, parse_place

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
    name: str = ""
    """What it is called in messages, where it lies in several files."""
    bands: tuple[BandFile, ...] = ()
    """Its files, where it has one for each band, in the order of the bands; ``place`` is the first."""
    masks: tuple[BandFile, ...] = ()
    """Those of its bands of quality."""
    lacks: str | None = None
    """What it has not, where it cannot be used."""


def is_many(named: Named) -> bool:
    """Whether it names files that together are one scene: cheap, and without an error for what is not there."""
    if isinstance(named, Places | BandFiles) or is_pattern(str(named)):
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


def tiles_of(named: Named, wanted: ReadRequest) -> tuple[Tile, ...]:
    """The files, each once, in their order; those of folders and patterns sorted by name. Raises InputError.

    Where each band lies in a file of its own, the files are those of the bands that are wanted. Raises UsageError where
    there are no such bands.
    """
    found: dict[Path | Url, Tile] = {}
    for tile in _tiles(named, wanted):
        found.setdefault(tile.place, tile)
    if not found:
        raise InputError(f"{named}: no rasters there")
    return tuple(found.values())


def _tiles(named: Named, wanted: ReadRequest) -> Iterator[Tile]:
    if isinstance(named, Places):
        for place in named.places:
            yield from _tiles(place, wanted) if is_many(place) else (Tile(place),)
        return
    if isinstance(named, BandFiles):
        bands, masks = chosen(named, [BandFile(name, place) for name, place in named.bands], wanted, in_order=True)
        yield Tile(bands[0].place, None, str(named), tuple(bands), tuple(masks))
        return
    place = parse_place(named)
    if is_pattern(str(named)):
        yield from _patterned(place, wanted)
        return
    ending = place.suffix.lower()
    if isinstance(place, Path) and place.is_dir():
        yield from (Tile(p) for p in sorted(files_below(place)) if is_raster(p, place))
    elif ending == _LIST:
        yield from (Tile(parse_place(text)) for text in listed_in(place))
    elif ending in _STAC and (isinstance(place, Url) or _is_stac(place)):
        yield from _items(str(place), wanted)
    elif isinstance(place, Url):
        yield from (Tile(Url.parse(text)) for text in objects_named(place) or [str(place)])
    elif is_file(place) and ending not in _STAC and not is_tile_index(place):
        yield Tile(place)
    elif is_file(place):
        yield from (Tile(parse_place(text), taken) for text, taken in indexed_in(place))
    else:
        matching = sorted(_matching(str(named))) if glob.has_magic(str(named)) else [str(named)]
        found = map(Path, matching)
        if not matching or not glob.has_magic(str(named)):
            yield from map(Tile, found)  # whoever opens it says what is wrong
            return
        yield from (Tile(p) for p in found if p.is_file() and not is_written(p.parents) and not is_index(p))


def _matching(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207 - pathlib's takes no absolute ones


def _is_stac(path: Path) -> bool:
    """Whether a file of JSON says that it is of STAC; other GeoJSON may be a tile index."""
    with path.open("rb") as stream:
        return b'"stac_version"' in stream.read(_HEAD)


def _banded(name: str, files: Sequence[BandFile], wanted: ReadRequest, taken: float | None = None) -> Tile:
    """A scene with a file for each band. Raises UsageError where a band is not among them."""
    bands, masks = chosen(name, files, wanted)
    return Tile(bands[0].place, taken, name, tuple(bands), tuple(masks))


def _patterned(pattern: Path | Url, wanted: ReadRequest) -> Iterator[Tile]:
    """The scenes of a pattern with ``{band}`` in it."""
    groups = by_pattern(pattern)
    everything = {file.name: file for files in groups.values() for file in files}
    chosen(pattern, list(everything.values()), wanted)
    for key, files in groups.items():
        name = f"{pattern}: {key}" if key else str(pattern)
        try:
            yield _banded(name, files, wanted)
        except UsageError as error:
            yield Tile(files[0].place, name=name, lacks=str(error))


def _items(source: str, wanted: ReadRequest) -> Iterator[Tile]:
    from tileseg.source.stac import is_one_raster, moment_of, read_items, scene_of

    for item in read_items(source):
        moment = moment_of(item)
        taken = None if moment is None else moment.timestamp()
        joining = wanted.joining
        if joining.asset is None and not is_one_raster(item) and (wanted.names or wanted.bands):
            try:
                yield _banded(f"{source}: item {item.id}", list(of_item(source, item)), wanted, taken)
                continue
            except UsageError:
                if wanted.bands is not None or joining.mask:
                    raise
        yield Tile(parse_place(scene_of(source, item, joining.asset)), taken)
