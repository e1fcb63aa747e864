"""What is compared, how, and what one scene gives; values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import Matrix
from tileseg.evaluate.distances import Distances
from tileseg.evaluate.objects import NO_MATCHES, ObjectMatches, ObjectSource
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.polygons.quantity import Quantity
from tileseg.window import Window

_SHOWN = 6

Chances = npt.NDArray[np.uint16]


class LabelReader(Protocol):
    """Labels of a scene, safe to read from several threads."""

    def read(self, window: Window) -> Labels:
        """(y, x) uint8 ids of the classes that are scored; IGNORE where unknown."""


@dataclass(frozen=True)
class Comparison:
    """A scene's true and predicted labels on one grid."""

    name: str
    grid: Grid
    truth: LabelReader
    prediction: LabelReader
    chances: Callable[[Window], Chances] | None = None
    """(class, y, x) predicted probabilities in units of 1/65535, if they are known."""
    truth_objects: ObjectSource | None = None
    """True polygons, if they are known as such; else they are traced from the labels."""
    predicted_objects: ObjectSource | None = None
    """Predicted polygons in the same way: those that a run delivered, or those of a file."""
    picture: Callable[[Window], npt.NDArray[np.uint8]] | None = None
    """(y, x, 3) the image in a window, if there is one."""
    place: str | None = None
    """Where on Earth it lies; None: it is a place of its own."""
    drawn: bool = False
    """Whether a program made the scene instead of a camera."""


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    band: Quantity | None = None
    """Width of the boundary IoU's band in metres or pixels; None: 2 % of the diagonal, at most 15 pixels."""
    min_area: Quantity | None = None
    """Smaller polygons of both sides are left out of the matching."""
    distances: bool = True
    polygons: bool = True
    threads: int = 2


@dataclass(frozen=True)
class RankedWindow:
    """A window of a scene, and how well it was predicted."""

    scene: str
    window: Window
    iou: float
    """Mean over the classes in it (without background)."""
    wrong: int
    """Pixels with another class than the true one."""


@dataclass(frozen=True)
class SceneScores:
    """What one scene gave, or several together."""

    name: str
    matrix: Matrix
    band: Matrix
    """(classes, 2) pixels in both bands, and in either."""
    band_width: int
    """Pixels."""
    pixels: tuple[Distances, ...]
    """Distances of each class in pixels."""
    metres: tuple[Distances, ...] | None
    """In metres; None where pixels have no size on the ground."""
    without_border: tuple[int, ...]
    """Scenes in which only one side has a border of the class, so that there are no distances."""
    calibration: Calibration | None
    matchings: Mapping[int, ObjectMatches]
    """Class that is not background -> its matches."""
    unknown: int
    """Pixels without a true class."""
    missing: int
    """Pixels with a true class and no predicted one."""
    worst: tuple[RankedWindow, ...] = ()
    best: tuple[RankedWindow, ...] = ()
    place: str = ""
    """Where on Earth it lies; empty for several places together."""
    drawn: bool = False
    """Whether a program made the scene, or all of several, instead of a camera."""

    def __add__(self, other: SceneScores) -> SceneScores:
        """Both together."""
        ranked = {(w.scene, w.window): w for w in (*self.worst, *self.best, *other.worst, *other.best)}
        worst, best = rank_windows(ranked.values())
        labels = sorted({*self.matchings, *other.matchings})
        return SceneScores(
            "all",
            self.matrix + other.matrix,
            self.band + other.band,
            max(self.band_width, other.band_width),
            _sum(self.pixels, other.pixels),
            None if self.metres is None or other.metres is None else _sum(self.metres, other.metres),
            tuple(a + b for a, b in zip(self.without_border, other.without_border, strict=True)),
            self.calibration + other.calibration if self.calibration and other.calibration else None,
            {k: self.matchings.get(k, NO_MATCHES) + other.matchings.get(k, NO_MATCHES) for k in labels},
            self.unknown + other.unknown,
            self.missing + other.missing,
            worst,
            best,
            self.place if self.place == other.place else "",
            self.drawn and other.drawn,
        )


def _sum(one: Sequence[Distances], other: Sequence[Distances]) -> tuple[Distances, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def rank_windows(windows: Any) -> tuple[tuple[RankedWindow, ...], tuple[RankedWindow, ...]]:
    """The worst and the best, no window among both."""
    order = sorted({(w.scene, w.window): w for w in windows}.values(), key=lambda w: (w.iou, -w.wrong))
    half = min(_SHOWN, -(-len(order) // 2))
    return tuple(order[:half]), tuple(reversed(order[half:][-_SHOWN:]))
