"""A scene that looks unlike what a model was trained on is told so; one that looks like it is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from fakes import write_scene
from PIL import Image
from sklearn.datasets import load_sample_image

from tileseg import RunSpec
from tileseg.card import Scaling
from tileseg.nn.folder import EMBEDDED, load_card, resolve_model
from tileseg.run.prepare import prepare
from tileseg.source.appearance import Floats, Scaled, distance, features_of, fit, look_at
from tileseg.source.protocol import Mask, Pixels
from tileseg.source.scene import open_scene
from tileseg.window import Window

BYTES = Scaling(divisor=255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def texture(rng: np.random.Generator, height: int, width: int, smooth: int = 1, bands: int = 3) -> Pixels:
    """(y, x, band) uint8 noise of a grain of ``smooth`` pixels, alike in all bands but for their brightness."""
    grain = rng.normal(size=(-(-height // smooth), -(-width // smooth), 1)).repeat(smooth, 0).repeat(smooth, 1)
    grain = grain[:height, :width] * 30 + np.linspace(90, 140, bands) + rng.normal(size=(height, width, bands)) * 3
    return grain.clip(0, 255).astype(np.uint8)


def windows_of(pixels: Pixels, scaling: Scaling = BYTES, valid: Mask | None = None) -> list[Floats]:
    """The features of an array's windows of 64 x 80 pixels."""
    height, width = pixels.shape[:2]
    valid = np.ones((height, width), bool) if valid is None else valid
    windows = (Window(y, x, 64, 80) for y in range(0, height - 63, 64) for x in range(0, width - 79, 80))
    return look_at(windows, lambda window: (pixels[window.slices], valid[window.slices]), scaling)


