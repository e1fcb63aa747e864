"""What a form of a network loses against another one, on windows of real scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.card import ClassInfo, Scaling
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.protocol import Network
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import Matrix, confusion, iou, mean
from tileseg.export.windows import Place
from tileseg.labels import Labels, Logits, decide, probabilities
from tileseg.tta import View


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of two networks on the windows of a scene."""

    matrix: Matrix
    """(class, class) pixels, [reference, prediction]."""
    calibration: Calibration

    @property
    def calibration_error(self) -> float:
        """ECE; NaN where no pixel has a true class."""
        return float(self.calibration.expected_error[0])


@dataclass(frozen=True, slots=True, eq=False)
class SceneLoss:
    """Two networks on the windows of a scene."""

    name: str
    truth: bool
    """Whether both are measured against true labels; otherwise against those of the first."""
    classes: tuple[ClassInfo, ...]
    first: Side
    second: Side
    differ: int
    """Pixels whose labels are not the same."""
    pixels: int
    """Pixels with data."""

    def score(self, side: Side) -> float:
        """Mean IoU of the classes that are no background and that occur; of all where there are none."""
        scores = iou(side.matrix)
        chosen = np.array([not info.background for info in self.classes])
        value = mean(scores[chosen])
        return mean(scores) if math.isnan(value) else value

    @property
    def loss(self) -> float:
        """IoU of the first minus that of the second, as a fraction."""
        return self.score(self.first) - self.score(self.second)


class Labeller:
    """A network on windows of one size."""

    def __init__(self, network: Network, side: int) -> None:
        spec = PredictorSpec(core=(side, side), margin=0, views=(View(),), scaling=Scaling(), halo=0)
        self._predictor = Predictor(network, spec)

    def logits(self, image: npt.NDArray[np.float32]) -> Logits:
        """Logits (class, rows, columns), as a run keeps them, of a scaled image (rows, columns, band)."""
        return np.asarray(self._predictor(image[None])[0], np.float16)

    def labels(self, image: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> Labels:
        """Labels of an image, as a run gives them."""
        return decide(self.logits(image), valid)[0]


def compare(
    first: Labeller, second: Labeller, places: Sequence[Place], side: int, classes: tuple[ClassInfo, ...]
) -> list[SceneLoss]:
    """Both networks on the same windows, scene by scene."""
    found: dict[str, SceneLoss] = {}
    for place in places:
        seen = place.scene.read(place.window, side)
        logits = [labeller.logits(seen.image) for labeller in (first, second)]
        labels = [decide(one, seen.valid)[0] for one in logits]
        truth = seen.labels if place.scene.truth is not None else labels[0]
        sides = []
        for one, label in zip(logits, labels, strict=True):
            calibration = Calibration.empty(len(classes))
            calibration.add(truth, label, probabilities(one))
            sides.append(Side(confusion(truth, label, len(classes)), calibration))
        here = SceneLoss(
            place.scene.name, place.scene.truth is not None, classes, sides[0], sides[1],
            int((labels[0] != labels[1]).sum()), int(seen.valid.sum()),
        )  # fmt: skip
        before = found.get(here.name)
        found[here.name] = here if before is None else _together(before, here)
    return list(found.values())


def pooled(sides: Sequence[Side]) -> float:
    """ECE over all scenes; NaN where no pixel has a true class."""
    total = sides[0].calibration
    for side in sides[1:]:
        total += side.calibration
    return float(total.expected_error[0])


def _together(one: SceneLoss, other: SceneLoss) -> SceneLoss:
    first, second = (
        Side(a.matrix + b.matrix, a.calibration + b.calibration)
        for a, b in ((one.first, other.first), (one.second, other.second))
    )
    return SceneLoss(
        one.name, one.truth, one.classes, first, second, one.differ + other.differ, one.pixels + other.pixels
    )
