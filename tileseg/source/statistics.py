"""Mean and deviation of a scene's bands, and the scaling that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.hounsfield import ValueWindow
from tileseg.source.protocol import PixelSource
from tileseg.window import Window

_SAMPLE_WINDOW, _SAMPLE_WINDOWS = 128, 256


def scaling_for(card: ModelCard, scene: PixelSource, window: ValueWindow | None = None) -> Scaling:
    """The card's scaling, or that by the scene's own mean and deviation.

    That is where the card wants them, or the pixels have another type than the model was trained on. ``window``: the
    values that the user wants to be told apart.
    """
    own = card.scaling.kind == "scene"
    if window is not None:
        found = statistics(scene, window.limits) if own else None
        return _windowed(card, window, found)
    if not own and card.takes(scene.dtype):
        return card.scaling
    found = statistics(scene)
    return Scaling(mean=tuple(map(float, found[0])), std=tuple(map(float, found[1])))


def _windowed(
    card: ModelCard, window: ValueWindow, found: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None
) -> Scaling:
    """The card's scaling behind a window; ``found``: mean and deviation of the clipped values, if they decide.

    A model of windows takes this one in place of its own; a model of 8-bit pictures sees what a screen would show, from
    black to white; to one of other values they are clipped.
    """
    own, (low, high) = card.scaling, window.limits
    if found is not None:
        zero, unit = tuple(map(float, found[0])), tuple(map(float, found[1]))
    elif own.kind == "window":
        zero, unit = (
            tuple(low + mean * (high - low) for mean in own.mean),
            tuple(std * (high - low) for std in own.std),
        )
    elif "uint8" in card.dtypes:
        scale = (high - low) / 255
        zero, unit = tuple(low + value * scale for value in own.zero), tuple(value * scale for value in own.unit)
    else:
        zero, unit = own.zero, own.unit
    return Scaling(
        kind="window",
        center=window.center,
        width=window.width,
        mean=tuple((value - low) / (high - low) for value in zero),
        std=tuple(value / (high - low) for value in unit),
    )


def statistics(
    scene: PixelSource, limits: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of every band over valid pixels, whose values are clipped to ``limits``.

    Scenes of up to 4 megapixels are read whole; larger ones in 256 windows of 128 x 128 at full resolution, evenly
    spread (overviews are averaged, so their deviation is too small), and in more if those have no valid pixel. A
    constant band has the deviation 1. Raises InputError if there is no valid pixel.
    """
    rows, cols = -(-scene.grid.height // _SAMPLE_WINDOW), -(-scene.grid.width // _SAMPLE_WINDOW)
    across = min(cols, math.isqrt(_SAMPLE_WINDOWS))
    down = min(rows, _SAMPLE_WINDOWS // across)
    across = min(cols, _SAMPLE_WINDOWS // down)
    steps = -(-rows // down), -(-cols // across)
    while True:
        count, total, squares = 0, np.zeros(len(scene.bands)), np.zeros(len(scene.bands))
        for window in _spread(scene.grid, *steps):
            pixels, valid = scene.read(window)
            values = (pixels.reshape(-1, len(scene.bands)) if valid.all() else pixels[valid]).astype(np.float64)
            values = np.clip(values, *limits)
            count += len(values)
            total += values.sum(axis=0)
            squares += np.einsum("ij,ij->j", values, values)
        if count:
            mean = total / count
            deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
            return mean, np.where(deviation > 1e-9 * np.maximum(1, np.abs(mean)), deviation, 1.0)
        if steps == (1, 1):
            raise InputError(f"{scene.path}: has no valid pixel (all are nodata, masked or not finite)")
        steps = max(1, steps[0] // 2), max(1, steps[1] // 2)


def _spread(grid: Grid, down: int, across: int) -> Iterator[Window]:
    """The windows in every ``down``-th row and ``across``-th column of those that cover a grid."""
    size = _SAMPLE_WINDOW
    for row in range(down // 2 * size, grid.height, down * size):
        for col in range(across // 2 * size, grid.width, across * size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))
