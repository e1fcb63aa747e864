"""Representative windows: of all scenes and classes, with data, drawn by a seed, and never used twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from fakes import FakeSource

from tileseg.card import Scaling
from tileseg.errors import InputError
from tileseg.export.scenes import Seen, SeenScene
from tileseg.export.windows import Places, choose
from tileseg.labels import Labels
from tileseg.source.rescale import Axis, Rescale


def scene(name: str, pixels: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_] | None = None, **said) -> SeenScene:
    source = FakeSource(pixels, valid)
    same = Rescale(Axis(pixels.shape[0], 1.0), Axis(pixels.shape[1], 1.0))
    return SeenScene(name, source, same, Scaling(), None, **{"held_out": False} | said)


def plain(height: int, width: int, label: int = 0) -> npt.NDArray[np.uint8]:
    """A scene whose pixels are their labels."""
    return np.full((height, width, 1), label, np.uint8)


def labels_of(_: SeenScene, seen: Seen) -> Labels:
    return seen.image[..., 0].astype(np.uint8)


def chosen(*scenes: SeenScene, counts: tuple[int, int] = (6, 6), seed: int = 0) -> Places:
    return choose(scenes, labels_of, classes=3, stride=4, counts=counts, seed=seed)


def keys(places: Places) -> list[tuple[str, object]]:
    return [(place.scene.name, place.window) for place in (*places.calibration, *places.held_out)]


def test_scenes_take_turns_and_a_rare_class_is_found() -> None:
    rare = plain(512, 768)
    rare[300:420, 500:600] = 2
    found = chosen(scene("rare", rare), scene("large", plain(1536, 768, 1)), scene("small", plain(300, 280)))
    assert found.side == 256
    assert [place.scene.name for place in found.calibration[:3]] == ["small", "rare", "large"]
    assert any(place.shares[2] for place in found.calibration), "one window in six of its scene has it"
    assert len(keys(found)) == len(set(keys(found))), "none is measured on that was calibrated with"
    assert len(found.calibration) == len(found.held_out) == 6


def test_the_seed_decides() -> None:
    scenes = [scene(name, plain(900, 700)) for name in "ab"]
    assert keys(chosen(*scenes)) == keys(chosen(*scenes))
    assert keys(chosen(*scenes)) != keys(chosen(*scenes, seed=1))


def test_what_a_dataset_keeps_for_validation_is_measured_on_alone() -> None:
    found = chosen(scene("a", plain(1100, 1300)), scene("b", plain(1400, 1100), held_out=True), counts=(5, 8))
    assert {place.scene.name for place in found.calibration} == {"a"}
    assert {place.scene.name for place in found.held_out} == {"b"}
    assert (len(found.calibration), len(found.held_out)) == (5, 8)


def test_windows_without_data_are_left_out() -> None:
    valid = np.zeros((1024, 1024), bool)
    valid[:, 256:512] = True
    found = chosen(scene("strip", plain(1024, 1024), valid))
    assert {place.window.col_off for place in (*found.calibration, *found.held_out)} == {256}


def test_windows_become_smaller_where_scenes_are_small() -> None:
    found = chosen(scene("small", plain(200, 140)))
    assert found.side == 64
    assert (len(found.calibration), len(found.held_out)) == (3, 3), "of six windows, half each"


def test_one_window_is_not_enough() -> None:
    with pytest.raises(InputError, match=r"tiny: 1 windows of 64 x 64 pixels with data: expected at least one"):
        chosen(scene("tiny", plain(30, 50)))
