"""A scene as a small picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tileseg.errors import UsageError
from tileseg.source.protocol import PixelSource
from tileseg.window import Window


def overview_rgb(scene: PixelSource, max_size: int, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """A window of the scene, or all of it, (y, x, 3), at most ``max_size`` pixels wide and high, to look at.

    The first three bands, or the first one as grey. 8-bit values as they are; others stretched from their 2nd to
    their 98th percentile. Pixels without data are light grey. Raises UsageError where the window is not inside the
    scene, InputError where the file cannot be read.
    """
    window = window or scene.grid.extent
    if scene.grid.extent.intersection(window) != window:
        raise UsageError(f"{window} is not inside the scene of {scene.grid.height} x {scene.grid.width} pixels")
    height, width = window.height, window.width
    longest = max(height, width)
    # Every n-th pixel, about twice as many as wanted, then averaged: GDAL's own averaging is five times slower.
    sampled = _scaled(height, width, min(1.0, 2 * max_size / longest))
    pixels, valid = scene.read_thinned(window, sampled)
    shown = pixels[..., [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]]
    picture = shown if shown.dtype == np.uint8 else np.zeros(shown.shape, np.uint8)
    for band in range(3 if shown.dtype != np.uint8 and valid.any() else 0):
        values = shown[..., band].astype(np.float32)
        low, high = np.percentile(values[valid], [2, 98])
        scaled = (np.where(valid, values, low) - low) * (255 / max(float(high - low), 1e-12))
        picture[..., band] = np.clip(scaled, 0, 255)
    picture[~valid] = 224
    rows, cols = _scaled(height, width, min(1.0, max_size / longest))
    if (rows, cols) == sampled:
        return np.asarray(picture, np.uint8)
    from PIL import Image

    return np.asarray(Image.fromarray(np.asarray(picture, np.uint8)).resize((cols, rows), Image.Resampling.BOX))


def _scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    return max(1, round(height * factor)), max(1, round(width * factor))
