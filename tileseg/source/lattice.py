"""Files whose pixels lie on one lattice, put together without touching their values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from tileseg.grid import Grid
from tileseg.source.header import READ_AS_THEY_ARE
from tileseg.source.protocol import Pixels, PixelSource
from tileseg.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Owner = npt.NDArray[np.int32]
"""Which file each pixel (y, x) is of, by its rank; :data:`NOBODY` where none has data."""

NOBODY = np.iinfo(np.int32).max
"""No file's rank."""

ALIGNED = 0.01
"""Pixels by which a file may lie beside a lattice, at any corner, and still be on it: georeferences are rounded."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A file on a lattice."""

    source: PixelSource
    rank: int
    """Its place in the order: where several have data, the lowest counts."""
    window: Window
    """Where its pixels lie on the lattice."""

    def read(self, window: Window) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """Pixels (y, x, band) and valid (y, x) of a window of the lattice, which lies inside the file."""
        return self.source.read(window.relative_to(self.window))

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """About every n-th row and column of a window of the lattice, which lies inside the file."""
        return self.source.read_thinned(window.relative_to(self.window), shape)


@dataclass(frozen=True, eq=False)
class Lattice:
    """Files on one lattice. It is found without looking at all of them which lie in a window."""

    grid: Grid
    """The least part of the lattice that holds them all."""
    files: tuple[Placed, ...]
    bands: int
    dtype: str
    """NumPy type that holds the values of all of them."""

    def read(self, window: Window) -> tuple[Pixels, Owner]:
        """Pixels (y, x, band), 0 where there are none, and whose they are (y, x)."""
        pixels = np.zeros((window.height, window.width, self.bands), self.dtype)
        owner = np.full((window.height, window.width), NOBODY, np.int32)
        for placed, part in self._within(window):
            here = part.relative_to(window).slices
            free = owner[here] == NOBODY
            if not free.any():
                continue
            found, valid = placed.read(part)
            if part == window and valid.all() and free.all() and found.dtype == pixels.dtype:
                return found, np.full_like(owner, placed.rank)
            valid &= free
            if valid.all():
                pixels[here] = found
                owner[here] = placed.rank
            else:
                pixels[here][valid] = found[valid]
                owner[here][valid] = placed.rank
        return pixels, owner

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Owner]:
        """As :meth:`read`, about every n-th row and column: (rows, columns) of ``shape``."""
        pixels = np.zeros((*shape, self.bands), self.dtype)
        owner = np.full(shape, NOBODY, np.int32)
        rows, cols = (
            first + (2 * np.arange(count) + 1) * size // (2 * count)
            for first, count, size in zip(
                (window.row_off, window.col_off), shape, (window.height, window.width), strict=True
            )
        )
        for placed, part in self._within(window):
            top, bottom = np.searchsorted(rows, (part.row_off, part.row_stop))
            left, right = np.searchsorted(cols, (part.col_off, part.col_stop))
            free = owner[top:bottom, left:right] == NOBODY
            if not free.any():
                continue
            found, valid = placed.read_thinned(part, free.shape)
            valid &= free
            pixels[top:bottom, left:right][valid] = found[valid]
            owner[top:bottom, left:right][valid] = placed.rank
        return pixels, owner

    def _within(self, window: Window) -> Iterator[tuple[Placed, Window]]:
        """The files in a window, in order of their ranks, each with its part of it."""
        box = shapely.box(window.col_off, window.row_off, window.col_stop, window.row_stop)
        for index in sorted(self._tree.query(box).tolist()):
            placed = self.files[index]
            part = placed.window.intersection(window)
            if part is not None:  # those that only touch it are found too
                yield placed, part

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.boxes)

    @property
    def boxes(self) -> npt.NDArray[Any]:
        """Where the files lie, in (column, row): boxes (n,)."""
        return boxes_of([placed.window for placed in self.files])

    @property
    def covered(self) -> float:
        """Share of its pixels that lie in a file."""
        return float(shapely.union_all(self.boxes).area) / self.grid.extent.pixels


def boxes_of(windows: Sequence[Window]) -> npt.NDArray[Any]:
    """Windows as boxes (n,) in (column, row)."""
    return np.asarray(
        shapely.box(
            [w.col_off for w in windows],
            [w.row_off for w in windows],
            [w.col_stop for w in windows],
            [w.row_stop for w in windows],
        )
    )


def place_on(anchor: Grid, grid: Grid) -> Window | None:
    """Where a grid lies on the lattice of another, whose first pixel is at (0, 0); None: beside it."""
    if grid.crs_wkt != anchor.crs_wkt:
        return None
    there = ~anchor.transform @ grid.transform
    corners = np.array([there @ (x, y) for x in (0, grid.width) for y in (0, grid.height)])
    col, row = np.rint(corners[0])
    expected = [(col + x, row + y) for x in (0, grid.width) for y in (0, grid.height)]
    if not np.abs(corners - expected).max() <= ALIGNED:
        return None
    return Window(int(row), int(col), grid.height, grid.width)


def lattice_of(anchor: Grid, found: Sequence[tuple[PixelSource, Grid, int, Window]]) -> Lattice:
    """Put sources together: each with its grid, its rank, and where it lies on the lattice of an anchor."""
    windows = [window for _, _, _, window in found]
    top, left = min(w.row_off for w in windows), min(w.col_off for w in windows)
    height, width = max(w.row_stop for w in windows) - top, max(w.col_stop for w in windows) - left
    grid = Grid(
        height, width, corner_of(anchor, [(own, window) for _, own, _, window in found], top, left), anchor.crs_wkt
    )
    files = sorted(
        (Placed(source, rank, window.shift(-top, -left)) for source, _, rank, window in found),
        key=lambda placed: placed.rank,
    )
    sources = [placed.source for placed in files]
    return Lattice(grid, tuple(files), len(sources[0].bands), common_dtype(source.dtype for source in sources))


def common_dtype(dtypes: Iterable[str]) -> str:
    """The type that holds the values of all of these, among those that pixels are read as."""
    name = np.result_type(*set(dtypes)).name
    return name if name in READ_AS_THEY_ARE else "float32"


def corner_of(anchor: Grid, found: Sequence[tuple[Grid, Window]], top: int, left: int) -> Affine:
    """The transform of a part of a lattice: its corner is taken from those that lie there, so no rounding adds up."""
    shifted = anchor.transform @ Affine.translation(left, top)
    if not anchor.is_north_up:
        return shifted
    x = next((grid.transform.c for grid, window in found if window.col_off == left), shifted.c)
    y = next((grid.transform.f for grid, window in found if window.row_off == top), shifted.f)
    return Affine(shifted.a, shifted.b, x, shifted.d, shifted.e, y)
