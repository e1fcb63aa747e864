"""Hausdorff distances between borders, exact over scenes of any size.

A first pass over the scene's blocks puts the contour pixels of both sides into a temporary folder: a few per cent of
all pixels. Then every block's contour pixels look for the nearest one of the other side, in their own block first
and in others only while those can hold a nearer one. What is in memory is a few blocks' contours and the distances
that occur with their counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from tileseg.window import Window

Points = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

TRUTH, PREDICTION = 0, 1

_TREES = 16
"""Blocks whose search trees are kept."""
_MOST_VALUES = 1 << 20
"""Different distances that are kept; if there are more, they are counted in steps of 1/64."""


@dataclass(frozen=True)
class Distribution:
    """Distances and how often each occurs."""

    values: Floats
    """(n,) ascending."""
    counts: npt.NDArray[np.int64]
    """(n,)"""

    @classmethod
    def of(cls, values: Floats) -> Distribution:
        """The distribution of single values."""
        found, counts = np.unique(values, return_counts=True)
        return cls(found, counts.astype(np.int64))

    def __add__(self, other: Distribution) -> Distribution:
        """Both together."""
        values = np.concatenate([self.values, other.values])
        if len(values) > _MOST_VALUES:
            values = np.ceil(values * 64) / 64
        found, place = np.unique(values, return_inverse=True)
        counts = np.zeros(len(found), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return Distribution(found, counts)

    def scaled(self, factor: float) -> Distribution:
        """The same distances in another unit."""
        return Distribution(self.values * factor, self.counts)

    def percentile(self, percent: float) -> float:
        """As ``numpy.percentile`` of the single values (linear between neighbours); NaN if there is none."""
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        place = percent / 100 * (total - 1)
        below = np.searchsorted(np.cumsum(self.counts), [int(place), min(int(place) + 1, total - 1)], side="right")
        low, high = self.values[below]
        return float(low + (high - low) * (place - int(place)))


NOTHING = Distribution(np.empty(0, np.float64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Distances:
    """From each contour pixel of one side to the nearest one of the other."""

    from_truth: Distribution
    from_prediction: Distribution

    def __add__(self, other: Distances) -> Distances:
        """Pool two scenes."""
        return Distances(self.from_truth + other.from_truth, self.from_prediction + other.from_prediction)

    def scaled(self, factor: float) -> Distances:
        """In another unit."""
        return Distances(self.from_truth.scaled(factor), self.from_prediction.scaled(factor))

    def hausdorff(self, percent: float = 100) -> float:
        """The larger of both directions' percentiles: at 100 the Hausdorff distance; NaN where a side has no border."""
        return max(self.from_truth.percentile(percent), self.from_prediction.percentile(percent))


NO_DISTANCES = Distances(NOTHING, NOTHING)


class Contours:
    """Contour pixels of both sides, kept block by block in a folder of their own."""

    def __init__(self, folder: Path, blocks: Sequence[Window], classes: int) -> None:
        self._folder = folder
        self._blocks = blocks
        self._counts = np.zeros((classes, 2, len(blocks)), np.int64)
        self._trees: OrderedDict[tuple[int, int, int], cKDTree] = OrderedDict()
        starts = np.array([(b.row_off, b.col_off) for b in blocks], np.int64)
        sizes = np.array([(b.height, b.width) for b in blocks], np.int64)
        self._first, self._last = starts, starts + sizes - 1

    def put(self, block: int, label: int, side: int, points: Points) -> None:
        """Keep the contour pixels (n, 2) of one class of one side, in rows and columns of the scene."""
        if len(points):
            path = self._path(block, label, side)
            path.parent.mkdir(exist_ok=True)
            np.save(path, points.astype(np.int32))
            self._counts[label, side, block] = len(points)

    def is_one_sided(self, label: int) -> bool:
        """Whether only one side has a border of a class."""
        return bool(self._counts[label].any(axis=1).sum() == 1)

    def distances(self, label: int, pixel: tuple[float, float] = (1.0, 1.0)) -> Distances:
        """Distances of one class; ``pixel``: height and width of a pixel in the wanted unit.

        Empty in both directions where a side has no border at all.
        """
        if not self._counts[label].any(axis=1).all():
            return NO_DISTANCES
        return Distances(*(self._directed(label, side, np.array(pixel)) for side in (TRUTH, PREDICTION)))

    def _directed(self, label: int, side: int, pixel: Floats) -> Distribution:
        other = 1 - side
        total = NOTHING
        there = np.flatnonzero(self._counts[label, other])
        for block in np.flatnonzero(self._counts[label, side]):
            points = np.load(self._path(int(block), label, side)).astype(np.int64)
            best = np.full(len(points), np.inf)
            apart = _gap(self._first[block], self._last[block], self._first[there], self._last[there], pixel)
            for near in np.argsort(apart, kind="stable"):
                if apart[near] >= best.max():
                    break
                target = int(there[near])
                reach = _gap(points, points, self._first[target], self._last[target], pixel)
                open_ = np.flatnonzero(reach < best)
                if len(open_):
                    found, _ = self._tree(target, label, other, pixel).query(points[open_] * pixel)
                    best[open_] = np.minimum(best[open_], found)
            # Rounded, so that equal distances are equal whatever the coordinates they were computed from.
            total += Distribution.of(np.round(best, 6))
        self._trees.clear()
        return total

    def _tree(self, block: int, label: int, side: int, pixel: Floats) -> cKDTree:
        key = (block, label, side)
        if key not in self._trees:
            points = np.load(self._path(block, label, side)) * pixel
            self._trees[key] = cKDTree(points, balanced_tree=False, compact_nodes=False)
            while len(self._trees) > _TREES:
                self._trees.popitem(last=False)
        self._trees.move_to_end(key)
        return self._trees[key]

    def _path(self, block: int, label: int, side: int) -> Path:
        return self._folder / f"{block // 1000:06d}" / f"{block}-{label}-{side}.npy"


def _gap(
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    other_first: npt.NDArray[np.int64],
    other_last: npt.NDArray[np.int64],
    pixel: Floats,
) -> Floats:
    """The least distance between pixels of rectangles, given by their first and last (row, column)."""
    beside = np.maximum(np.maximum(other_first - last, first - other_last), 0) * pixel
    return np.asarray(np.hypot(beside[..., 0], beside[..., 1]))
