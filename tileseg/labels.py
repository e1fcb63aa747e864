"""From logits to labels: which class a pixel gets, and how sure the network is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled

NODATA = 255
"""Label of pixels without data."""

CERTAIN = 65535
"""Confidence 1.0: probabilities are counted in units of 1/65535, so that sums do not depend on their order."""

BYTE_STEPS = 250
"""A probability of 1 as a byte: in rasters of bytes, probabilities are counted in units of 1/250, and 255 is nodata."""

SPREAD_STEP = 0.002
"""Disagreement of views is counted in bytes of this unit, up to BYTE_STEPS (0.5, the most that two classes have)."""

_ROWS = 64
"""Rows worked on at a time, so that the float32 copies stay in the processor's cache."""

Logits = npt.NDArray[np.float16]
Labels = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.uint16]


def probabilities(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.uint16]:
    """Softmax over classes of (class, y, x) logits, in units of 1/65535, same shape; 0 where they are NaN.

    ``temperature``: what logits are divided by before, see :class:`tileseg.card.Temperature`.
    """
    out = np.empty(logits.shape, np.uint16)
    for start in range(0, logits.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        odds, total = _odds(logits[:, rows], temperature)
        np.multiply(odds, CERTAIN / total, out=odds)
        out[:, rows] = np.rint(np.nan_to_num(odds, copy=False))
    return out


def decide(logits: Logits, valid: npt.NDArray[np.bool_], temperature: float = 1.0) -> tuple[Labels, Confidence]:
    """The most probable class of each pixel and its probability; NODATA and 0 where not ``valid``.

    ``logits`` (class, y, x); ties go to the lower id. The probability is the softmax of the logits as stored
    (float16), so that polygons made from a mosaic again have the same attributes. ``temperature`` divides logits before
    that, and changes no label.
    """
    shape = logits.shape[1:]
    labels, confidence = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
    for start in range(0, shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        part = logits[:, rows].astype(np.float32)
        if len(part) == 2:
            second = part[1] > part[0]
            gap = _cooled(np.abs(part[1] - part[0]), temperature)
            labels[rows] = second
            total = np.exp(-gap)
            total += 1
        else:
            best = part[0].copy()
            label = np.zeros(best.shape, np.uint8)
            for k in range(1, len(part)):
                better = part[k] > best
                label[better] = k
                np.maximum(best, part[k], out=best)
            labels[rows] = label
            total = np.zeros_like(best)
            for k in range(len(part)):
                gap = _cooled(np.subtract(part[k], best, out=part[k]), temperature)
                total += np.exp(gap, out=gap)
        np.divide(CERTAIN, total, out=total)
        with np.errstate(invalid="ignore"):  # NaN is where there is no data, and overwritten below
            confidence[rows] = np.rint(total, out=total)
    if not valid.all():
        labels[~valid] = NODATA
        confidence[~valid] = 0
    return labels, confidence


def decide_again(
    chances: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_], thresholds: Mapping[int, float]
) -> tuple[Labels, Confidence]:
    """Labels from probabilities (class, y, x; units of 1/65535) with thresholds of one's own.

    A class with a threshold is given where its probability reaches it (of several, the one furthest above its
    own); elsewhere the most probable of the classes without one. With thresholds for all classes, pixels that
    reach none are NODATA.
    """
    classes, *shape = chances.shape
    labels = np.full(shape, NODATA, np.uint8)
    confidence = np.zeros(shape, np.uint16)
    free = [k for k in range(classes) if k not in thresholds]
    for k in free:
        better = (labels == NODATA) | (chances[k] > confidence)
        labels[better] = k
        confidence[better] = chances[k][better]
    lead = np.full(shape, -1, np.int32)
    for k, threshold in sorted(thresholds.items()):
        above = chances[k].astype(np.int32) - int(np.ceil(threshold * CERTAIN))
        better = (above >= 0) & (above > lead)
        labels[better], lead[better] = k, above[better]
        confidence[better] = chances[k][better]
    labels[~valid] = NODATA
    confidence[~valid] = 0
    return labels, confidence


def as_bytes(chances: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Probabilities in units of 1/65535 as bytes in units of 1/250, rounded; NODATA where not ``valid``. Same shape."""
    return np.where(valid, _BYTES[chances], np.uint8(NODATA))


_BYTES = ((np.arange(CERTAIN + 1, dtype=np.uint32) * (2 * BYTE_STEPS) + CERTAIN) // (2 * CERTAIN)).astype(np.uint8)
"""The byte of each probability."""


def spread_bytes(spread: Logits, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Standard deviations of probabilities (y, x) in units of SPREAD_STEP; NODATA where not ``valid``.

    More than 0.5, which takes three views that are sure of three classes, counts as 0.5.
    """
    units = np.where(valid, spread, np.float16(0)).astype(np.float32)
    units *= np.float32(1 / SPREAD_STEP)
    np.minimum(np.rint(units, out=units), BYTE_STEPS, out=units)
    return np.where(valid, units.astype(np.uint8), np.uint8(NODATA))


def _cooled(gap: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """Differences of logits, divided in place: as they are at temperature 1, bit for bit."""
    return gap if temperature == 1 else np.divide(gap, np.float32(temperature), out=gap)


def _odds(logits: Logits, temperature: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    part = logits.astype(np.float32)
    part -= part.max(axis=0)
    _cooled(part, temperature)
    np.exp(part, out=part)
    return part, part.sum(axis=0)


@compiled
def count(labels: Labels, counts: npt.NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Add to ``counts`` (256,) how many pixels have each label."""
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            counts[labels[row, col]] += 1


@compiled
def halve(labels: Labels) -> Labels:  # pragma: no cover - compiled
    """The most frequent label of every 2 x 2 pixels, shape (ceil(h / 2), ceil(w / 2)).

    Ties go to the first of the four in reading order. At an odd edge the pixels that exist decide.
    """
    height, width = labels.shape
    out = np.empty(((height + 1) // 2, (width + 1) // 2), np.uint8)
    for row in range(out.shape[0]):
        below = min(2 * row + 1, height - 1)
        for col in range(out.shape[1]):
            right = min(2 * col + 1, width - 1)
            a, b = labels[2 * row, 2 * col], labels[2 * row, right]
            c, d = labels[below, 2 * col], labels[below, right]
            # With four votes, `a` loses only to a pair that it is no part of.
            if a in (b, c, d):
                out[row, col] = a
            elif b in (c, d):
                out[row, col] = b
            elif c == d:
                out[row, col] = c
            else:
                out[row, col] = a
    return out


@compiled
def halve_mean(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:  # pragma: no cover - compiled
    """The mean of every 2 x 2 bytes, of those that are not NODATA, halves up; shape (ceil(h / 2), ceil(w / 2)).

    NODATA where there are none. At an odd edge the pixels that exist count.
    """
    height, width = values.shape
    out = np.empty(((height + 1) // 2, (width + 1) // 2), np.uint8)
    for row in range(out.shape[0]):
        for col in range(out.shape[1]):
            total, amount = 0, 0
            for y in range(2 * row, min(2 * row + 2, height)):
                for x in range(2 * col, min(2 * col + 2, width)):
                    if values[y, x] != NODATA:
                        total += values[y, x]
                        amount += 1
            out[row, col] = (2 * total + amount) // (2 * amount) if amount else NODATA
    return out