def test_features_are_what_they_are_said_to_be() -> None:
    """Against NumPy on a picture whose bands and details are known."""
    rng = np.random.default_rng(3)
    seen = (rng.normal(size=(48, 64, 3)) * [1, 2, 3] + [0.5, 0, -1]).astype(np.float32)
    found = features_of(seen)
    assert len(found) == 3 + 3 + 2 + 2 + 2 * 4 + 1
    np.testing.assert_allclose(found[:3], seen.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(np.exp(found[3:6]) - 0.01, seen.std(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(found[6:8], np.diff(seen.mean(axis=(0, 1))), atol=1e-5)
    assert found[-1] == 0
    flat = seen.copy()
    flat[:, 1:33] = flat[:, :1]  # 32 of 63 pairs of neighbours are equal
    assert features_of(flat)[-1] == pytest.approx(np.sqrt(32 / 63))


@pytest.mark.parametrize("smooth", [2, 4, 8])
def test_coarser_grain_moves_detail_to_larger_sizes(smooth) -> None:
    rng = np.random.default_rng(smooth)
    fine, coarse = (features_of(texture(rng, 128, 144, grain).astype(np.float32) / 50) for grain in (1, smooth))
    detail = slice(10, 18, 2)
    assert coarse[detail][0] < fine[detail][0]
    assert coarse[detail][-1] > fine[detail][-1]


def test_what_was_seen_is_near_and_else_far() -> None:
    rng = np.random.default_rng(1)
    places = {f"place {i}": windows_of(texture(rng, 192, 240, 1 + i % 2)) for i in range(5)}
    usual = fit(places)
    assert usual is not None
    assert set(usual.places) == set(places)
    assert usual.far == pytest.approx(1.25 * max(usual.places.values()), abs=1e-3)
    assert distance(windows_of(texture(rng, 192, 240)), usual) < usual.far
    pixels = texture(rng, 192, 240)
    for strange in (
        255 - pixels,
        pixels[..., ::-1],
        np.full_like(pixels, 130),
        texture(rng, 192, 240, 16),
        pixels // 64 * 64,
        np.repeat(pixels[..., :1], 3, axis=2) // 3,
    ):
        assert distance(windows_of(strange), usual) > usual.far


def test_a_few_black_windows_of_the_training_change_little() -> None:
    rng = np.random.default_rng(2)
    pixels = texture(rng, 640, 800)
    plain = fit({"here": windows_of(pixels)})
    pixels[:64, :400] = 0
    edged = fit({"here": windows_of(pixels)})
    np.testing.assert_allclose(edged.middle, plain.middle, atol=0.1)
    np.testing.assert_allclose(edged.deviation, plain.deviation, rtol=0.5)


def test_windows_without_data_do_not_count() -> None:
    rng = np.random.default_rng(4)
    pixels, valid = texture(rng, 192, 240), np.ones((192, 240), bool)
    valid[:64] = False
    assert len(windows_of(pixels)) == 9
    assert len(windows_of(pixels, valid=valid)) == 6
    assert windows_of(pixels, valid=np.zeros_like(valid)) == []
    usual = fit({"here": windows_of(pixels)})
    assert np.isnan(distance([], usual))
    assert fit({"nowhere": []}) is None


def test_windows_cover_small_large_fine_and_coarse_scenes(tmp_path) -> None:
    """A scene is looked at in the network's pixels, and a fine one is not read whole for that."""
    rng = np.random.default_rng(5)
    for height, width, scale in ((40, 300, 1.0), (700, 900, 1.0), (700, 900, 0.25), (90, 70, 3.0), (20, 20, 0.1)):
        path = write_scene(tmp_path / f"{height}{width}{scale}.tif", texture(rng, height, width))
        scaled = Scaled.by(open_scene(path, expected=3), scale)
        windows = list(scaled.windows)
        assert 1 <= len(windows) <= 16
        assert len(set(windows)) == len(windows)
        for window in windows:
            assert scaled.extent.intersection(window) == window
            assert scaled.read(window)[0].shape == (window.height, window.width, 3)


def test_a_flower_is_not_a_town(tmp_path, in_process) -> None:
    """The embedded model, from the command line: said in one line, and kept; a settlement passes."""
    photo = tmp_path / "flower.jpg"
    Image.fromarray(load_sample_image("flower.jpg")).save(photo)
    done = in_process("run", photo, "--out", tmp_path / "flower")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("looks unlike what the model was trained on") == 1
    model = json.loads((tmp_path / "flower" / "summary.json").read_text())["model"]
    assert model["distance"] > model["usual_distance"] == load_card(resolve_model(EMBEDDED)).appearance.far


def test_the_sample_settlement_passes(sample_rasters, in_process, tmp_path) -> None:
    done = in_process("run", sample_rasters / "settlement.tif", "--dry-run", "--out", tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    assert "unlike" not in done.stderr


def test_a_window_of_values_is_looked_through(sample_rasters, tmp_path) -> None:
    """A scene of 16 bits, of which a window shows what 8 bits hold, looks as the one of 8 bits does."""
    with rasterio.open(sample_rasters / "settlement.tif") as dataset:
        pixels = np.moveaxis(dataset.read([1, 2, 3], window=((0, 200), (0, 300))), 0, -1)
    found = []
    for name, values, window in (
        ("8", pixels, {}),
        ("16", pixels * np.uint16(16), {"window_center": 127.5 * 16, "window_width": 255 * 16}),
    ):
        scene = write_scene(tmp_path / f"{name}.tif", values)
        spec = {"scene": scene, "gsd": "native", "out": tmp_path / name, "workers": 0, **window}
        found.append(prepare(RunSpec.parse(spec)).distance)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[0] > 0


def test_an_unknown_appearance_says_nothing(tmp_path) -> None:
    """A scene that cannot be looked at is judged when its blocks are computed."""
    assert windows_of(np.zeros((192, 240, 1), np.uint8), Scaling(divisor=255))[0].shape == (2 + 8 + 1,)
    path = write_scene(tmp_path / "a.tif", np.zeros((12, 9, 3), np.uint8))
    scaled = Scaled.by(open_scene(path, expected=3), 1.0)
    assert look_at(scaled.windows, scaled.read, BYTES) == []
