"""Bands that lie in several files, and bands of quality that hide pixels, as one source on one grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.reading import MaskRule
from tileseg.source.common_grid import has_resolution, same_words
from tileseg.source.lattice import NOBODY, Owner, common_dtype, lattice_of, place_on
from tileseg.source.layer import Layer, nothing
from tileseg.source.protocol import Joining, Mask, Pixels, PixelSource
from tileseg.source.warp import Warp
from tileseg.window import Window


@dataclass(frozen=True, eq=False)
class BandStack:
    """Files of one scene on the grid of one of them: a :class:`tileseg.source.protocol.PixelSource`.

    A pixel has data where all of its bands have, and no band of quality hides it.
    """

    path: str
    grid: Grid
    layers: tuple[Layer, ...]
    """Files of bands, in their order."""
    masks: tuple[tuple[MaskRule, Layer], ...]
    """Bands of quality, and what of them hides a pixel."""
    identity: str
    notes: tuple[str, ...]

    @property
    def storage(self) -> str:
        """The files, not the name."""
        return f"stack {self.identity}"

    @property
    def bands(self) -> tuple[int, ...]:
        """All, in their order."""
        return tuple(range(1, sum(layer.base.bands for layer in self.layers) + 1))

    @property
    def dtype(self) -> str:
        """A type that holds the values of all files."""
        return common_dtype(layer.base.dtype for layer in self.layers)

    @property
    def palette(self) -> bool:
        """Whether numbers of colours are read as red, green, blue."""
        return any(placed.source.palette for layer in self.layers for placed in layer.base.files)

    @property
    def has_gaps(self) -> bool:
        """Whether pixels without data may occur."""
        whole = all(layer.warp is None and layer.window == self.grid.extent for layer in self.layers)
        gaps = (placed.source.has_gaps for layer in self.layers for placed in layer.base.files)
        return bool(self.masks) or not whole or any(gaps)

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band) and valid (y, x)."""
        pixels, valid = self._stacked([_read(layer, window) for layer in self.layers])
        for rule, layer in self.masks:
            numbers, owner = _read(layer, window)
            valid &= (owner != NOBODY) & ~hidden(numbers[..., 0], rule)
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at; nothing is hidden."""
        return self._stacked([_read_thinned(layer, window, shape) for layer in self.layers])

    def _stacked(self, found: Sequence[tuple[Pixels, Owner]]) -> tuple[Pixels, Mask]:
        pixels = np.empty((*found[0][1].shape, len(self.bands)), self.dtype)
        valid, band = np.ones(pixels.shape[:2], bool), 0
        for values, owner in found:
            pixels[..., band : band + values.shape[2]] = values
            valid &= owner != NOBODY
            band += values.shape[2]
        return pixels, valid


def hidden(numbers: npt.NDArray[np.generic], rule: MaskRule) -> Mask:
    """Which pixels (y, x) a band of quality hides."""
    whole = numbers.astype(np.int64)
    return np.asarray(np.isin(whole, rule.values) | (whole & rule.bits != 0))


def stack(
    path: str, bands: Sequence[PixelSource], masks: Sequence[tuple[MaskRule, PixelSource]], joining: Joining
) -> BandStack:
    """Put the files of one scene together on the finest of their grids, or on that of the resolution that is asked for.

    Raises InputError where they do not say where they lie.
    """
    sources = [*bands, *(source for _, source in masks)]
    grids = same_words([source.grid for source in sources])
    homeless = [s for s, g in zip(sources, grids, strict=True) if (g.crs_wkt is None) != (grids[0].crs_wkt is None)]
    if homeless:
        raise InputError(
            f"{path}: {homeless[0].path} and {sources[0].path}: only one has a coordinate reference system"
        )
    own = grids[: len(bands)]
    usual = min(own, key=lambda grid: abs(grid.transform.determinant))
    if joining.resolution is not None:
        usual = next((grid for grid in own if has_resolution(grid, joining.resolution)), usual)
    layers = [
        _layer(source, grid, usual, "nearest" if i >= len(bands) else joining.resampling)
        for i, (source, grid) in enumerate(zip(sources, grids, strict=True))
    ]
    facts = [
        (
            usual.height,
            usual.width,
            tuple(usual.transform)[:6],
            usual.crs_wkt,
            joining.resampling,
            [r for r, _ in masks],
        ),
        [source.identity for source in sources],
    ]
    rules = tuple((rule, layer) for (rule, _), layer in zip(masks, layers[len(bands) :], strict=True))
    warped = [s.path for s, layer in zip(sources, layers, strict=True) if layer.warp is not None]
    notes = [note for source in bands for note in source.notes]
    if warped:
        notes.append(
            f"{len(warped)} of the {len(sources)} files of its bands are resampled onto pixels of "
            f"{abs(usual.transform.a):.6g} ({joining.resampling}; bands of quality: nearest)"
        )
    return BandStack(
        path, usual, tuple(layers[: len(bands)]), rules, hashlib.sha256(repr(facts).encode()).hexdigest(),
        tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _layer(source: PixelSource, grid: Grid, usual: Grid, resampling: str) -> Layer:
    """A file on a grid: as it is, or warped."""
    base = lattice_of(grid, [(source, grid, 0, grid.extent)])
    window = place_on(usual, grid)
    if window is not None:
        return Layer(base, window)
    warp = Warp(grid, usual, resampling)  # type: ignore[arg-type]
    return Layer(base, warp.covers or usual.extent, warp)


def _read(layer: Layer, window: Window) -> tuple[Pixels, Owner]:
    """A window of a file that may lie beside it: pixels (y, x, band) and owner (y, x)."""
    part = layer.window.intersection(window)
    if part == window:
        return layer.read(window)
    pixels, owner = nothing((window.height, window.width), layer.base.bands, layer.base.dtype)
    if part is not None:
        here = part.relative_to(window).slices
        pixels[here], owner[here] = layer.read(part)
    return pixels, owner


def _read_thinned(layer: Layer, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Owner]:
    if layer.window.intersection(window) == window:
        return layer.read_thinned(window, shape)
    pixels, owner = _read(layer, window)
    rows, cols = (np.arange(n) * size // n for n, size in zip(shape, owner.shape, strict=True))
    return pixels[rows][:, cols], owner[rows][:, cols]
