"""The headers of many files, read side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.protocol import ReadRequest
from tileseg.source.raster import RasterScene, open_raster
from tileseg.source.tile_list import Tile
from tileseg.storage.place import Url

_FROM_SERVERS = 32
"""Headers that are asked for at once, of files on servers."""


@dataclass(frozen=True, slots=True)
class Header:
    """A file of a scene, as far as it needs to be known to find its pixels."""

    source: RasterScene
    grid: Grid
    """Where it lies: files of one coordinate reference system have it in the same words."""
    taken: float
    """When it was taken, or else changed: seconds since 1970."""


def read_headers(named: str, tiles: Sequence[Tile], wanted: ReadRequest) -> tuple[list[Header], list[str]]:
    """Headers of the files that can be used, in their order, and what the user should know.

    Raises InputError, naming the first, where files are missing or broken, unless the request says that they count as
    without data.
    """
    remote = any(isinstance(tile.place, Url) for tile in tiles)
    with ThreadPoolExecutor(_FROM_SERVERS if remote else min(8, 2 * (os.cpu_count() or 1))) as pool:
        found = list(pool.map(lambda tile: _opened(tile, wanted), tiles))
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
    return [Header(source, source.grid, _taken(source, tile)) for source, tile in usable], notes


def _opened(tile: Tile, wanted: ReadRequest) -> RasterScene | InputError:
    try:
        return open_raster(tile.place, wanted)
    except InputError as error:
        return error


def _taken(source: RasterScene, tile: Tile) -> float:
    if tile.taken is not None:
        return tile.taken
    return max(stamp[1] for stamp in source.file.stamps().values()) / 1e9
