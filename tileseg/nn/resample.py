"""Polyphase resampling on the device: a pixel has one value, whichever window it was computed in."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tileseg.nn.backend import keras
from tileseg.tta import polyphase


def resample(images: Any, scale: Fraction) -> Any:
    """Resample by the exact fraction ``scale`` = p/q with the filters of :func:`tileseg.tta.polyphase`.

    The sums run over the same taps in the same order at every position, so that windows of an image equal the same
    windows of the whole. Taps beyond the image's ends take its outermost pixel: crop what they touched.

    Args:
        images: Float tensor (n, rows, columns, channels); rows and columns are multiples of q.
        scale: p/q.

    Returns:
        Tensor (n, rows p/q, columns p/q, channels).
    """
    if scale == 1:
        return images
    return _along(_along(images, scale, 1), scale, 2)


def _along(images: Any, scale: Fraction, axis: int) -> Any:
    """Resample one axis: every phase is a weighted sum of strided slices."""
    ops = keras.ops
    filters = polyphase(scale)
    p, q, size = filters.p, filters.q, images.shape[axis]
    periods = size // q
    taps = filters.weights.shape[1]
    after = max(0, filters.first + taps - 1 + q * (periods - 1) - (size - 1))
    padded = _extend(images, axis, filters.before, after)

    def tap(k: int) -> Any:
        part = [slice(None)] * 4
        part[axis] = slice(k, k + q * (periods - 1) + 1, q)
        return padded[tuple(part)]

    phases = []
    for row in filters.weights:
        terms = [tap(k) * float(weight) for k, weight in enumerate(row) if weight]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        phases.append(total)
    if p == 1:
        return phases[0]
    shape = list(images.shape)
    shape[axis] = periods * p
    return ops.reshape(ops.stack(phases, axis=axis + 1), shape)


def _extend(images: Any, axis: int, before: int, after: int) -> Any:
    """Repeat the outermost pixels."""
    size = images.shape[axis]

    def edge(index: int, count: int) -> list[Any]:
        part = [slice(None)] * 4
        part[axis] = slice(index, index + 1)
        return [images[tuple(part)]] * count

    if not before and not after:
        return images
    return keras.ops.concatenate([*edge(0, before), images, *edge(size - 1, after)], axis=axis)
