"""Polygons against polygons: which objects were found, whole or in parts, and how well their outlines fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import shapely

from tileseg.evaluate.outlines import NO_OUTLINES, Outlines, outlines_of
from tileseg.polygons.chance import FEATURES

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""IoU from which a pair counts as a match; scores are given for the first, and as a mean over all (as COCO does)."""

_INSIDE = 0.5
"""Share of a polygon's area that lies in another one that it lies in."""

_ALONE = 0.9
"""Share of what several cover together that one covers which counts as the only one."""

_PAIRS = 1 << 16
"""Pairs intersected at a time."""

Floats = npt.NDArray[np.float64]


class ObjectSource(Protocol):
    """Polygons of a scene with their classes, wherever they are."""

    def batches(self) -> Iterator[Objects]:
        """All of them, some at a time. Raises InputError where they cannot be read."""


@dataclass(frozen=True)
class Objects:
    """Polygons with their classes. They are held in memory, about a kilobyte each."""

    geometries: npt.NDArray[np.object_]
    """(n,) valid polygons or multipolygons, in (column, row) of a grid."""
    labels: npt.NDArray[np.int64]
    """(n,) class ids."""
    features: Floats | None = None
    """(n, features) what a run says of each, see :mod:`tileseg.polygons.chance`; None: no run delivered them."""

    def batches(self) -> Iterator[Objects]:
        """All of them at once."""
        yield self

    def of(self, label: int) -> npt.NDArray[np.object_]:
        """Objects of one class."""
        return np.asarray(self.geometries[self.labels == label])

    def features_of(self, label: int) -> Floats | None:
        """(n, features) of the objects of one class."""
        return None if self.features is None else np.asarray(self.features[self.labels == label])

    def chosen(self, kept: npt.NDArray[np.bool_]) -> Objects:
        """Some of them."""
        features = None if self.features is None else self.features[kept]
        return Objects(self.geometries[kept], self.labels[kept], features)

    def within(self, height: int, width: int) -> Objects:
        """Cut at the edge of a grid."""
        frame = shapely.box(0, 0, width, height)
        cut = ~shapely.contains(frame, self.geometries)
        geometries = self.geometries.copy()
        geometries[cut] = shapely.intersection(geometries[cut], frame)
        return Objects(geometries, self.labels, self.features).at_least(0)

    def at_least(self, area: float) -> Objects:
        """Objects of this area (in pixels) or more; none without area."""
        areas = shapely.area(self.geometries)
        return self.chosen((areas >= area) & (areas > 0))

    def without(self, unknown: npt.NDArray[np.object_]) -> Objects:
        """Objects of which less than half lies in polygons where nothing is known."""
        if not len(unknown) or not len(self.geometries):
            return self
        mine, there = shapely.STRtree(unknown).query(self.geometries, predicate="intersects")
        hidden = np.zeros(len(self.geometries))
        np.add.at(hidden, mine, shapely.area(shapely.intersection(self.geometries[mine], unknown[there])))
        return self.chosen(hidden < 0.5 * shapely.area(self.geometries))


def together(batches: Iterable[Objects]) -> Objects:
    """All batches as one."""
    found = list(batches)
    if not found:
        return NO_OBJECTS
    return Objects(np.concatenate([b.geometries for b in found]), np.concatenate([b.labels for b in found]))


