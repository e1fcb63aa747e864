"""Distortions of images and labels on the device, from numbers drawn beforehand (``augment.py``), by Keras' operations.

What a spec leaves out is not computed; what it has passes through exactly where the drawn number says "not at all".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tileseg.labels import NODATA
from tileseg.nn.backend import keras
from tileseg.train.augment_spec import AugmentSpec
from tileseg.train.draw import Draws, spline

ops = keras.ops


def move(spec: AugmentSpec, images: Any, labels: Any, drawn: Draws, size: tuple[int, int]) -> tuple[Any, Any]:
    """Geometry: images bilinear, with mirrors at the edges; labels nearest, unknown beyond the edges.

    (n, y, x, band) float32 and (n, y, x) uint8 to the same with ``size`` rows and columns.
    """
    height, width = size
    _, rows, cols, _ = images.shape
    if not spec.moves:
        top, left = (rows - height) // 2, (cols - width) // 2
        inner = np.s_[:, top : top + height, left : left + width]
        return images[inner], labels[inner]
    from_middle = [np.arange(length, dtype=np.float32) - (length - 1) / 2 for length in size]
    y, x = from_middle[0][None, :, None], from_middle[1][None, None, :]
    place = [
        drawn.turning[:, i, 0, None, None] * y
        + drawn.turning[:, i, 1, None, None] * x
        + drawn.shift[:, i, None, None]
        + (length - 1) / 2
        for i, length in enumerate((rows, cols))
    ]
    if spec.elastic:
        field = ops.einsum("yi,nijk,xj->nyxk", spline(height), drawn.elastic, spline(width))
        place = [place[i] + field[..., i] for i in (0, 1)]
    taps = [_taps(_mirrored(p, length), length) for p, length in zip(place, (rows, cols), strict=True)]
    moved = _bilinear(images, *taps)
    nearest = [ops.cast(ops.floor(p + 0.5), "int32") for p in place]
    inside = (nearest[0] >= 0) & (nearest[0] < rows) & (nearest[1] >= 0) & (nearest[1] < cols)
    index = ops.clip(nearest[0], 0, rows - 1) * cols + ops.clip(nearest[1], 0, cols - 1)
    known = ops.reshape(_picked(labels[..., None], index), inside.shape)
    return moved, ops.where(inside, known, ops.cast(NODATA, known.dtype))


def light(spec: AugmentSpec, images: Any, drawn: Draws) -> Any:
    """Colour, brightness, contrast, gamma and haze of (n, y, x, band), pixel by pixel."""
    limits = _limits(images)
    if images.shape[-1] == 3 and (spec.saturation or spec.hue or spec.grey):
        images = _colored(images, drawn.color)
    if spec.brightness or spec.contrast:
        mean = ops.mean(images, axis=(1, 2), keepdims=True)
        images = (images - mean) * _each(drawn.contrast) + mean + _each(drawn.brightness)
    if spec.gamma:
        images = ops.sign(images) * ops.abs(images) ** _each(drawn.gamma)
    if spec.haze:
        _, height, width, _ = images.shape
        thickness = ops.einsum("yi,nij,xj->nyx", spline(height), drawn.haze, spline(width))[..., None]
        images = images + (drawn.veil[:, None, None, :] - images) * thickness
    return ops.clip(images, *limits)


def blur(images: Any, drawn: Draws) -> Any:
    """Blur (n, y, x, band) down, then across, with mirrors at the edges."""
    taps = drawn.kernel.shape[1]
    reach = taps // 2
    for axis in (1, 2):
        size = images.shape[axis]
        first, last = (ops.flip(_run(images, axis, at, reach), axis=axis) for at in (0, size - reach))
        wide = ops.concatenate([first, images, last], axis=axis)
        images = sum(_each(drawn.kernel[:, k]) * _run(wide, axis, k, size) for k in range(taps))
    return images


def sense(spec: AugmentSpec, images: Any, drawn: Draws) -> Any:
    """Coarse pixels and noise, as of a lesser camera."""
    if spec.resolution:
        images = _coarse(images, drawn.step, drawn.origin)
    if spec.noise:
        limits = _limits(images)
        images = ops.clip(images + _noise(images.shape, drawn.key) * _each(drawn.noise), *limits)
    return images


def mix(images: Any, labels: Any, drawn: Draws) -> tuple[Any, Any]:
    """CutMix: a rectangle of the partner shows in each image, and its labels with it."""
    _, height, width, _ = images.shape
    y, x = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    top, bottom, left, right = (drawn.cut[:, k, None, None] for k in range(4))
    other = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return (
        ops.where(other[..., None], ops.take(images, drawn.partner, axis=0), images),
        ops.where(other, ops.take(labels, drawn.partner, axis=0), labels),
    )


def _limits(images: Any) -> tuple[Any, Any]:
    """0 and 1, or each image's own least and greatest value where those lie beyond, as 16-bit or signed ones may."""
    over = (1, 2, 3)
    least, greatest = ops.min(images, axis=over, keepdims=True), ops.max(images, axis=over, keepdims=True)
    return ops.minimum(least, 0.0), ops.maximum(greatest, 1.0)


