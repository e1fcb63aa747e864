"""The confusion matrix, and the scores that follow from it.

A score that the matrix says nothing about is NaN, never 0: the IoU of a class that neither the truth nor the
prediction has, the precision of one that was never predicted. Means leave NaN out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled
from tileseg.errors import InputError
from tileseg.labels import Labels

IGNORE = 255
"""Label of pixels that do not count."""

Matrix = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


def confusion(truth: Labels, prediction: Labels, classes: int, ignore: int = IGNORE) -> Matrix:
    """How many pixels of each true class got each class: (classes, classes), [truth, prediction].

    ``truth`` and ``prediction`` have the same shape, any number of axes. A pixel that is ``ignore`` in either does
    not count. Raises InputError for ids that are no class.
    """
    if truth.shape != prediction.shape:
        raise InputError(f"labels of {truth.shape} pixels cannot be compared with {prediction.shape}")
    matrix = np.zeros((classes, classes), np.int64)
    strange = _count(
        np.ascontiguousarray(truth).reshape(-1), np.ascontiguousarray(prediction).reshape(-1), ignore, matrix
    )
    if strange >= 0:
        raise InputError(f"class id {strange} is none of 0 to {classes - 1}, nor {ignore} (left out)")
    return matrix


@compiled
def _count(truth: Labels, prediction: Labels, ignore: int, matrix: Matrix) -> int:  # pragma: no cover - compiled
    """Count pixels; an id that is no class, or -1."""
    classes = matrix.shape[0]
    for i in range(truth.size):
        t, p = truth[i], prediction[i]
        if ignore in (t, p):
            continue
        if t >= classes:
            return int(t)
        if p >= classes:
            return int(p)
        matrix[t, p] += 1
    return -1


def iou(matrix: Matrix) -> Scores:
    """Intersection over union of each class (Jaccard index)."""
    hit, truth, prediction = _parts(matrix)
    return _ratio(hit, truth + prediction - hit)


def dice(matrix: Matrix) -> Scores:
    """Dice coefficient (F1 of the pixels) of each class."""
    hit, truth, prediction = _parts(matrix)
    return _ratio(2 * hit, truth + prediction)


def precision(matrix: Matrix) -> Scores:
    """Share of the pixels given to a class that are of it."""
    hit, _, prediction = _parts(matrix)
    return _ratio(hit, prediction)


def sensitivity(matrix: Matrix) -> Scores:
    """Share of a class's pixels that were given to it (recall)."""
    hit, truth, _ = _parts(matrix)
    return _ratio(hit, truth)


def specificity(matrix: Matrix) -> Scores:
    """Share of the pixels of other classes that were not given to this one."""
    hit, truth, prediction = _parts(matrix)
    others = matrix.sum() - truth
    return _ratio(others - (prediction - hit), others)


def volume_error(matrix: Matrix) -> Scores:
    """(predicted - true pixels) / true pixels of each class: negative where too few were predicted."""
    _, truth, prediction = _parts(matrix)
    return _ratio(prediction - truth, truth)


def accuracy(matrix: Matrix) -> float:
    """Share of all pixels that got their own class."""
    return float(_ratio(np.trace(matrix), matrix.sum()))


def mean(scores: Scores) -> float:
    """Mean of the classes that have the score; NaN if none has."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")


def _parts(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Pixels of each class: rightly predicted, true, predicted."""
    return np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Scores:
    """``part / whole``, NaN where there is nothing to share."""
    top, bottom = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.asarray(np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom != 0))
