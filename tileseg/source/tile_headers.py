"""The headers of many files, read side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.band_files import BandFile
from tileseg.source.header_cache import cache_file, load, save, stamps_of
from tileseg.source.protocol import PixelSource, ReadRequest
from tileseg.source.raster import RasterScene, open_raster
from tileseg.source.stack import stack
from tileseg.source.tile_list import Tile
from tileseg.source.values import valued
from tileseg.storage.place import Url
from tileseg.storage.store import at

_MANY = 64
"""Files whose headers are kept between runs; of fewer it takes longer to keep them."""
_FROM_SERVERS = 32
"""Headers that are asked for at once, of files on servers."""


@dataclass(frozen=True, slots=True)
class Header:
    """A file of a scene, as far as it needs to be known to find its pixels."""

    source: PixelSource
    grid: Grid
    """Where it lies: files of one coordinate reference system have it in the same words."""
    taken: float
    """When it was taken, or else changed: seconds since 1970; 0 where nobody asks."""


def read_headers(named: str, tiles: Sequence[Tile], wanted: ReadRequest) -> tuple[list[Header], list[str]]:
    """Headers of the files that can be used, in their order, and what the user should know.

    Raises InputError, naming the first, where files are missing or broken, unless the request says that they count as
    without data.
    """
    found = _sources(tiles, wanted)
    broken = [error for error in found if isinstance(error, InputError)]
    notes: list[str] = []
    if broken:
        several = f" (and {len(broken) - 1} more of {len(tiles)} files)" if len(broken) > 1 else ""
        if wanted.joining.missing == "fail" or len(broken) == len(tiles):
            remedy = "" if len(broken) == len(tiles) else "; --missing nodata goes on without"
            raise InputError(f"{f'{named}: ' if len(tiles) > 1 else ''}{broken[0]}{several}{remedy}") from broken[0]
        notes += [f"counts as without data: {error}" for error in broken[:5]]
        if len(broken) > 5:
            notes.append(f"and {len(broken) - 5} more files count as without data")
    usable = [(s, t) for s, t in zip(found, tiles, strict=True) if not isinstance(s, InputError)]
    newest = wanted.joining.on_top == "newest"
    return [Header(source, source.grid, _taken(tile) if newest else 0.0) for source, tile in usable], notes


def _sources(tiles: Sequence[Tile], wanted: ReadRequest) -> list[PixelSource | InputError]:
    """What each tile is read with, or why it cannot be used."""
    whole = [tile.place for tile in tiles if not tile.bands and tile.lacks is None]
    single = replace(wanted, expected=1, bands=None, names=())
    banded = [file.place for tile in tiles for file in (*tile.bands, *tile.masks)]
    opened = _opened(whole, wanted) if whole else {}
    members = _opened(list(dict.fromkeys(banded)), single) if banded else {}
    rules = wanted.joining.mask
    hiding = [
        _opened(whole, replace(single, bands=(int(rule.band) if rule.band.isdecimal() else rule.band,)))
        for rule in (rules if whole else ())
    ]

    def source_of(tile: Tile) -> PixelSource | InputError:
        if tile.lacks is not None:
            return InputError(tile.lacks)
        if tile.bands:
            bands = [(members[file.place], file) for file in tile.bands]
            masks = [members[file.place] for file in tile.masks]
        else:
            bands = [(opened[tile.place], BandFile("", tile.place))]
            masks = [found[tile.place] for found in hiding]
        try:
            usable = [valued(_usable(scene), wanted.joining.values, file.told) for scene, file in bands]
            if not tile.bands and not rules:
                return usable[0]
            pairs = list(zip(rules, map(_usable, masks), strict=True))
            return stack(tile.name or str(tile.place), usable, pairs, wanted.joining)
        except InputError as error:
            return error

    return [source_of(tile) for tile in tiles]


def _usable(found: RasterScene | InputError) -> RasterScene:
    if isinstance(found, InputError):
        raise found
    return found


def _opened(places: Sequence[Path | Url], wanted: ReadRequest) -> dict[Path | Url, RasterScene | InputError]:
    """Headers of all files, or why one cannot be used."""
    many = len(places) >= _MANY
    stamps = stamps_of(places) if many else {}
    file = cache_file(places, wanted)
    kept = load(file, stamps) if many else {}
    left = [place for place in places if place not in kept]
    remote = any(isinstance(place, Url) for place in left)
    with ThreadPoolExecutor(_FROM_SERVERS if remote else min(8, 2 * (os.cpu_count() or 1))) as pool:
        new = dict(zip(left, pool.map(lambda place: _open(place, wanted), left), strict=True))
    usable = {place: scene for place, scene in new.items() if isinstance(scene, RasterScene)}
    if many and usable:
        save(file, stamps, {**kept, **usable})
    return {**kept, **new}


def _open(place: Path | Url, wanted: ReadRequest) -> RasterScene | InputError:
    try:
        return open_raster(place, wanted)
    except InputError as error:
        return error


def _taken(tile: Tile) -> float:
    if tile.taken is not None:
        return tile.taken
    return max(at(place).stamp()[1] for place in [file.place for file in tile.bands] or [tile.place]) / 1e9
