"""How a scene looks to a network, in a few numbers, and how far that is from what the network was trained on.

A network answers whatever it is shown: on the photograph of a flower it finds buildings. What tells such scenes apart
is cheap and needs no network: light and contrast of bands, how bands go together, how much detail there is at four
sizes, and how much is perfectly flat. A scene's distance is that of its middle window, in standard deviations of the
windows of the training; how far is unusual is learned by leaving each place of the training out in turn. (Diagonal
Mahalanobis distance; Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS 2018,
measure it on features of the network.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.card import Appearance, Scaling
from tileseg.source.protocol import Mask, Pixels, PixelSource
from tileseg.source.rescale import Axis, Rescale
from tileseg.window import Window

Floats = npt.NDArray[np.float64]

SIDE = 128
"""Of a window, in pixels of the size that the network is trained on."""
WINDOWS = 16
"""Looked at in a scene at most."""
_FEWEST_PIXELS = 1 << 22
"""Read of a scene before fewer windows are looked at: those of a much finer scene are large."""
_SCALES = 4
"""Sizes at which detail is measured: 1, 2, 4, 8 pixels."""
_MARGIN = 1.25
"""How much farther than its farthest place a scene may be before the user is told."""
_FEW = 3
_ALONE = 2.5
"""What is far at least where fewer than ``_FEW`` places are known: by its own measure a place is about 1 away."""
_ONE_ABOVE = 0.8413
"""Of a normal distribution, the share below one deviation above its mean."""
_LEAST = 1e-2
"""Of the network's unit: less detail than this is none."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A scene in pixels of another size."""

    scene: PixelSource
    rescale: Rescale

    @classmethod
    def by(cls, scene: PixelSource, scale: float) -> Scaled:
        """``scale``: pixels of the network per pixel of the scene."""
        return cls(scene, Rescale(Axis(scene.grid.height, scale), Axis(scene.grid.width, scale)))

    @property
    def extent(self) -> Window:
        """All pixels, of the network's size."""
        return Window(0, 0, self.rescale.rows.count, self.rescale.cols.count)

    @property
    def windows(self) -> Iterator[Window]:
        """Windows spread evenly, fewer where they are large in the scene; one where the scene is smaller than it."""
        extent = self.extent
        side = min(SIDE, extent.height), min(SIDE, extent.width)
        large = self.rescale.source(Window(0, 0, *side)).pixels
        rows, cols = extent.height // side[0], extent.width // side[1]
        count = max(1, min(WINDOWS, rows * cols, max(4, _FEWEST_PIXELS // large)))
        for i in range(count):
            at = int((i + 0.5) * rows * cols / count)
            yield Window(at // cols * side[0], at % cols * side[1], *side)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """Pixels (y, x, band) of the scene's type, and valid (y, x)."""
        if self.rescale.identity:
            return self.scene.read(window)
        return self.rescale.image(*self.scene.read(self.rescale.source(window)), window)


def look_at(windows: Iterable[Window], read: Callable[[Window], tuple[Pixels, Mask]], scaling: Scaling) -> list[Floats]:
    """The features of those windows of a scene of which at least half has data.

    ``read`` gives pixels (y, x, band), and valid (y, x).
    """
    found = []
    # One zero and one unit for all bands, or grey would not stay grey.
    zero, unit = np.float32(np.mean(scaling.zero)), np.float32(np.mean(scaling.unit))
    for window in windows:
        pixels, valid = read(window)
        if 2 * np.count_nonzero(valid) < valid.size or min(valid.shape) < 2**_SCALES:
            continue
        seen = (pixels.astype(np.float32) - zero) / unit
        if not valid.all():
            seen[~valid] = seen[valid].mean(axis=0)
        found.append(features_of(seen))
    return found


def features_of(seen: npt.NDArray[np.float32]) -> Floats:
    """(feature,) of pixels (y, x, band) as the network gets them: each side at least 16.

    Per band its mean and the logarithm of its deviation; per pair of neighbouring bands mean and logarithm of the
    deviation of their difference; of the mean over bands, for details of 1, 2, 4 and 8 pixels, the logarithm of their
    deviation and of how evenly they are spread (mean over root mean square); the root of the share of pixels that
    equal their neighbour.
    """
    differences = np.diff(seen, axis=2)
    found = [*seen.mean(axis=(0, 1)), *_log(seen.std(axis=(0, 1)))]
    found += [*differences.mean(axis=(0, 1)), *_log(differences.std(axis=(0, 1)))]
    grey = seen.mean(axis=2)
    flat = float((np.abs(np.diff(grey, axis=1)) < 1e-6).mean())
    for _ in range(_SCALES):
        smooth = _smooth(_smooth(grey).T).T
        detail = grey - smooth
        deviation = float(detail.std())
        found += [_log(deviation), _log(float(np.abs(detail).mean()) / (deviation + _LEAST))]
        grey = smooth[::2, ::2]
    return np.array([*found, math.sqrt(flat)], np.float64)


def _log(value: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.log(np.asarray(value, np.float64) + _LEAST)


def _smooth(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Binomial filter of five taps along columns, the borders repeated: close to a Gaussian of 1 pixel."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    near, far = padded[1:-3] + padded[3:-1], padded[:-4] + padded[4:]
    return np.asarray(0.375 * padded[2:-2] + 0.25 * near + 0.0625 * far, np.float32)


def distance(windows: Sequence[Floats], usual: Appearance) -> float:
    """How far a scene is, by the features of its windows, from what was seen in training; NaN without any window.

    Per window the root of the mean square of its features, in deviations of the training's; of the scene the median.
    """
    if not len(windows):
        return math.nan
    off = (np.stack(windows) - np.asarray(usual.middle)) / np.asarray(usual.deviation)
    return float(np.median(np.sqrt(np.mean(np.square(off), axis=1))))


def fit(places: Mapping[str, Sequence[Floats]]) -> Appearance | None:
    """What a training has seen: features of the windows of each place, which count alike. None: no window at all."""
    known = {name: windows for name, windows in places.items() if len(windows)}
    if not known:
        return None
    apart = {}
    for name, windows in known.items():
        others = [other for place, other in known.items() if place != name]
        if others:
            apart[name] = round(distance(windows, _middle(others)), 3)
    far = max([_MARGIN * value for value in apart.values()], default=0)
    if len(known) < _FEW:
        far = max(far, _ALONE)
    return _middle([*known.values()]).model_copy(update={"far": round(far, 3), "places": apart})


def _middle(places: Sequence[Sequence[Floats]]) -> Appearance:
    """Median over windows, and half of what two thirds of them span; places count alike.

    A few black windows, of an image's edge, change neither.
    """
    features = np.concatenate([np.stack(place) for place in places])
    weights = np.concatenate([np.full(len(place), 1 / (len(place) * len(places))) for place in places])
    order = np.argsort(features, axis=0)
    below = np.cumsum(weights[order], axis=0)

    def quantile(share: float) -> Floats:
        at = np.minimum((below < share).sum(axis=0), len(features) - 1)
        return np.asarray(np.take_along_axis(features, np.take_along_axis(order, at[None], 0), 0)[0], np.float64)

    spread = (quantile(_ONE_ABOVE) - quantile(1 - _ONE_ABOVE)) / 2
    return Appearance(
        middle=tuple(round(float(value), 4) for value in quantile(0.5)),
        deviation=tuple(round(max(float(value), _LEAST), 4) for value in spread),
        far=_ALONE,
    )
