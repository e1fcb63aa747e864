"""Polygons against polygons: which objects were found, and how well their outlines fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU from which a pair counts as a match; scores are given for the first, and as a mean over all (as COCO does)."""

_PAIRS = 1 << 16
"""Pairs intersected at a time."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Objects:
    """Polygons with their classes. They are held in memory, about a kilobyte each."""

    geometries: npt.NDArray[np.object_]
    """(n,) valid polygons or multipolygons, in (column, row) of a grid."""
    labels: npt.NDArray[np.int64]
    """(n,) class ids."""

    def of(self, label: int) -> npt.NDArray[np.object_]:
        """Objects of one class."""
        return np.asarray(self.geometries[self.labels == label])

    def within(self, height: int, width: int) -> Objects:
        """Cut at the edge of a grid."""
        frame = shapely.box(0, 0, width, height)
        cut = ~shapely.contains(frame, self.geometries)
        geometries = self.geometries.copy()
        geometries[cut] = shapely.intersection(geometries[cut], frame)
        return Objects(geometries, self.labels).at_least(0)

    def at_least(self, area: float) -> Objects:
        """Objects of this area (in pixels) or more; none without area."""
        areas = shapely.area(self.geometries)
        kept = (areas >= area) & (areas > 0)
        return Objects(self.geometries[kept], self.labels[kept])

    def without(self, unknown: npt.NDArray[np.object_]) -> Objects:
        """Objects of which less than half lies in polygons where nothing is known."""
        if not len(unknown) or not len(self.geometries):
            return self
        mine, there = shapely.STRtree(unknown).query(self.geometries, predicate="intersects")
        hidden = np.zeros(len(self.geometries))
        np.add.at(hidden, mine, shapely.area(shapely.intersection(self.geometries[mine], unknown[there])))
        kept = hidden < 0.5 * shapely.area(self.geometries)
        return Objects(self.geometries[kept], self.labels[kept])


@dataclass(frozen=True)
class ObjectMatches:
    """What matching the polygons of one class gave."""

    truths: int
    """True polygons."""
    predictions: int
    """Predicted polygons."""
    matched: Floats
    """IoU of each matched pair, at least 0.5. A polygon is in one pair at most."""
    best: Floats
    """(truths,) IoU of each true polygon with the predicted one that fits it best; 0 where none touches it."""

    def __add__(self, other: ObjectMatches) -> ObjectMatches:
        """Pool two scenes."""
        return ObjectMatches(
            self.truths + other.truths,
            self.predictions + other.predictions,
            np.concatenate([self.matched, other.matched]),
            np.concatenate([self.best, other.best]),
        )

    def scores(self, threshold: float = THRESHOLDS[0]) -> tuple[float, float, float]:
        """(precision, recall, F1) when pairs of this IoU or more match; NaN where there is nothing to share."""
        hits = int((self.matched >= threshold).sum())
        return (
            _share(hits, self.predictions),
            _share(hits, self.truths),
            _share(2 * hits, self.predictions + self.truths),
        )

    @property
    def mean_scores(self) -> tuple[float, float, float]:
        """(precision, recall, F1), each as the mean over all thresholds from 0.5 to 0.95."""
        precision, recall, f1 = np.array([self.scores(t) for t in THRESHOLDS]).mean(axis=0)
        return float(precision), float(recall), float(f1)

    @property
    def mean_iou(self) -> float:
        """Mean over true polygons of the IoU with the predicted one that fits best, missed ones as 0."""
        return _share(float(self.best.sum()), self.truths)

    @property
    def mean_iou_of_matches(self) -> float:
        """Mean IoU of the matched pairs."""
        return _share(float(self.matched.sum()), len(self.matched))


NO_MATCHES = ObjectMatches(0, 0, np.empty(0), np.empty(0))


def match(truth: npt.NDArray[np.object_], prediction: npt.NDArray[np.object_]) -> ObjectMatches:
    """Match polygons of one class: pairs of IoU 0.5 and more, the best first, each polygon once."""
    first, second, overlap = _overlaps(truth, prediction)
    best = np.zeros(len(truth))
    np.maximum.at(best, first, overlap)
    matched: list[float] = []
    taken_truth, taken_prediction = np.zeros(len(truth), bool), np.zeros(len(prediction), bool)
    good = np.flatnonzero(overlap >= THRESHOLDS[0])
    for pair in good[np.argsort(-overlap[good], kind="stable")]:
        t, p = first[pair], second[pair]
        if not taken_truth[t] and not taken_prediction[p]:
            taken_truth[t] = taken_prediction[p] = True
            matched.append(float(overlap[pair]))
    return ObjectMatches(len(truth), len(prediction), np.array(matched, np.float64), best)


def _overlaps(truth: npt.NDArray[np.object_], prediction: npt.NDArray[np.object_]) -> tuple[Any, Any, Floats]:
    """Indices of polygons that overlap, and the IoU of each pair."""
    if not len(truth) or not len(prediction):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    second, first = shapely.STRtree(truth).query(prediction, predicate="intersects")
    area_truth, area_prediction = shapely.area(truth), shapely.area(prediction)
    overlap = np.empty(len(first))
    for start in range(0, len(first), _PAIRS):
        part = slice(start, start + _PAIRS)
        shared = shapely.area(shapely.intersection(truth[first[part]], prediction[second[part]]))
        overlap[part] = shared / (area_truth[first[part]] + area_prediction[second[part]] - shared)
    return first, second, overlap


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
