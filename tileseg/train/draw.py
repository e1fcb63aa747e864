"""The random numbers of augmentation, drawn for one batch from the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tileseg.train.augment_spec import AugmentSpec

Floats = npt.NDArray[np.float32]

_SPACING = 64
"""Pixels between the control points of smooth fields (elastic displacement, thickness of haze)."""

_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Grey and two differences from it, of red, green and blue (ITU-R BT.601): turning the differences turns the hue."""


class Draws(NamedTuple):
    """The random numbers of one batch of n images: float32 unless said. A tuple, for a compiled function to take."""

    turning: Any
    """(n, 2, 2): from (y, x) in the result to (y, x) in the source, in pixels from either centre."""
    shift: Any
    """(n, 2): pixels added to that."""
    elastic: Any
    """(n, control points down, across, 2): pixels added to that."""
    color: Any
    """(n, 3, 3): red, green and blue of the result (rows) from those of the source."""
    brightness: Any
    """(n,): added."""
    contrast: Any
    """(n,): factor of differences from the mean."""
    gamma: Any
    """(n,): exponent."""
    veil: Any
    """(n, bands): colour of the haze."""
    haze: Any
    """(n, control points down, across): its thickness, 0 to 1."""
    kernel: Any
    """(n, taps): blur along either axis; sums to 1."""
    step: Any
    """(n,): pixels between points of the coarse lattice, 1 or more."""
    origin: Any
    """(n, 2): row and column of its first point."""
    noise: Any
    """(n,): standard deviation."""
    key: Any
    """(n,) int32: which noise."""
    cut: Any
    """(n, 4) int32: first row, row after the last, first column, column after the last of the partner's rectangle."""
    partner: Any
    """(n,) int32: the image that it is taken from."""


def draw(spec: AugmentSpec, seed: int, step: int, shape: tuple[int, int, int, int]) -> Draws:
    """Draw the numbers for one batch of (n, y, x, band) results.

    Every option has a generator of its own, so that changing one leaves the others' numbers as they were.
    """
    count, height, width, bands = shape

    def random(option: str) -> np.random.Generator:
        return np.random.default_rng([seed, step, *option.encode()])

    def either(option: str, *more: int) -> Any:
        """Evenly between -strength and strength."""
        return random(option).uniform(-1, 1, (count, *more)) * getattr(spec, option)

    def half(option: str) -> Any:
        """0 for half of the images, evenly up to the strength for the others."""
        return np.maximum(random(option).uniform(-1, 1, count), 0) * getattr(spec, option)

    coarse = 1 + half("resolution")
    steps = coarse[:, None]
    drawn = Draws(
        turning=_turnings(spec, random, either, (count, height, width)),
        shift=either("shift", 2) * (height, width),
        elastic=random("elastic").normal(0, spec.elastic, (count, *_controls(height, width), 2)),
        color=_colors(spec, random, either, count),
        brightness=either("brightness"),
        contrast=1 + either("contrast"),
        gamma=(1 + spec.gamma) ** random("gamma").uniform(-1, 1, count),
        veil=_veils(random("veil"), count, bands),
        haze=half("haze")[:, None, None] * random("veil thickness").uniform(0.3, 1, (count, *_controls(height, width))),
        # A lattice point stands for the pixels around it: 0.4 steps is between a box's and a triangle's deviation.
        kernel=_kernels(spec, np.sqrt(half("blur") ** 2 + 0.16 * (coarse**2 - 1))),
        step=coarse,
        origin=random("origin").uniform(0, 1, (count, 2)) * (steps - 1),
        noise=half("noise"),
        key=random("key").integers(-(2**31), 2**31, count),
        cut=_cuts(spec, random("cutmix"), (count, height, width)),
        partner=(np.arange(count) + random("partner").integers(1, max(count, 2), count)) % count,
    )
    whole = {"key", "cut", "partner"}
    return Draws(*(a.astype(np.int32 if name in whole else np.float32) for name, a in drawn._asdict().items()))


def spline(size: int) -> Floats:
    """(size, control points): the cubic B-spline through a smooth field's control points, for every pixel's centre."""
    place = (np.arange(size) + 0.5) / _SPACING
    first = place.astype(int)
    t = (place - first)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    made = np.zeros((size, int(first[-1]) + 4), np.float32)
    for tap in range(4):
        made[np.arange(size), first + tap] = weights[:, tap]
    return made


def _controls(height: int, width: int) -> tuple[int, int]:
    return (height - 1) // _SPACING + 4, (width - 1) // _SPACING + 4


Random = Callable[[str], np.random.Generator]

Either = Callable[..., Any]


def _turnings(
    spec: AugmentSpec, random: Random, either: Either, shape: tuple[int, int, int]
) -> npt.NDArray[np.float64]:
    """Flips and turns are whole numbers, so that alone they move pixels exactly."""
    count, height, width = shape
    signs = 1 - 2 * random("flips").integers(0, 2, (count, 2)) * spec.flips
    quarters = random("turns").integers(0, 4, count) * spec.turns
    if height != width:
        quarters -= quarters % 2
    exact = _rotations(np.array([1, 0, -1, 0])[quarters], np.array([0, 1, 0, -1])[quarters])
    angle = np.radians(either("rotation"))
    zoom = (1 + spec.scale) ** -random("scale").uniform(-1, 1, count)
    free = zoom[:, None, None] * _rotations(np.cos(angle), np.sin(angle))
    made: npt.NDArray[np.float64] = (exact * signs[:, None, :]) @ free
    return made


def _rotations(cos: npt.NDArray[Any], sin: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _colors(spec: AugmentSpec, random: Random, either: Either, count: int) -> npt.NDArray[np.float64]:
    """Differences from grey, made larger or smaller, turned, or dropped."""
    factor = (1 + either("saturation")) * (random("grey").uniform(0, 1, count) >= spec.grey)
    angle = 2 * math.pi * either("hue")
    inner = np.zeros((count, 3, 3))
    inner[:, 0, 0] = 1
    inner[:, 1:, 1:] = factor[:, None, None] * _rotations(np.cos(angle), np.sin(angle))
    made: npt.NDArray[np.float64] = np.linalg.inv(_YIQ) @ inner @ _YIQ
    return made


def _veils(random: np.random.Generator, count: int, bands: int) -> npt.NDArray[np.float64]:
    """Bright, and a little bluish, reddish, ..."""
    return np.clip(random.uniform(0.65, 1, (count, 1)) + random.normal(0, 0.04, (count, bands)), 0, 1)


def _kernels(spec: AugmentSpec, deviation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussians, as wide as the strongest one needs; a single 1 where the deviation is 0."""
    reach = math.ceil(2.5 * math.sqrt(spec.blur**2 + 0.16 * ((1 + spec.resolution) ** 2 - 1)))
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / np.maximum(deviation, 1e-3)[:, None]) ** 2)
    made: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return made


def _cuts(spec: AugmentSpec, random: np.random.Generator, shape: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Rectangles of the patch's shape and of evenly drawn area, anywhere, cut off at the patch's edges."""
    count, height, width = shape
    size = np.array([height, width])
    sides = np.sqrt(random.uniform(0, 1, (count, 1))) * size
    sides *= (random.uniform(0, 1, (count, 1)) < spec.cutmix) & (count > 1)
    middle = random.uniform(0, 1, (count, 2)) * size
    edges = np.stack([middle - sides / 2, middle + sides / 2], axis=-1)
    made: npt.NDArray[np.int64] = np.clip(np.rint(edges), 0, size[:, None]).astype(np.int64).reshape(count, 4)
    return made
