"""Bring a window from one pixel size to another: images by a triangle filter, labels by majority.

The image filter is that of :func:`tileseg.tta.polyphase`, so that a network is trained on what `tileseg run` shows it;
here any ratio is allowed, because training needs no exact seams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled, compiled_with_fma, inlined
from tileseg.window import Window

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a resampling: ``size`` source pixels become ``round(size * scale)``, at least one."""

    size: int
    """Source pixels."""
    scale: float
    """Target pixels per source pixel."""

    @property
    def count(self) -> int:
        """Target pixels."""
        return max(1, round(self.size * self.scale))

    @property
    def radius(self) -> float:
        """Radius of the triangle, in source pixels."""
        return max(1.0, 1 / self.scale)

    def source(self, start: int, stop: int) -> tuple[int, int]:
        """First and one past the last source pixel that the filter of target pixels needs."""
        first = math.floor((start + 0.5) / self.scale - 0.5 - self.radius) + 1
        last = math.ceil((stop - 0.5) / self.scale - 0.5 + self.radius)
        first = min(max(first, 0), self.size - 1)
        return first, max(min(last, self.size), first + 1)


@lru_cache(maxsize=4096)
def _weights(axis: Axis, start: int, stop: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each target pixel its first source pixel, counted from that of the window, and its taps; rows sum to 1."""
    first, last = axis.source(start, stop)
    centres = (np.arange(start, stop) + 0.5) / axis.scale - 0.5
    taps = math.floor(2 * axis.radius) + 1
    begin = np.clip(np.floor(centres - axis.radius).astype(np.int64) + 1, first, max(first, last - taps))
    positions = begin[:, None] + np.arange(min(taps, last - first))
    weights = np.clip(1 - np.abs(positions - centres[:, None]) / axis.radius, 0, None)
    # Past the scene's last pixel no tap may be left: that target pixel lies half outside.
    alone = weights.sum(axis=1) <= 0
    weights[alone] = positions[alone] == np.clip(np.rint(centres[alone]), first, last - 1)[:, None]
    return begin - first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Rescale:
    """From a scene's own pixels to those of the target ground sample distance."""

    rows: Axis
    cols: Axis

    @property
    def identity(self) -> bool:
        """Whether nothing changes."""
        return self.rows.scale == 1 and self.cols.scale == 1

    def source(self, window: Window) -> Window:
        """The scene's pixels that a window of the target needs."""
        top, bottom = self.rows.source(window.row_off, window.row_stop)
        left, right = self.cols.source(window.col_off, window.col_stop)
        return Window(top, left, bottom - top, right - left)

    def image(self, pixels: Pixels, valid: Mask, window: Window) -> tuple[Pixels, Mask]:
        """Resample ``source(window)``: pixels (y, x, band) of the same type, valid (y, x).

        Pixels without data have no weight; a target pixel has data where they are less than half of it.
        """
        down = _weights(self.rows, window.row_off, window.row_stop)
        across = _weights(self.cols, window.col_off, window.col_stop)
        if valid.all():
            return _cast(_resample(pixels, *down, *across), pixels.dtype), np.ones((window.height, window.width), bool)
        there = _resample(valid[..., None].astype(np.uint8), *down, *across)
        known = pixels.astype(np.float32)
        known[~valid] = 0
        mean = np.asarray(_resample(known, *down, *across) / np.maximum(there, 1e-6), np.float32)
        data = there[..., 0] >= 0.5
        return _cast(mean, pixels.dtype), data

    def labels(self, labels: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[np.uint8]:
        """The most frequent label among the pixels of ``source(window)`` in each target pixel.

        Ties go to the label at its centre. Enlarging takes the nearest.
        """
        origin = self.source(window)
        rows, cols = (
            _cover(self.rows, window.row_off, window.row_stop),
            _cover(self.cols, window.col_off, window.col_stop),
        )
        return _majority(labels, rows - origin.row_off, cols - origin.col_off)


def _cover(axis: Axis, start: int, stop: int) -> npt.NDArray[np.int64]:
    """(target pixels, 3): first and one past the last source pixel with its centre inside, and the middle one."""
    edges = np.arange(start, stop + 1) / axis.scale
    first = np.ceil(edges[:-1] - 0.5).astype(np.int64)
    last = np.ceil(edges[1:] - 0.5).astype(np.int64)
    centre = np.clip(np.floor((edges[:-1] + edges[1:]) / 2).astype(np.int64), 0, axis.size - 1)
    first, last = np.clip(first, 0, axis.size), np.clip(last, 0, axis.size)
    empty = first >= last
    first, last = np.where(empty, centre, first), np.where(empty, centre + 1, last)
    return np.stack([first, last, centre], axis=1)


def _cast(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    # A weighted mean lies within the values' range, so rounding cannot leave the type's.
    return np.rint(values, out=values).astype(dtype)


def _resample(
    pixels: Pixels, top: npt.NDArray[np.int64], down: Floats, left: npt.NDArray[np.int64], across: Floats
) -> Floats:
    """(y, x, band) by (first source row, taps) per target row, and the same per target column."""
    height, width, bands = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(height, width * bands)
    return np.asarray(_filter(flat, bands, top, down, left, across), np.float32)


@compiled_with_fma
def _filter(
    pixels: Pixels, bands: int, top: npt.NDArray[np.int64], down: Floats, left: npt.NDArray[np.int64], across: Floats
) -> Floats:  # pragma: no cover - compiled
    """Down first, each target row a sum of whole source rows (one long loop), then across."""
    length = pixels.shape[1]
    out = np.empty((len(top), len(left), bands), np.float32)
    line = np.empty(length, np.float32)
    for i in range(len(top)):
        line[:] = 0
        for k in range(down.shape[1]):
            weight = down[i, k]
            if weight != 0:
                source = pixels[top[i] + k]
                for x in range(length):
                    line[x] += weight * np.float32(source[x])
        for j in range(len(left)):
            start = left[j] * bands
            for band in range(bands):
                total = np.float32(0)
                for k in range(across.shape[1]):
                    total += across[j, k] * line[start + k * bands + band]
                out[i, j, band] = total
    return out


@compiled
def _majority(
    labels: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:  # pragma: no cover - compiled
    out = np.empty((len(rows), len(cols)), np.uint8)
    counts = np.zeros(256, np.int32)
    for i in range(len(rows)):
        top, bottom, middle = rows[i]
        for j in range(len(cols)):
            left, right, centre = cols[j]
            out[i, j] = _most(labels[top:bottom, left:right], labels[middle, centre], counts)
    return out


@inlined
def _most(
    part: npt.NDArray[np.uint8], centre: int, counts: npt.NDArray[np.int32]
) -> int:  # pragma: no cover - compiled
    """The most frequent label; ``counts`` (256,) is zero before and after."""
    mixed = False
    for y in range(part.shape[0]):
        for x in range(part.shape[1]):
            mixed |= part[y, x] != centre
    best = centre
    if mixed:  # most pixels lie inside one class: then there is nothing to count
        for label in part.flat:
            counts[label] += 1
        for label in part.flat:
            if counts[label] > counts[best]:
                best = int(label)
        for label in part.flat:
            counts[label] = 0
    return best
