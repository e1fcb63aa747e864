"""Validation counts every pixel once, for the scene that it is of."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import write_dataset

from tileseg.card import ClassInfo
from tileseg.dataset import load_dataset
from tileseg.dataset.patches import validation_windows
from tileseg.evaluate.confusion import confusion, iou
from tileseg.train.normalisation import Normalisation
from tileseg.train.validation import SceneScore, Score, validate

CLASSES = (
    ClassInfo(name="ground", color="#c8b48c", background=True),
    ClassInfo(name="house", color="#d73027"),
)
VALUES = Normalisation(0, 255, clipped=False, mean=(0.5,) * 3, std=(0.25,) * 3)


def reddish(images) -> np.ndarray:
    """A network that calls houses what has more red than green; houses are drawn so."""
    return (images[..., 0] > images[..., 1] + 0.2).astype(np.uint8)


@pytest.mark.parametrize("batch", [1, 4])
def test_scores_are_those_of_whole_scenes(tmp_path, batch) -> None:
    data = load_dataset(write_dataset(tmp_path, train=1, validate=2))
    places = validation_windows(data.validate, 64)
    assert len(places) % 4, "the last batch has to be filled up"
    score = validate(reddish, places, data.classes, VALUES, side=64, batch=batch, threads=2)
    expected = {}
    for scene in data.validate:
        pixels, labels = scene.read(scene.extent)
        expected[scene.name] = confusion(labels, reddish(VALUES.to_unit(pixels)), 2)
    assert [scene.name for scene in score.scenes] == ["v0", "v1"]
    for scene in score.scenes:
        np.testing.assert_array_equal(scene.matrix, expected[scene.name])
        assert score.iou_by_scene[scene.name]["house"] == pytest.approx(iou(scene.matrix)[1])
    assert score.iou_by_scene["v0"] != score.iou_by_scene["v1"]


def scene(name: str, hits: int, missed: int, wrong: int, *, place: str = "", drawn: bool = False) -> SceneScore:
    return SceneScore(name, place or name, drawn, np.array([[1000, wrong], [missed, hits]]))


def test_places_count_alike_however_large_they_are() -> None:
    """A large place that is easy does not hide a small one that is not."""
    score = Score((scene("large", 9000, 500, 500), scene("small", 30, 30, 40)), CLASSES)
    assert score.score == pytest.approx((0.9 + 0.3) / 2)
    assert score.iou["house"] == pytest.approx(0.6)


def test_scenes_of_a_place_are_scored_together() -> None:
    """Ten scenes of one place do not outvote another place."""
    score = Score((scene("a0", 60, 0, 0, place="a"), scene("a1", 30, 5, 5, place="a"), scene("b", 30, 30, 40)), CLASSES)
    assert score.iou_by_place == {
        "a": {"ground": 2000 / 2010, "house": 0.9}, "b": {"ground": 1000 / 1070, "house": 0.3}
    }  # fmt: skip
    assert score.score == pytest.approx((0.9 + 0.3) / 2)
    facts = score.facts()
    assert facts["averaged_over"] == "places"
    assert facts["iou_house"] == pytest.approx(0.6)
    assert list(facts["iou_by_scene"]) == ["a0", "a1", "b"]


def test_scenes_without_a_class_say_nothing_about_it() -> None:
    score = Score((scene("one", 40, 5, 5), scene("empty", 0, 0, 0)), CLASSES)
    assert score.score == pytest.approx(0.8)
    assert "house" not in score.iou_by_scene["empty"]
    assert Score((scene("empty", 0, 0, 0),), CLASSES).score == 0
    # What is invented in a scene without any house is no less wrong.
    assert Score((scene("one", 40, 5, 5), scene("false", 0, 0, 7)), CLASSES).score == pytest.approx(0.4)


def test_drawn_scenes_are_told_apart() -> None:
    facts = Score((scene("photo", 5, 5, 0), scene("made", 9, 1, 0, drawn=True)), CLASSES).facts()
    assert facts["iou_house"] == pytest.approx(0.5), "what is drawn says nothing of what a camera sees"
    assert {kind: found["house"] for kind, found in facts["iou_by_kind"].items()} == {"real": 0.5, "drawn": 0.9}
    assert facts["drawn_scenes"] == facts["drawn_places"] == ["made"]
    assert "iou_by_kind" not in Score((scene("photo", 5, 5, 0),), CLASSES).facts()


def test_drawn_places_do_not_choose_the_best_weights_unless_there_are_no_others() -> None:
    photo, made = scene("photo", 5, 5, 0, place="hill"), scene("made", 9, 1, 0, place="hill", drawn=True)
    assert Score((photo, made), CLASSES).score == pytest.approx(0.5)
    assert list(Score((photo, made), CLASSES).iou_by_place) == ["hill", "hill (drawn)"]
    assert Score((made,), CLASSES).score == pytest.approx(0.9)


def test_a_dataset_says_which_scenes_are_drawn(tmp_path) -> None:
    path = write_dataset(tmp_path, train=1, validate=2)
    path.write_text(path.read_text() + "drawn = true\n")
    data = load_dataset(path)
    places = validation_windows(data.validate, 64)
    score = validate(reddish, places, data.classes, VALUES, side=64, batch=2, threads=1)
    assert [scene.drawn for scene in score.scenes] == [True, True]
