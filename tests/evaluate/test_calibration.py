"""Calibration against scikit-learn and a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tileseg.evaluate.calibration import Calibration


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(3, 41, 67)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=0)
    truth = np.where(rng.random((41, 67)) < 0.7, chances.argmax(axis=0), rng.integers(0, 3, (41, 67))).astype(np.uint8)
    truth[:5, :9] = 255
    return truth, chances.argmax(axis=0).astype(np.uint8), np.rint(chances * 65535).astype(np.uint16)


def test_expected_error_equals_a_plain_computation(case) -> None:
    truth, prediction, chances = case
    found = Calibration.empty(3)
    found.add(truth, prediction, chances)
    known = truth != 255
    sure = chances.max(axis=0)[known] / 65535
    right = (truth == prediction)[known]
    expected = 0.0
    for low in np.arange(15) / 15:
        here = (sure > low) & (sure <= low + 1 / 15)
        if here.any():
            expected += here.mean() * abs(right[here].mean() - sure[here].mean())
    assert found.expected_error[0] == pytest.approx(expected, abs=1e-9)


def test_the_diagram_of_a_class_equals_scikit_learn(case) -> None:
    truth, prediction, chances = case
    found = Calibration.empty(3, bins=10)
    for rows in (slice(0, 20), slice(20, None)):
        part = Calibration.empty(3, bins=10)
        part.add(truth[rows], prediction[rows], np.ascontiguousarray(chances[:, rows]))
        found += part
    known = truth != 255
    share, mean = calibration_curve((truth == 1)[known], chances[1][known] / 65535, n_bins=10)
    probability, right = found.diagram
    filled = found.counts[2] > 0
    assert probability[2][filled] == pytest.approx(mean)
    assert right[2][filled] == pytest.approx(share)
    assert found.counts[2].sum() == known.sum()


def test_nothing_counted_is_no_error() -> None:
    assert np.isnan(Calibration.empty(2).expected_error).all()
