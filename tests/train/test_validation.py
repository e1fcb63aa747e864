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


def scene(name: str, hits: int, missed: int, wrong: int, *, drawn: bool = False) -> SceneScore:
    return SceneScore(name, drawn, np.array([[1000, wrong], [missed, hits]]))


def test_scenes_count_alike_however_large_they_are() -> None:
    """A large scene that is easy does not hide a small one that is not."""
    score = Score((scene("large", 9000, 500, 500), scene("small", 30, 30, 40)), CLASSES)
    assert score.score == pytest.approx((0.9 + 0.3) / 2)
    assert score.iou["house"] == pytest.approx(0.6)


def test_scenes_without_a_class_say_nothing_about_it() -> None:
    score = Score((scene("one", 40, 5, 5), scene("empty", 0, 0, 0)), CLASSES)
    assert score.score == pytest.approx(0.8)
    assert "house" not in score.iou_by_scene["empty"]
    assert Score((scene("empty", 0, 0, 0),), CLASSES).score == 0
    # What is invented in a scene without any house is no less wrong.
    assert Score((scene("one", 40, 5, 5), scene("false", 0, 0, 7)), CLASSES).score == pytest.approx(0.4)


def test_drawn_scenes_are_told_apart() -> None:
    facts = Score((scene("photo", 5, 5, 0), scene("made", 9, 1, 0, drawn=True)), CLASSES).facts()
    assert facts["iou_house"] == pytest.approx(0.7)
    assert {kind: found["house"] for kind, found in facts["iou_by_kind"].items()} == {"real": 0.5, "drawn": 0.9}
    assert facts["drawn_scenes"] == ["made"]
    assert "iou_by_kind" not in Score((scene("photo", 5, 5, 0),), CLASSES).facts()


def test_a_dataset_says_which_scenes_are_drawn(tmp_path) -> None:
    path = write_dataset(tmp_path, train=1, validate=2)
    path.write_text(path.read_text() + "drawn = true\n")
    data = load_dataset(path)
    places = validation_windows(data.validate, 64)
    score = validate(reddish, places, data.classes, VALUES, side=64, batch=2, threads=1)
    assert [scene.drawn for scene in score.scenes] == [True, True]
