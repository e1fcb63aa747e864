"""The network run once over a whole scene: what every tiling is compared with.

Written without the code under test: dense float32 resampling matrices instead of polyphase filters, NumPy's
reflection instead of windowed reading, the uncropped graph instead of the cropped one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.cluster import hardware
from tileseg.tta import View

Array = npt.NDArray[np.float32]

PROMISE = 1e-5
"""How far a tiled result may be from the whole, in standard deviations of the logits."""

BIT_EQUAL = "avx512f" in hardware.cpu().flags
"""Whether this processor's kernels for float32 give the same bits for windows of any size, on any number of threads.

Those of AVX2 do not always.
"""


def resampling(scale: Fraction, size: int) -> Array:
    """(round(size * scale), size) triangle-filter weights on a half-pixel grid."""
    radius = max(1.0, float(1 / scale))
    centres = (np.arange(int(size * scale)) + 0.5) / float(scale) - 0.5
    weights = np.clip(1 - np.abs(np.arange(size) - centres[:, None]) / radius, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resample(values: Array, scale: Fraction) -> Array:
    """Resample (y, x, channel)."""
    if scale == 1:
        return values
    down, across = (resampling(scale, n) for n in values.shape[:2])
    return np.einsum("iy,jx,yxc->ijc", down, across, values, optimize=True)


def whole_scene_logits(
    model: Callable[[Array], npt.ArrayLike],
    card: ModelCard,
    scaling: Scaling,
    pixels: npt.NDArray[np.generic],
    views: tuple[View, ...],
) -> Array:
    """Mean logits (class, y, x) over views of (y, x, band) pixels, each view in one forward pass.

    ``model`` gives maps for whole images (n, y, x, band): a Keras model, or :meth:`Network.plain` of any engine.
    """
    height, width = pixels.shape[:2]
    step = card.stride * math.lcm(*(v.scale.denominator for v in views)) * math.lcm(*(v.scale.numerator for v in views))
    reach = math.ceil(max((card.radius + 3 * card.stride) / v.scale for v in views))
    pad = -(-reach // step) * step
    below, right = (-(-n // step) * step - n + pad for n in (height, width))
    plane = pixels.astype(np.float32)
    plane = np.pad(plane, ((pad, below), (pad, right), (0, 0)), mode="reflect") if min(height, width) > 1 else plane
    plane = (plane / np.float32(scaling.divisor) - np.float32(scaling.mean)) / np.float32(scaling.std)
    total = np.zeros((height, width, card.output_channels), np.float32)
    for view in views:
        seen = np.ascontiguousarray(resample(view.flip.forward(plane, (0, 1)), view.scale))
        logits = np.asarray(model(seen[None]))[0]
        back = view.flip.inverse(resample(logits, 1 / view.scale), (0, 1))
        total += back[pad : pad + height, pad : pad + width]
    return np.moveaxis(total / len(views), -1, 0)
