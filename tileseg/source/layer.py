"""Files of one lattice on a scene's grid, as they are or warped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tileseg.choices import Resampling
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.lattice import NOBODY, Lattice, Owner
from tileseg.source.protocol import Pixels
from tileseg.source.warp import Warp, scaled
from tileseg.window import Window, tile


@dataclass(frozen=True, eq=False)
class Layer:
    """Files of one lattice on a scene's grid."""

    base: Lattice
    window: Window
    """Where on the scene's grid they have pixels."""
    warp: Warp | None = None
    """From their lattice to the scene's grid; None: they lie on it, pixel for pixel."""
    alone: bool = True
    """Whether nothing else is laid over it or under it, so that it is no matter whose a pixel is."""

    def read(self, window: Window) -> tuple[Pixels, Owner]:
        """Pixels (y, x, band), 0 where there are none, and whose they are (y, x), of a window inside this one's.

        Of files that are warped, alone on their scene, it may be another's of them.
        """
        if self.warp is None:
            return self.base.read(window.relative_to(self.window))
        pixels, owner = nothing((window.height, window.width), self.base.bands, self.base.dtype)
        for piece in _aligned(window, self.warp.piece):
            needed = self.warp.needed(piece)
            if needed is not None:
                here = piece.relative_to(window).slices
                pixels[here], owner[here] = self.warp(*self.base.read(needed), needed, piece, ranks=not self.alone)
        return pixels, owner

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Owner]:
        """As :meth:`read`, about every n-th row and column: (rows, columns) of ``shape``."""
        if self.warp is None:
            return self.base.read_thinned(window.relative_to(self.window), shape)
        needed = self.warp.needed(window)
        if needed is None:
            return nothing(shape, self.base.bands, self.base.dtype)
        size = min(needed.height, 2 * shape[0]), min(needed.width, 2 * shape[1])
        target = scaled(self.warp.target[window], shape)
        coarse = Warp(scaled(self.base.grid[needed], size), target, "nearest")
        return coarse(*self.base.read_thinned(needed, size), Window(0, 0, *size), target.extent)


def _aligned(window: Window, side: int) -> Iterator[Window]:
    """A window cut at multiples of ``side``."""
    top, left = window.row_off // side * side, window.col_off // side * side
    for piece in tile(Window(top, left, window.row_stop - top, window.col_stop - left), side, side):
        part = piece.intersection(window)
        assert part is not None
        yield part


def nothing(shape: tuple[int, int], bands: int, dtype: str) -> tuple[Pixels, Owner]:
    """Pixels (y, x, band) that nobody has."""
    return np.zeros((*shape, bands), dtype), np.full(shape, NOBODY, np.int32)


def layers_on(anchor: Grid, lattices: Sequence[Lattice], resampling: Resampling) -> tuple[Grid, tuple[Layer, ...]]:
    """The least part of an anchor's lattice that holds all of these, and each of them on it.

    A lattice of which no pixel's centre lies under a file is left out. Raises InputError where that is all of them.
    """
    from tileseg.source.lattice import corner_of, place_on

    placed = [(lattice, place_on(anchor, lattice.grid)) for lattice in lattices]
    windows = [(b, w, False) for b, w in placed if w is not None]
    for base, beside in placed:
        if beside is None and (covers := Warp(base.grid, anchor, resampling).covers) is not None:
            windows.append((base, covers, True))
    if not windows:
        raise InputError(
            f"no pixel of {abs(anchor.transform.a):g} has its centre on a file: too small for such a --resolution"
        )
    top, left = (min(getattr(w, name) for _, w, _ in windows) for name in ("row_off", "col_off"))
    bottom, right = (max(getattr(w, name) for _, w, _ in windows) for name in ("row_stop", "col_stop"))
    corner = corner_of(anchor, [(base.grid, w) for base, w, warps in windows if not warps], top, left)
    grid = Grid(bottom - top, right - left, corner, anchor.crs_wkt)
    return grid, tuple(
        Layer(
            base,
            window.shift(-top, -left),
            Warp(base.grid, grid, resampling) if warps else None,
            alone=len(windows) == 1,
        )
        for base, window, warps in windows
    )
