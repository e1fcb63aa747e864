"""The array library of engines that take and give NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.tta import Polyphase, polyphase

ROUNDED_OTHERWISE = 1.0
"""Deviations of the logits, by which rounding to the next of 256 steps here and there may change one."""


class _Ops:
    """NumPy under the names that :class:`tileseg.engine.protocol.Arrays` asks for."""

    clip, concatenate, flip, transpose = np.clip, np.concatenate, np.flip, np.transpose
    isfinite, log, maximum, minimum, sqrt, sum, where, zeros_like = (
        np.isfinite, np.log, np.maximum, np.minimum, np.sqrt, np.sum, np.where, np.zeros_like,
    )  # fmt: skip

    @staticmethod
    def cast(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is meant to
            return np.asarray(array).astype(dtype)

    @staticmethod
    def softmax(array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        odds: npt.NDArray[Any] = np.exp(array - array.max(axis=axis, keepdims=True))
        return np.asarray(odds / odds.sum(axis=axis, keepdims=True))


class HostArrays:
    """NumPy, in the host's memory (see :class:`tileseg.engine.protocol.Arrays`)."""

    ops: Any = _Ops

    def compile(self, function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:
        """The function itself."""
        del fused
        return function

    def resample(self, images: npt.NDArray[Any], scale: Fraction) -> npt.NDArray[Any]:
        """Resample by sums of strided slices: elementwise, so every pixel has the same sum in the same order."""
        if scale == 1:
            return images
        filters = polyphase(scale)
        return _along(_along(images, 1, filters), 2, filters)

    def to_numpy(self, array: Any) -> npt.NDArray[Any]:
        """The array itself."""
        return np.asarray(array)


def _along(images: npt.NDArray[Any], axis: int, filters: Polyphase) -> npt.NDArray[Any]:
    """Resample one axis of (n, rows, columns, channels)."""
    p, q = filters.p, filters.q
    periods = images.shape[axis] // q
    sides = [(filters.before, filters.after) if i == axis else (0, 0) for i in range(images.ndim)]
    source = np.moveaxis(np.pad(images, sides, mode="edge"), axis, 0)
    made = np.empty((periods, p, *source.shape[1:]), np.float32)
    for phase, weights in enumerate(filters.weights.astype(np.float32)):
        total = np.zeros((periods, *source.shape[1:]), np.float32)
        for tap, weight in enumerate(weights):
            if weight:
                total += weight * source[tap : tap + (periods - 1) * q + 1 : q]
        made[:, phase] = total
    return np.moveaxis(made.reshape(periods * p, *source.shape[1:]), 0, axis)
