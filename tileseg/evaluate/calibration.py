"""Whether probabilities mean what they say: of the pixels given 0.8, 80 % should be right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled
from tileseg.evaluate.confusion import IGNORE
from tileseg.labels import CERTAIN

BINS = 15
"""As Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

_Counts = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Pixels in bins of equal width of their probability. Row 0: that of the predicted class; row 1 + k: of class k."""

    counts: _Counts
    """(1 + classes, bins) pixels."""
    probability: _Floats
    """(1 + classes, bins) sum of their probabilities."""
    hits: _Counts
    """(1 + classes, bins) those of them that are of the class."""

    @classmethod
    def empty(cls, classes: int, bins: int = BINS) -> Calibration:
        """Nothing yet."""
        shape = (1 + classes, bins)
        return cls(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int64))

    def add(
        self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8], chances: npt.NDArray[np.uint16]
    ) -> None:
        """Count pixels: true and predicted labels (y, x), and (class, y, x) probabilities in units of 1/65535.

        Pixels that are unknown on either side do not count.
        """
        _add(truth, prediction, chances, self.counts, self.probability, self.hits)

    def __add__(self, other: Calibration) -> Calibration:
        """Pool two scenes."""
        return Calibration(self.counts + other.counts, self.probability + other.probability, self.hits + other.hits)

    @property
    def expected_error(self) -> _Floats:
        """(1 + classes,) ECE: mean over pixels of |share that is right - mean probability| of their bin; NaN: none."""
        total = self.counts.sum(axis=1)
        gaps = np.abs(self.hits - self.probability).sum(axis=1)
        return np.asarray(np.divide(gaps, total, out=np.full(len(total), np.nan), where=total > 0))

    @property
    def diagram(self) -> tuple[_Floats, _Floats]:
        """(1 + classes, bins) mean probability, and share that is of the class; NaN where a bin is empty."""
        empty = np.full(self.counts.shape, np.nan)
        mean = np.divide(self.probability, self.counts, out=empty.copy(), where=self.counts > 0)
        right = np.divide(self.hits, self.counts, out=empty, where=self.counts > 0)
        return mean, right


@compiled
def _add(
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    chances: npt.NDArray[np.uint16],
    counts: _Counts,
    probability: _Floats,
    hits: _Counts,
) -> None:  # pragma: no cover - compiled
    classes, height, width = chances.shape
    bins = counts.shape[1]
    for row in range(height):
        for col in range(width):
            t, p = truth[row, col], prediction[row, col]
            if IGNORE in (t, p):
                continue
            for k in range(-1, classes):
                label = p if k < 0 else k
                chance = chances[label, row, col]
                # The upper border belongs to a bin: (0, 1/15], ... as in the paper.
                place = max(0, (chance * bins - 1) // CERTAIN)
                counts[k + 1, place] += 1
                probability[k + 1, place] += chance / CERTAIN
                hits[k + 1, place] += t == label