NO_OBJECTS = Objects(np.empty(0, object), np.empty(0, np.int64))


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
    split: int = 0
    """True polygons that are several predicted ones; see :class:`Matcher`."""
    merged: int = 0
    """Predicted polygons that are several true ones."""
    in_merged: int = 0
    """True polygons that lie in those."""
    true_outlines: Outlines = NO_OUTLINES
    predicted_outlines: Outlines = NO_OUTLINES
    features: Floats = field(default_factory=lambda: np.empty((0, len(FEATURES))))
    """(m, features) of the predicted polygons of which a run says them; see :mod:`tileseg.polygons.chance`."""
    hits: Floats = field(default_factory=lambda: np.empty(0))
    """(m,) 1 where a true polygon has an IoU of 0.5 or more with it, else 0."""

    def __add__(self, other: ObjectMatches) -> ObjectMatches:
        """Pool two scenes."""
        return ObjectMatches(
            self.truths + other.truths,
            self.predictions + other.predictions,
            np.concatenate([self.matched, other.matched]),
            np.concatenate([self.best, other.best]),
            self.split + other.split,
            self.merged + other.merged,
            self.in_merged + other.in_merged,
            self.true_outlines + other.true_outlines,
            self.predicted_outlines + other.predicted_outlines,
            np.concatenate([self.features, other.features]),
            np.concatenate([self.hits, other.hits]),
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
    def split_share(self) -> float:
        """Share of the true polygons that are split."""
        return _share(self.split, self.truths)

    @property
    def merged_share(self) -> float:
        """Share of the true polygons that lie in merged ones."""
        return _share(self.in_merged, self.truths)

    @property
    def mean_iou_of_matches(self) -> float:
        """Mean IoU of the matched pairs."""
        return _share(float(self.matched.sum()), len(self.matched))


NO_MATCHES = ObjectMatches(0, 0, np.empty(0), np.empty(0))


class Matcher:
    """Matches polygons of one class: true ones, which are held, with predicted ones, which come batch by batch.

    Pairs of IoU 0.5 and more, the best first, each polygon once: of polygons of one side that do not overlap, none can
    be in two pairs of more than 0.5. A true polygon is split where several predicted ones lie in it (each with half of
    its area or more) and the largest makes up less than 0.9 of what they cover of it: crumbs beside a house that was
    found split nothing. A predicted polygon is merged where several true ones lie in it, in the same sense.
    """

    def __init__(self, truth: npt.NDArray[np.object_], aspect: float = 1.0) -> None:
        """``aspect``: height of the grid's pixels on the ground, over their width."""
        self._truth, self._aspect = truth, aspect
        self._tree = shapely.STRtree(truth)
        self._areas: Floats = shapely.area(truth)
        self._predictions = self._merged = self._in_merged = 0
        self._best = np.zeros(len(truth))
        self._parts = _Cover.of(len(truth))
        self._good: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]] = []
        self._outlines = NO_OUTLINES
        self._features: list[Floats] = [np.empty((0, len(FEATURES)))]
        self._hits: list[Floats] = [np.empty(0)]

    def add(self, prediction: npt.NDArray[np.object_], features: Floats | None = None) -> None:
        """Take in some of the predicted polygons (n,); ``features``: (n, features), where they are known."""
        first, second, shared = self._overlaps(prediction)
        areas = shapely.area(prediction)
        iou = shared / (self._areas[first] + areas[second] - shared)
        np.maximum.at(self._best, first, iou)
        good = iou >= THRESHOLDS[0]
        if features is not None:
            self._features.append(features)
            self._hits.append(np.isin(np.arange(len(prediction)), second[good]).astype(np.float64))
        self._good.append((first[good], second[good] + self._predictions, iou[good]))
        self._predictions += len(prediction)
        inside = shared >= _INSIDE * areas[second]
        self._parts.add(first[inside], shared[inside])
        covered = _Cover.of(len(prediction))
        inside = shared >= _INSIDE * self._areas[first]
        covered.add(second[inside], shared[inside])
        self._merged += int(covered.several.sum())
        self._in_merged += int(covered.count[covered.several].sum())
        self._outlines += outlines_of(prediction, self._aspect)

    def result(self) -> ObjectMatches:
        """The matches, once all predicted polygons are in."""
        parts = self._good or [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        first, second, iou = (np.concatenate(part) for part in zip(*parts, strict=True))
        matched: list[float] = []
        taken_truth, taken_prediction = np.zeros(len(self._truth), bool), np.zeros(self._predictions, bool)
        for pair in np.argsort(-iou, kind="stable"):
            t, p = first[pair], second[pair]
            if not taken_truth[t] and not taken_prediction[p]:
                taken_truth[t] = taken_prediction[p] = True
                matched.append(float(iou[pair]))
        return ObjectMatches(
            len(self._truth),
            self._predictions,
            np.array(matched, np.float64),
            self._best,
            int(self._parts.several.sum()),
            self._merged,
            self._in_merged,
            outlines_of(self._truth, self._aspect),
            self._outlines,
            np.concatenate(self._features),
            np.concatenate(self._hits),
        )

    def _overlaps(
        self, prediction: npt.NDArray[np.object_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        """Indices of true and predicted polygons that touch, and the area that each pair shares."""
        second, first = self._tree.query(prediction, predicate="intersects")
        shared = np.empty(len(first))
        for start in range(0, len(first), _PAIRS):
            part = slice(start, start + _PAIRS)
            shared[part] = shapely.area(shapely.intersection(self._truth[first[part]], prediction[second[part]]))
        return first, second, shared


@dataclass(frozen=True, slots=True)
class _Cover:
    """Of polygons (n,), what of their area others cover that lie in them."""

    count: npt.NDArray[np.int64]
    total: Floats
    largest: Floats

    @classmethod
    def of(cls, n: int) -> _Cover:
        return cls(np.zeros(n, np.int64), np.zeros(n), np.zeros(n))

    def add(self, polygon: npt.NDArray[np.int64], shared: Floats) -> None:
        """Others that lie in a polygon, and the area that they share with it."""
        np.add.at(self.count, polygon, 1)
        np.add.at(self.total, polygon, shared)
        np.maximum.at(self.largest, polygon, shared)

    @property
    def several(self) -> npt.NDArray[np.bool_]:
        """(n,) whether what lies in a polygon is several, none of them by far the largest."""
        return (self.count > 1) & (self.largest < _ALONE * self.total)


def match(truth: npt.NDArray[np.object_], prediction: npt.NDArray[np.object_]) -> ObjectMatches:
    """Match polygons of one class that are all at hand; see :class:`Matcher`."""
    matcher = Matcher(truth)
    matcher.add(prediction)
    return matcher.result()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
