"""Polyphase resampling on the device: a pixel has one value, whichever window it was computed in."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.nn.backend import keras
from tileseg.tta import Polyphase, polyphase


def resample(images: Any, scale: Fraction) -> Any:
    """Resample by the exact fraction ``scale`` = p/q with the filters of :func:`tileseg.tta.polyphase`.

    Rows first, then columns: for each a strided convolution computes all p phases of a period as channels, which are
    then laid out in space (along columns they lie so already): at every position the same sum in the same order, so
    that windows of an image equal the same windows of the whole, bit by bit. (Sums of strided slices, fused by XLA, are
    as quick but differ in the last bit between window sizes.)
    Taps beyond the image's ends take its outermost pixel: crop what they touched.

    Args:
        images: Float tensor (n, rows, columns, channels) of known shape; rows and columns are multiples of q.
        scale: p/q.

    Returns:
        Tensor (n, rows p/q, columns p/q, channels).
    """
    if scale == 1:
        return images
    filters = polyphase(scale)
    p, q = filters.p, filters.q
    count, rows, cols, channels = images.shape
    kernel = _kernel(filters, channels)
    images = keras.ops.conv(_extend(images, 1, filters), kernel[:, None], strides=(q, 1), padding="valid")
    if p > 1:
        apart = keras.ops.reshape(images, (count, rows // q, cols, p, channels))
        images = keras.ops.reshape(keras.ops.transpose(apart, (0, 1, 3, 2, 4)), (count, rows // q * p, cols, channels))
    images = keras.ops.conv(_extend(images, 2, filters), kernel[None], strides=(1, q), padding="valid")
    return keras.ops.reshape(images, (count, rows // q * p, cols // q * p, channels))


def _kernel(filters: Polyphase, channels: int) -> npt.NDArray[np.float32]:
    """(taps, channels, p channels): every phase of every channel reads its own channel alone."""
    p, taps = filters.weights.shape
    kernel: npt.NDArray[np.float64] = np.einsum("rt,ab->tarb", filters.weights, np.eye(channels))
    return kernel.reshape(taps, channels, p * channels).astype(np.float32)


def _extend(images: Any, axis: int, filters: Polyphase) -> Any:
    """Repeat the outermost pixels as far as the first and last period's taps reach."""
    before, after = filters.before, filters.after

    def edge(start: int, count: int) -> list[Any]:
        part = [slice(None)] * 4
        part[axis] = slice(start, start + 1)
        return [images[tuple(part)]] * count

    if not before and not after:
        return images
    return keras.ops.concatenate([*edge(0, before), images, *edge(images.shape[axis] - 1, after)], axis=axis)
