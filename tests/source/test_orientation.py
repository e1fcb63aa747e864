"""Photographs are read as they are shown. The oracle is Pillow's own turning."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tileseg.source.label_raster import open_labels
from tileseg.source.picture import overview_rgb
from tileseg.source.scene import open_scene
from tileseg.window import Window, tile

FORMATS = [("a.jpg", {"quality": 95, "subsampling": 0}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {})]


def photograph(path: Path, orientation: int, pixels: np.ndarray, **options: object) -> np.ndarray:
    """Save pixels as they are stored; give them as they are shown."""
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(pixels)
    if path.suffix == ".tif":
        image.save(path, tiffinfo={274: orientation})
    else:
        image.save(path, exif=exif, **options)
    with Image.open(path) as saved:
        return np.asarray(ImageOps.exif_transpose(saved))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_scenes(tmp_path: Path, name: str, options: dict[str, object], orientation: int) -> None:
    cells = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype("uint8")
    pixels = np.repeat(np.repeat(cells, 8, 0), 8, 1)
    shown = photograph(tmp_path / name, orientation, pixels, **options)
    scene = pickle.loads(pickle.dumps(open_scene(tmp_path / name, expected=3)))
    assert (scene.grid.height, scene.grid.width) == shown.shape[:2]
    tolerance = 12 if name == "a.jpg" else 0
    for window in [*tile(scene.grid.extent, 17, 23), Window(3, 5, 7, 11)]:
        found, valid = scene.read(window)
        assert np.abs(found.astype(int) - shown[window.slices]).max() <= tolerance
        assert found.flags.c_contiguous
        assert valid.shape == (window.height, window.width)
        assert valid.all()
    assert overview_rgb(scene, 28).shape[:2] == ((28, 20) if orientation > 4 else (20, 28))
    assert any("orientation" in note for note in scene.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels(tmp_path: Path, orientation: int) -> None:
    ids = np.random.default_rng(0).integers(0, 5, (40, 56)).astype("uint8")
    shown = photograph(tmp_path / "a.png", orientation, ids)
    labels = open_labels(tmp_path / "a.png")
    assert np.array_equal(labels.read_labels(labels.grid.extent), shown)


def test_a_picture_that_lies_on_the_ground_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype("uint8")
    photograph(tmp_path / "a.png", 6, pixels)
    (tmp_path / "a.wld").write_text("0.5\n0\n0\n-0.5\n500000\n4000000\n")
    scene = open_scene(tmp_path / "a.png", expected=3)
    assert np.array_equal(scene.read(scene.grid.extent)[0], pixels)
