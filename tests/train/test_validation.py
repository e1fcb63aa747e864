"""Validation counts every pixel once, for the scene that it is of."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import write_dataset

from tileseg.dataset import load_dataset
from tileseg.dataset.patches import validation_windows
from tileseg.evaluate.confusion import confusion, iou
from tileseg.train.normalisation import Normalisation
from tileseg.train.validation import validate

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
    assert score.matrices.keys() == {"v0", "v1"}
    for name, matrix in expected.items():
        np.testing.assert_array_equal(score.matrices[name], matrix)
        assert score.iou_by_scene[name]["house"] == pytest.approx(iou(matrix)[1])
    np.testing.assert_array_equal(score.matrix, sum(expected.values()))
    assert score.iou_by_scene["v0"] != score.iou_by_scene["v1"]
