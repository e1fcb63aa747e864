"""How good a network is on scenes that it does not learn from: fixed windows, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.ahead import computed_ahead
from tileseg.card import ClassInfo
from tileseg.dataset.dataset import Dataset
from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.patches import read_patch, validation_windows
from tileseg.evaluate.confusion import IGNORE, Matrix, confusion, iou, mean
from tileseg.labels import Labels
from tileseg.train.normalisation import Normalisation
from tileseg.train.spec import TrainSpec
from tileseg.window import Window

SceneWindow = tuple[LabelledScene, Window]
LARGEST = 512
"""Side of a window at most: larger ones are nearer to what a run sees at their edges, smaller ones need less memory."""


_FORWARD_SHARE = 1 / 3
"""Share of a step's work that the forward pass takes: the backward pass takes twice as much."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Which windows a network is scored on."""

    side: int
    """Pixels of a window."""
    batch: int
    """Windows that the network looks at together: about as many pixels as a batch of patches has."""
    windows: list[SceneWindow]
    """All: those that the finished model is scored on."""
    watched: list[SceneWindow]
    """Some of them, spread evenly: those that it is scored on in between."""

    @classmethod
    def plan(cls, spec: TrainSpec, dataset: Dataset, stride: int) -> Validation:
        """Choose as many windows as the share of validation in the work allows; sides are multiples of ``stride``."""
        shortest = max((max(s.grid.height, s.grid.width) for s in dataset.validate), default=spec.crop)
        side = window_side(shortest, spec.crop, stride)
        budget = spec.validation_share * spec.steps_per_epoch * spec.batch * spec.crop**2 / _FORWARD_SHARE
        most = max(1, int(budget) // side**2)
        return cls(
            side=side,
            batch=max(1, spec.batch * spec.crop**2 // side**2),
            windows=validation_windows(dataset.validate, side),
            watched=validation_windows(dataset.validate, side, most),
        )


@dataclass(frozen=True, slots=True)
class SceneScore:
    """What was found in one scene."""

    name: str
    place: str
    """Where on Earth it lies."""
    drawn: bool
    """Whether a program made the scene instead of a camera."""
    matrix: Matrix
    """(class, class) pixels, [truth, prediction]."""


@dataclass(frozen=True, slots=True)
class PlaceScore:
    """What was found in the scenes of one place."""

    name: str
    drawn: bool
    matrix: Matrix
    """(class, class) pixels of all its scenes, [truth, prediction]."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a validation found. Places count alike, whatever their size: the next one may be like any of them.

    Drawn ones count only where there are no others.
    """

    scenes: tuple[SceneScore, ...]
    classes: tuple[ClassInfo, ...]

    @property
    def places(self) -> tuple[PlaceScore, ...]:
        """The places, in the order of their first scenes; a place of which scenes are drawn and others not is two."""
        found: dict[tuple[str, bool], Matrix] = {}
        for scene in self.scenes:
            key = (scene.place, scene.drawn)
            found[key] = found[key] + scene.matrix if key in found else scene.matrix
        return tuple(
            PlaceScore(f"{name} (drawn)" if drawn and (name, False) in found else name, drawn, matrix)
            for (name, drawn), matrix in found.items()
        )

    @property
    def _counted(self) -> list[PlaceScore]:
        places = self.places
        return [place for place in places if not place.drawn] or list(places)

    @property
    def iou(self) -> dict[str, float]:
        """Class -> mean over the places in which truth or prediction have it."""
        return self._mean(self._counted)

    @property
    def iou_by_place(self) -> dict[str, dict[str, float]]:
        """Place -> class that its truth or prediction has -> IoU over the pixels of its scenes."""
        return {place.name: self._mean([place]) for place in self.places}

    @property
    def iou_by_scene(self) -> dict[str, dict[str, float]]:
        """Scene -> class that its truth or prediction has -> IoU."""
        return {scene.name: self._mean([scene]) for scene in self.scenes}

    def _mean(self, parts: Sequence[SceneScore | PlaceScore]) -> dict[str, float]:
        found = [iou(part.matrix) for part in parts]
        means = [mean(np.asarray(values)) for values in zip(*found, strict=True)]
        return {info.name: m for info, m in zip(self.classes, means, strict=False) if not math.isnan(m)}

    @property
    def mean_iou(self) -> float:
        """Mean over all classes of ``iou``."""
        return mean(np.array(list(self.iou.values())))

    @property
    def score(self) -> float:
        """Mean over places of the mean IoU of classes that are not background: it decides which weights are best.

        Places without such a class, true or predicted, say nothing; 0 if all are so.
        """
        chosen = [not info.background for info in self.classes]
        chosen = chosen if any(chosen) else [True] * len(chosen)
        value = mean(np.array([mean(iou(place.matrix)[chosen]) for place in self._counted]))
        return 0.0 if math.isnan(value) else value

    def facts(self) -> dict[str, Any]:
        """Numbers for the card and the summary; apart for drawn and real places where there are drawn ones."""
        facts: dict[str, Any] = {
            "mean_iou": round(self.mean_iou, 4),
            **{f"iou_{name}": value for name, value in _rounded(self.iou).items()},
            "averaged_over": "places",
        }
        drawn = [place for place in self.places if place.drawn]
        real = [place for place in self.places if not place.drawn]
        if drawn:
            kinds = {"real": real, "drawn": drawn}
            facts["iou_by_kind"] = {kind: _rounded(self._mean(places)) for kind, places in kinds.items() if places}
            facts["drawn_places"] = [place.name for place in drawn]
            facts["drawn_scenes"] = [scene.name for scene in self.scenes if scene.drawn]
        facts["iou_by_place"] = {place: _rounded(found) for place, found in self.iou_by_place.items()}
        return facts | {"iou_by_scene": {scene: _rounded(found) for scene, found in self.iou_by_scene.items()}}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def window_side(places_side: int, crop: int, stride: int = 16) -> int:
    """Side of validation windows: what scenes of ``places_side`` pixels fill, a multiple of 16 and of ``stride``."""
    unit = math.lcm(16, stride)
    return max(crop, min(LARGEST // unit * unit, -(-places_side // unit) * unit))


def read_unit(place: SceneWindow, side: int, normalisation: Normalisation) -> tuple[npt.NDArray[np.float32], Labels]:
    """Pixels (side, side, band) of 0 to 1 and labels (side, side) of a window that may be smaller."""
    pixels, labels = read_patch(*place, side)
    return normalisation.to_unit(pixels), labels


def validate(
    labels_of: Callable[[npt.NDArray[np.float32]], Labels],
    places: Sequence[SceneWindow],
    classes: tuple[ClassInfo, ...],
    normalisation: Normalisation,
    *,
    side: int,
    batch: int,
    threads: int,
) -> Score:
    """Count every pixel of the places once; memory does not grow with their number, only with that of scenes."""
    matrices = {scene.name: np.zeros((len(classes), len(classes)), np.int64) for scene, _ in places}

    def read(index: int) -> tuple[npt.NDArray[np.float32], Labels]:
        chosen = [read_unit(place, side, normalisation) for place in places[index * batch : (index + 1) * batch]]
        # The last batch is filled up: one compiled function for all.
        chosen += [(chosen[-1][0], np.full_like(chosen[-1][1], IGNORE))] * (batch - len(chosen))
        return np.stack([pixels for pixels, _ in chosen]), np.stack([labels for _, labels in chosen])

    batches = computed_ahead(read, range(-(-len(places) // batch)), ahead=2 * threads, threads=threads)
    for index, (images, truth) in enumerate(batches):
        # What a last batch was filled up with has no place, and falls away.
        looked_at = places[index * batch : (index + 1) * batch]
        for (scene, _), true, found in zip(looked_at, truth, labels_of(images), strict=False):
            matrices[scene.name] += confusion(true, found, len(classes))
    scenes = {scene.name: scene for scene, _ in places}
    return Score(
        tuple(SceneScore(name, scenes[name].place, scenes[name].drawn, m) for name, m in matrices.items()), classes
    )
