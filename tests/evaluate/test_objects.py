"""Matched polygons, by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from tileseg.evaluate.objects import Matcher, Objects, match


def _array(*shapes: shapely.Polygon) -> np.ndarray:
    out = np.empty(len(shapes), object)
    out[:] = shapes
    return out


def test_scores_by_hand() -> None:
    truth = _array(shapely.box(0, 0, 10, 4), shapely.box(20, 0, 30, 4), shapely.box(40, 0, 50, 4))
    prediction = _array(
        shapely.box(0, 0, 10, 3),  # 0.75 of the first
        shapely.box(20, 0, 24, 4),  # 0.4 of the second: not enough
        shapely.box(60, 0, 65, 5),  # nothing there
        shapely.box(0, 3, 10, 4),  # the rest of the first
    )
    found = match(truth, prediction)
    assert found.matched.tolist() == [0.75]
    assert found.best.tolist() == [0.75, 0.4, 0.0]
    assert found.scores() == pytest.approx((1 / 4, 1 / 3, 2 / 7))
    assert found.scores(0.8) == (0, 0, 0)
    assert found.mean_scores == pytest.approx((0.6 / 4, 0.6 / 3, 1.2 / 7))  # 0.5 to 0.75: six of ten thresholds
    assert found.mean_iou == pytest.approx(1.15 / 3)
    assert found.mean_iou_of_matches == 0.75


def test_each_polygon_is_matched_once_the_best_first() -> None:
    truth = _array(shapely.box(0, 0, 10, 10), shapely.box(0, 0, 10, 9))
    found = match(truth, _array(shapely.box(0, 0, 10, 9)))
    assert found.matched.tolist() == [1.0]
    assert found.best.tolist() == [0.9, 1.0]


def test_against_all_pairs() -> None:
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 100, (60, 2))
    truth = _array(*shapely.box(*corners.T, *(corners + rng.uniform(3, 9, (60, 2))).T))
    moved = shapely.transform(truth[:45], lambda xy: xy + rng.uniform(-2, 2, 2))
    found = match(truth, moved)
    overlap = np.array([[t.intersection(p).area / t.union(p).area for p in moved] for t in truth])
    assert found.best == pytest.approx(overlap.max(axis=1))
    assert (found.matched >= 0.5).all()
    assert len(found.matched) <= min((overlap >= 0.5).any(axis=1).sum(), (overlap >= 0.5).any(axis=0).sum())


def test_split_and_merged_by_hand() -> None:
    truth = _array(
        shapely.box(0, 0, 20, 10),  # found in two halves
        shapely.box(30, 0, 50, 10),  # found, with a crumb beside that is no second half
        shapely.box(0, 20, 8, 30), shapely.box(9, 20, 17, 30), shapely.box(18, 20, 26, 30),  # a row that became one
        shapely.box(40, 20, 60, 30), shapely.box(60, 20, 61, 21),  # a house and its shed: one, and not merged
    )  # fmt: skip
    prediction = _array(
        shapely.box(0, 0, 10, 9), shapely.box(11, 0, 20, 9), shapely.box(30, 0, 49, 10), shapely.box(49.5, 0, 50, 1),
        shapely.box(0, 20, 26, 30), shapely.box(40, 20, 61, 30),
    )  # fmt: skip
    found = match(truth, prediction)
    assert (found.split, found.merged, found.in_merged) == (1, 1, 3)
    assert (found.split_share, found.merged_share) == pytest.approx((1 / 7, 3 / 7))
    turned = match(prediction, truth)
    assert (turned.split, turned.merged, turned.in_merged) == (1, 1, 2), "what is split one way is merged the other"
    both = found + turned
    assert (both.split, both.merged, both.in_merged) == (2, 2, 5)


def test_batches_of_predictions_give_what_all_together_give() -> None:
    rng = np.random.default_rng(8)
    corners = rng.uniform(0, 90, (70, 2))
    boxes = _array(*shapely.box(*corners.T, *(corners + rng.uniform(3, 12, (70, 2))).T))
    truth, prediction = boxes[:40], boxes[25:]
    whole, parts = match(truth, prediction), Matcher(truth)
    for start in range(0, len(prediction), 7):
        parts.add(prediction[start : start + 7])
    found = parts.result()
    assert found.matched.tolist() == whole.matched.tolist()
    assert found.best.tolist() == whole.best.tolist()
    assert (found.split, found.merged, found.in_merged) == (whole.split, whole.merged, whole.in_merged)
    assert found.predicted_outlines.vertices.tolist() == whole.predicted_outlines.vertices.tolist()
    # As defined, pair by pair.
    inside = np.array([[t.intersection(p).area for p in prediction] for t in truth])
    areas_t, areas_p = shapely.area(truth)[:, None], shapely.area(prediction)[None]

    def several(shared: np.ndarray) -> list[bool]:
        rows = [row[row > 0] for row in shared]
        return [len(row) > 1 and bool(row.max() < 0.9 * row.sum()) for row in rows]

    assert whole.split == sum(several(np.where(inside >= 0.5 * areas_p, inside, 0))) > 0
    merged = several(np.where(inside >= 0.5 * areas_t, inside, 0).T)
    assert whole.merged == sum(merged) > 0
    assert whole.in_merged == int((inside >= 0.5 * areas_t)[:, merged].sum())


def test_nothing_on_a_side() -> None:
    none, one = _array(), _array(shapely.box(0, 0, 3, 2))
    assert np.isnan(match(none, none).scores()).all()
    assert np.isnan(match(none, one).scores()[1])
    assert match(none, one).scores()[0] == 0
    assert match(one, none).mean_iou == 0


def test_cut_filtered_and_hidden() -> None:
    objects = Objects(
        _array(
            shapely.box(-5, 0, 5, 2), shapely.box(50, 50, 60, 60), shapely.box(90, 3, 99, 4), shapely.box(7, 7, 9, 9)
        ),
        np.array([1, 1, 2, 1]),
    )
    cut = objects.within(40, 100)
    assert shapely.area(cut.geometries).tolist() == [10, 9, 4]
    assert cut.labels.tolist() == [1, 2, 1]
    assert shapely.area(cut.at_least(9).geometries).tolist() == [10, 9]
    hidden = cut.without(_array(shapely.box(89, 0, 100, 10), shapely.box(0, 0, 5, 0.9)))
    assert shapely.area(hidden.geometries).tolist() == [10, 4]
