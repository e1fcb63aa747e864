"""The headers of many files, read side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.header_cache import cache_file, load, save, stamps_of
from tileseg.source.protocol import ReadRequest
from tileseg.source.raster import RasterScene, open_raster
from tileseg.source.tile_list import Tile
from tileseg.storage.place import Url

_MANY = 64
"""Files whose headers are kept between runs; of fewer it takes longer to keep them."""
_FROM_SERVERS = 32
"""Headers that are asked for at once, of files on servers."""


@dataclass(frozen=True, slots=True)
class Header:
    """A file of a scene, as far as it needs to be known to find its pixels."""

    source: RasterScene
    grid: Grid
    """Where it lies: files of one coordinate reference system have it in the same words."""
    taken: float
    """When it was taken, or else changed: seconds since 1970; 0 where nobody asks."""


def read_headers(named: str, tiles: Sequence[Tile], wanted: ReadRequest) -> tuple[list[Header], list[str]]:
    """Headers of the files that can be used, in their order, and what the user should know.

    Raises InputError, naming the first, where files are missing or broken, unless the request says that they count as
    without data.
    """
    opened = _opened([tile.place for tile in tiles], wanted)
    found = [opened[tile.place] for tile in tiles]
    broken = [error for error in found if isinstance(error, InputError)]
    notes: list[str] = []
    if broken:
        several = f" (and {len(broken) - 1} more of {len(tiles)} files)" if len(broken) > 1 else ""
        if wanted.joining.missing == "fail" or len(broken) == len(tiles):
            remedy = "" if len(broken) == len(tiles) else "; --missing nodata goes on without"
            raise InputError(f"{named}: {broken[0]}{several}{remedy}") from broken[0]
        notes += [f"counts as without data: {error}" for error in broken[:5]]
        if len(broken) > 5:
            notes.append(f"and {len(broken) - 5} more files count as without data")
    usable = [(s, t) for s, t in zip(found, tiles, strict=True) if isinstance(s, RasterScene)]
    newest = wanted.joining.on_top == "newest"
    return [Header(source, source.grid, _taken(source, tile) if newest else 0.0) for source, tile in usable], notes


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


def _taken(source: RasterScene, tile: Tile) -> float:
    if tile.taken is not None:
        return tile.taken
    return max(stamp[1] for stamp in source.file.stamps().values()) / 1e9