def _each(values: Any) -> Any:
    """One value per image, against (n, y, x, band)."""
    return values[:, None, None, None]


def _mirrored(place: Any, size: int) -> Any:
    """Coordinates folded back at the outer edges of the first and last pixel: ... 1 0 | 0 1 2 | 2 1 ..."""
    folded = ops.mod(place + 0.5, 2.0 * size)
    return ops.clip(ops.minimum(folded, 2 * size - folded) - 0.5, 0, size - 1)


def _taps(place: Any, size: int) -> tuple[Any, Any, Any]:
    """The pixels on either side and the share of the second."""
    low = ops.floor(place)
    first = ops.cast(low, "int32")
    return first, ops.minimum(first + 1, size - 1), place - low


def _bilinear(images: Any, down: tuple[Any, Any, Any], across: tuple[Any, Any, Any]) -> Any:
    """Mix four neighbours; rows, columns and shares are (n, y, x), or 1 long where they do not vary."""
    (y0, y1, v), (x0, x1, u) = down, across
    cols = images.shape[2]
    v, u = v[..., None], u[..., None]
    upper = _picked(images, y0 * cols + x0) * (1 - u) + _picked(images, y0 * cols + x1) * u
    lower = _picked(images, y1 * cols + x0) * (1 - u) + _picked(images, y1 * cols + x1) * u
    return upper * (1 - v) + lower * v


def _picked(images: Any, index: Any) -> Any:
    """Pixels of (n, y, x, band) by their (n, ...) places in each image, row after row."""
    count, rows, cols, bands = images.shape
    start = (np.arange(count) * rows * cols).astype(np.int32)[:, None, None]
    return ops.take(ops.reshape(images, (count * rows * cols, bands)), start + index, axis=0)


def _run(images: Any, axis: int, start: int, length: int) -> Any:
    """``length`` rows (axis 1) or columns (axis 2) from ``start`` on."""
    return images[:, start : start + length] if axis == 1 else images[:, :, start : start + length]


def _colored(images: Any, color: Any) -> Any:
    bands = [images[..., k, None] for k in range(3)]
    return ops.concatenate([sum(_each(color[:, i, k]) * bands[k] for k in range(3)) for i in range(3)], axis=-1)


def _coarse(images: Any, step: Any, origin: Any) -> Any:
    """Keep only the pixels nearest to a lattice's points, and go straight from one to the next."""
    taps = []
    for axis, size in enumerate(images.shape[1:3]):
        start, by = origin[:, axis, None], step[:, None]
        place = (np.arange(size, dtype=np.float32)[None] - start) / by
        low = ops.floor(place)
        ends = [ops.cast(ops.clip(ops.floor((low + k) * by + start + 0.5), 0, size - 1), "int32") for k in (0, 1)]
        shape = (-1, size, 1) if axis == 0 else (-1, 1, size)
        taps.append(tuple(ops.reshape(part, shape) for part in (*ends, place - low)))
    return _bilinear(images, *taps)


def _noise(shape: tuple[int, ...], key: Any) -> Any:
    """Noise of mean 0 and deviation 1 that is the same on every backend: a hash of each value's place.

    The four bytes of a well mixed number (the last steps of MurmurHash3) are drawn evenly; their sum is close to a
    normal distribution, cut off at 3.4 deviations. Keras' own generators take no seed that varies from call to call
    of a compiled function.
    """
    rest = shape[1:]
    z = ops.reshape(ops.arange(math.prod(rest), dtype="int32"), (1, *rest)) * _signed(0x9E3779B1) + _each(key)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z = ops.bitwise_xor(z, _shifted(z, shift)) * _signed(factor)
    z = ops.bitwise_xor(z, _shifted(z, 16))
    total = sum(ops.bitwise_and(_shifted(z, shift), 255) for shift in (0, 8, 16, 24))
    return (ops.cast(total, "float32") - 510.0) / math.sqrt(4 * (256**2 - 1) / 12)


def _signed(value: int) -> Any:
    """32 bits as the int32 that has them: products wrap around alike."""
    return np.uint32(value).astype(np.int32)


def _shifted(z: Any, by: int) -> Any:
    """To the right, with zeros coming in."""
    return z if by == 0 else ops.bitwise_and(ops.right_shift(z, by), (1 << (32 - by)) - 1)
