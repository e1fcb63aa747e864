"""Many files as one scene on one grid: folders, patterns, lists and indexes of tiles."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.reading import OnTop
from tileseg.source.header import MOST_PIXELS
from tileseg.source.lattice import NOBODY, Lattice, Owner, common_dtype, lattice_of, place_on
from tileseg.source.protocol import Mask, Pixels, PixelSource, ReadRequest
from tileseg.source.tile_headers import Header, read_headers
from tileseg.source.tile_list import tiles_of
from tileseg.storage.place import Named
from tileseg.window import Window

_SPARSE = 0.1
"""Share of a scene that lies in files below which they may be no tiles of one image."""


@dataclass(frozen=True, eq=False)
class ManyFiles:
    """Files that together are one scene: a :class:`tileseg.source.protocol.PixelSource`.

    A window reads the files that lie in it and no others. Pickled as what it was opened from: a worker reads the
    headers again, once, and finds the same files or refuses.
    """

    named: Named
    wanted: ReadRequest
    layers: tuple[Lattice, ...]
    """Files by the lattice that they lie on."""
    grid: Grid
    identity: str
    """Digest of which files, in which order, where, and of what each of them depends on."""
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        """As the user named them."""
        return str(self.named)

    @property
    def storage(self) -> str:
        """The files, not the name."""
        return f"tiles {self.identity}"

    @property
    def bands(self) -> tuple[int, ...]:
        """Those that are read of each file, numbered as the scene has them."""
        return tuple(range(1, self.layers[0].bands + 1))

    @property
    def dtype(self) -> str:
        """A type that holds the values of all files."""
        return common_dtype(layer.dtype for layer in self.layers)

    @property
    def palette(self) -> bool:
        """Whether numbers of colours are read as red, green, blue."""
        return any(placed.source.palette for layer in self.layers for placed in layer.files)

    @property
    def has_gaps(self) -> bool:
        """Whether pixels without data may occur: in a file, or where there is none."""
        (layer, *others) = self.layers
        return bool(others) or layer.covered < 1 or any(placed.source.has_gaps for placed in layer.files)

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x)."""
        self._check(window)
        pixels, owner = self._together([layer.read(window) for layer in self.layers])
        valid = owner != NOBODY
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""
        self._check(window)
        pixels, owner = self._together([layer.read_thinned(window, shape) for layer in self.layers])
        return pixels, owner != NOBODY

    def _together(self, found: list[tuple[Pixels, Owner]]) -> tuple[Pixels, Owner]:
        """Of each pixel, what the file of the lowest rank has."""
        pixels, owner = found[0]
        pixels = pixels.astype(self.dtype, copy=False)
        for more, theirs in found[1:]:
            wins = theirs < owner
            pixels[wins] = more[wins]
            owner[wins] = theirs[wins]
        return pixels, owner

    def _check(self, window: Window) -> None:
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ManyFiles) and (self.identity, self.wanted) == (other.identity, other.wanted)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.named, self.wanted, self.identity)


@lru_cache(maxsize=4)
def _again(named: Named, wanted: ReadRequest, identity: str) -> ManyFiles:
    """The scene in another process. Raises InputError where its files are other ones by now."""
    found = open_tiles(named, wanted)
    if found.identity != identity:
        raise InputError(
            f"{named}: its files have changed since the run began; put them back as they were, or start anew with "
            "--overwrite"
        )
    return found


def open_tiles(named: Named, wanted: ReadRequest) -> ManyFiles:
    """Describe a scene that lies in several files. Raises InputError or UsageError in one line."""
    headers, notes = read_headers(str(named), tiles_of(named), wanted)
    _check_places(named, headers)
    ranks = _ranks(headers, wanted.joining.on_top)
    anchor = _majority([header.grid for header in headers])
    found: list[tuple[PixelSource, int, Window]] = []
    for header, rank in zip(headers, ranks, strict=True):
        window = place_on(anchor, header.grid)
        if window is None:
            raise InputError(f"{header.source.path}: lies on another grid than most files of {named}")
        found.append((header.source, rank, window))
    layer = lattice_of(anchor, found)
    _check_size(named, layer.grid)
    notes = [*notes, *_told(headers, layer)]
    facts = [
        (layer.grid.height, layer.grid.width, tuple(layer.grid.transform)[:6], layer.grid.crs_wkt),
        [(placed.rank, placed.window, placed.source.identity) for placed in layer.files],
    ]
    identity = hashlib.sha256(repr(facts).encode()).hexdigest()
    return ManyFiles(named, wanted, (layer,), layer.grid, identity, tuple(notes))


def _check_places(named: Named, headers: Sequence[Header]) -> None:
    """Raise InputError where files do not say where they lie, or only some say in which system."""
    homeless = [h for h in headers if h.grid.transform.is_identity and h.grid.crs_wkt is None]
    if homeless and len(headers) > 1:
        raise InputError(
            f"{named}: {homeless[0].source.path} does not say where it lies on the ground, so it cannot be put beside "
            f"others ({len(homeless)} of {len(headers)} files do not); as scenes of their own: tileseg batch"
        )
    without = [h for h in headers if h.grid.crs_wkt is None]
    if without and len(without) < len(headers):
        raise InputError(
            f"{named}: {without[0].source.path} has no coordinate reference system, and others have "
            f"({len(without)} of {len(headers)} files have none); say it: gdal_edit.py -a_srs EPSG:<code> FILE"
        )


def _ranks(headers: Sequence[Header], on_top: OnTop) -> list[int]:
    """Of each file its place among those that may lie over each other: 0 is the top."""
    count = len(headers)
    match on_top:
        case "first":
            order = list(range(count))
        case "last":
            order = list(range(count))[::-1]
        case "newest":
            order = sorted(range(count), key=lambda i: headers[i].taken, reverse=True)
    ranks = [0] * count
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _majority(grids: Sequence[Grid]) -> Grid:
    """The first of the grids on whose lattice most of them lie."""
    kinds = Counter((grid.crs_wkt, *(float(f"{v:.9g}") for v in _steps(grid))) for grid in grids)
    most = max(kinds.values())
    alike = [g for g in grids if kinds[g.crs_wkt, *(float(f"{v:.9g}") for v in _steps(g))] == most]
    return alike[0]


def _steps(grid: Grid) -> tuple[float, float, float, float]:
    t = grid.transform
    return t.a, t.b, t.d, t.e


def _check_size(named: Named, grid: Grid) -> None:
    if grid.extent.pixels > MOST_PIXELS:
        raise InputError(
            f"{named}: its files lie so far apart that one scene of them would have {grid.width} x {grid.height} "
            "pixels; as scenes of their own: tileseg batch"
        )


def _told(headers: Sequence[Header], layer: Lattice) -> list[str]:
    """What the user should know."""
    notes = [f"{len(headers)} files are one scene (as scenes of their own: tileseg batch)"]
    if layer.covered < _SPARSE:
        notes.append(f"its files cover {layer.covered:.2%} of it: are they tiles of one image?")
    dtypes = Counter(header.source.dtype for header in headers)
    if len(dtypes) > 1:
        listed = ", ".join(f"{count} are {dtype}" for dtype, count in dtypes.most_common())
        notes.append(f"its files have pixels of several types ({listed}); they are read as {layer.dtype}")
    own: dict[str, int] = {}
    for header in headers:
        for note in header.source.notes:
            own[note] = own.get(note, 0) + 1
    notes += [note if count == len(headers) else f"{note} ({count} files)" for note, count in own.items()]
    return notes
