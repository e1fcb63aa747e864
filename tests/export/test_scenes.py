"""Scenes as a network sees them: at its ground sample distance, scaled as its card says, without what has no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes import save_tiny, smooth_noise, write_scene

from tileseg.export.scenes import open_scenes
from tileseg.window import Window


def test_a_scene_is_resampled_and_scaled_and_its_gaps_are_known(tmp_path: Path) -> None:
    card = save_tiny(tmp_path / "model").model_copy(update={"ground_sample_distance": 1.0})
    pixels = np.repeat(np.repeat(smooth_noise(50, 70, 3), 2, 0), 2, 1)
    pixels[:40, :20] = 0
    write_scene(tmp_path / "half_metre.tif", pixels, nodata=0)
    write_scene(tmp_path / "other.tif", pixels[:, ::-1])
    one, other = open_scenes([str(tmp_path / "half_metre.tif"), str(tmp_path / "other.tif")], card)
    assert (one.name, other.name, one.held_out, one.truth) == ("half_metre", "other", False, None)
    assert one.windows(64) == [Window(0, 0, 50, 64), Window(0, 64, 50, 6)]
    seen = one.read(Window(0, 0, 50, 64), 64)
    assert seen.image.shape == (64, 64, 3)
    assert not seen.valid[:19, :9].any()
    assert not seen.valid[50:].any(), "what was continued by reflection is none of the scene"
    assert seen.valid[21:50, 11:].all()
    np.testing.assert_allclose(seen.image[:19, :9], 0, atol=0.02)  # to the next whole pixel value
    expected = (smooth_noise(50, 70, 3)[21:49, 11:64] / 255 - 0.4) / 0.2
    blurred = np.abs(seen.image[21:49, 11:64] - expected)
    assert np.median(blurred) < 0.5
    assert (seen.labels == 255).all()


def test_a_scene_of_a_dataset_that_has_no_labels_is_one_without(tmp_path: Path) -> None:
    card = save_tiny(tmp_path / "model")
    write_scene(tmp_path / "a.tif", smooth_noise(40, 60, 3))
    write_scene(tmp_path / "b.tif", smooth_noise(40, 60, 3, 1))
    write_scene(tmp_path / "labels.tif", np.zeros((40, 60, 1), np.uint8))
    classes = [{"name": info.name, "background": info.background} for info in card.classes]
    text = "\n".join(f'[[classes]]\nname = "{c["name"]}"\nbackground = {str(c["background"]).lower()}' for c in classes)
    (tmp_path / "d.toml").write_text(
        f'{text}\n[[scenes]]\nimage = "a.tif"\nlabels = "labels.tif"\n[[scenes]]\nimage = "b.tif"\n'
    )
    labelled, other = open_scenes([str(tmp_path / "d.toml")], card)
    assert labelled.truth is not None
    assert other.truth is None
