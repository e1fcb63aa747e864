"""Scores of labels against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tileseg.errors import InputError
from tileseg.evaluate import confusion as c


@pytest.fixture(scope="module")
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    truth = rng.choice(np.array([0, 1, 2, 3], np.uint8), (61, 37), p=[0.6, 0.2, 0.15, 0.05])
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape)).astype(np.uint8)
    return truth, prediction


def test_matrix_and_scores_equal_scikit_learn(labels) -> None:
    truth, prediction = labels
    matrix = c.confusion(truth, prediction, 4)
    t, p = truth.ravel(), prediction.ravel()
    assert np.array_equal(matrix, metrics.confusion_matrix(t, p))
    assert c.iou(matrix) == pytest.approx(metrics.jaccard_score(t, p, average=None))
    assert c.dice(matrix) == pytest.approx(metrics.f1_score(t, p, average=None))
    assert c.precision(matrix) == pytest.approx(metrics.precision_score(t, p, average=None))
    assert c.sensitivity(matrix) == pytest.approx(metrics.recall_score(t, p, average=None))
    specificity = [metrics.recall_score(t == k, p == k, pos_label=False) for k in range(4)]
    assert c.specificity(matrix) == pytest.approx(specificity)
    assert c.accuracy(matrix) == pytest.approx(metrics.accuracy_score(t, p))
    volumes = [((p == k).sum() - (t == k).sum()) / (t == k).sum() for k in range(4)]
    assert c.volume_error(matrix) == pytest.approx(volumes)


def test_ignored_pixels_do_not_count_on_either_side(labels) -> None:
    truth, prediction = (a.copy() for a in labels)
    truth[:20, 5:9] = 255
    prediction[30:, :7] = 255
    known = (truth != 255) & (prediction != 255)
    expected = metrics.confusion_matrix(truth[known], prediction[known])
    assert np.array_equal(c.confusion(truth, prediction, 4), expected)
    moved = c.confusion(np.where(truth == 255, 9, truth).astype(np.uint8), labels[1], 4, ignore=9)
    assert moved.sum() == (truth != 255).sum()


def test_a_class_that_is_nowhere_has_no_score_and_no_part_in_the_mean() -> None:
    truth = np.array([[0, 0, 1], [1, 1, 1]], np.uint8)
    matrix = c.confusion(truth, truth, 3)
    assert c.iou(matrix).tolist()[:2] == [1, 1]
    for score in (c.iou, c.dice, c.precision, c.sensitivity, c.volume_error):
        assert np.isnan(score(matrix)[2])
    assert c.specificity(matrix)[2] == 1
    assert c.mean(c.iou(matrix)) == 1


def test_nothing_to_compare_is_nan_everywhere() -> None:
    matrix = c.confusion(np.full((3, 2), 255, np.uint8), np.zeros((3, 2), np.uint8), 2)
    assert matrix.sum() == 0
    assert np.isnan(c.mean(c.iou(matrix)))
    assert np.isnan(c.accuracy(matrix))


def test_a_class_never_predicted_scores_zero_but_has_no_precision() -> None:
    matrix = c.confusion(np.array([0, 1], np.uint8), np.array([0, 0], np.uint8), 2)
    assert c.iou(matrix)[1] == 0
    assert c.sensitivity(matrix)[1] == 0
    assert np.isnan(c.precision(matrix)[1])
    assert c.volume_error(matrix)[1] == -1


def test_strange_ids_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="class id 7"):
        c.confusion(np.array([7, 0], np.uint8), np.array([0, 0], np.uint8), 2)
    with pytest.raises(InputError, match="class id 3"):
        c.confusion(np.array([0, 0], np.uint8), np.array([0, 3], np.uint8), 2)
    with pytest.raises(InputError, match="cannot be compared"):
        c.confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
