"""Scores per place: places count alike, and drawn ones stand apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from sklearn import metrics

from tileseg.card import ClassInfo
from tileseg.evaluate.compare import score
from tileseg.evaluate.report import place_rows, write_report
from tileseg.evaluate.results import Evaluation
from tileseg.evaluate.scores import Comparison, Options
from tileseg.grid import Grid
from tileseg.window import Window

CLASSES = (ClassInfo(name="ground", color="#c8b48c", background=True), ClassInfo(name="roof", color="#d73027"))


@dataclass(frozen=True)
class Held:
    labels: np.ndarray

    def read(self, window: Window) -> np.ndarray:
        return self.labels[window.slices]


def _labels(*boxes: tuple[int, int, int, int], width: int = 100) -> np.ndarray:
    labels = np.zeros((60, width), np.uint8)
    for row, col, height, across in boxes:
        labels[row : row + height, col : col + across] = 1
    return labels


SIDES = {
    # name: place, drawn, truth, prediction
    "hill_0": ("hill", False, _labels((5, 5, 20, 20), (30, 40, 20, 20)), _labels((5, 5, 20, 20), (30, 40, 20, 5))),
    "hill_1": ("hill", False, _labels((5, 5, 10, 30)), _labels((5, 5, 10, 30))),
    "coast": ("coast", False, _labels((5, 5, 10, 10), width=40), _labels((5, 9, 10, 10), width=40)),
    "made": ("hill", True, _labels((5, 5, 50, 80)), _labels((5, 5, 50, 80))),
}


PAIRS = {
    name: Comparison(name, Grid(*truth.shape, Affine.identity()), Held(truth), Held(guess), place=place, drawn=drawn)
    for name, (place, drawn, truth, guess) in SIDES.items()
}


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return Evaluation(
        {"prediction": "p", "truth": "t"},
        CLASSES,
        tuple(score(pair, CLASSES, Options(distances=False)) for pair in PAIRS.values()),
        distances=False,
    )


def _iou(*names: str) -> float:
    truth, guess = (np.concatenate([SIDES[name][side].ravel() for name in names]) for side in (2, 3))
    return float(metrics.jaccard_score(truth, guess))


def test_scenes_of_a_place_are_together_and_places_count_alike(found: Evaluation) -> None:
    facts = found.to_json()
    assert [(p["name"], p["drawn"], p["scenes"]) for p in facts["places"]] == [
        ("hill", False, ["hill_0", "hill_1"]), ("coast", False, ["coast"]), ("hill (drawn)", True, ["made"])
    ]  # fmt: skip
    hill, coast = _iou("hill_0", "hill_1"), _iou("coast")
    assert [p["by_class"]["roof"]["iou"] for p in facts["places"]] == pytest.approx([hill, coast, 1.0], abs=1e-6)
    real, drawn = facts["mean_over_places"]["real"], facts["mean_over_places"]["drawn"]
    assert (real["places"], drawn["places"]) == (2, 1)
    assert real["by_class"]["roof"]["iou"] == pytest.approx((hill + coast) / 2, abs=1e-6)
    assert real["mean_without_background"]["iou"] == pytest.approx((hill + coast) / 2, abs=1e-6)
    assert drawn["by_class"]["roof"]["iou"] == 1
    # Of three roofs on the hill two were found, and a piece of the third; of one at the coast none.
    assert real["polygons"]["roof"]["f1_at_iou_0.5"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    assert [(s["name"], s["place"], s["drawn"]) for s in facts["scenes"]][3] == ("made", "hill", True)


def test_the_table_gives_a_mean_after_each_kind(found: Evaluation, tmp_path: Path) -> None:
    rows = place_rows(found)
    assert [name for name, _ in rows] == [
        "hill", "coast", "mean of 2 places", "hill (drawn)", "mean of 1 drawn place"
    ]  # fmt: skip
    assert rows[2][1]["iou"] == pytest.approx((rows[0][1]["iou"] + rows[1][1]["iou"]) / 2)
    assert rows[1][1]["f1_at_iou_0.5"] == 0
    assert np.isnan(rows[1][1]["mean_iou_of_matches"])
    write_report(tmp_path / "report.html", found, PAIRS)
    assert "<h2>Places</h2>" in (tmp_path / "report.html").read_text()


def test_a_scene_is_a_place_of_its_own_unless_it_says_otherwise() -> None:
    truth = SIDES["coast"][2]
    pair = Comparison("alone", Grid(*truth.shape, Affine.identity()), Held(truth), Held(truth))
    assert score(pair, CLASSES, Options(distances=False)).place == "alone"
