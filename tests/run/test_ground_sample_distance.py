"""Runs whose scene has other pixels than the model was trained on: resampled by an exact fraction, exact, and said."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes import save_tiny_onnx, smooth_noise, write_scene
from oracle import BIT_EQUAL, whole_scene_logits

from tileseg import RunSpec, run
from tileseg.engine.registry import open_network
from tileseg.errors import Interrupted, UsageError
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card, save_card
from tileseg.run.prepare import prepare
from tileseg.run.report import Silent, describe
from tileseg.window import Window

HEIGHT, WIDTH = 301, 403
METRES = 0.5
"""Of the scene's pixels (EPSG:32637 at its central meridian, where they are 0.5002 m on the ground)."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_onnx(folder)
    return trained_on(folder, 2.0)


def trained_on(folder: Path, metres: float | None) -> Path:
    save_card(load_card(folder).model_copy(update={"ground_sample_distance": metres}), folder)
    return folder


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse(
        {
            "scene": scene,
            "model": str(model),
            "out": out,
            "block": None,
            "workers": 0,
            "precision": "float32",
            **options,
        }
    )


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.mark.parametrize(
    ("gsd", "scales", "flips", "options"),
    [
        ("auto", "1", "none", {"block": 128}),
        ("auto", "1", "none", {"block": 192, "window": 48, "batch": 3}),
        ("auto", "1/2,1,3/2", "d4", {"block": 128}),
        ("2.27", "1", "h", {"block": 144}),
        ("0.1667", "1", "none", {"block": 128}),
        ("0.4", "1", "none", {"block": 128, "window": 120}),
    ],
)
def test_resampled_runs_equal_the_whole_scene(scene, model, tmp_path, gsd, scales, flips, options) -> None:
    """Against the network run once over the resampled scene, its logits brought back to the scene's grid."""
    made = spec(scene, model, tmp_path / "run", gsd=gsd, scales=scales, flips=flips, formats="gpkg", **options)
    prepared = prepare(made)
    assert prepared.base == {"auto": Fraction(1, 4), "2.27": Fraction(2, 9), "0.1667": 3, "0.4": Fraction(5, 4)}[gsd]
    report = run(made)
    assert report.blocks > 1
    found = Mosaic(report.folder / "mosaic.zarr").read_logits(Window(0, 0, HEIGHT, WIDTH)).astype(np.float32)

    card = load_card(model)
    network = open_network(model, card, 2)
    expected = whole_scene_logits(
        network.plain, card, card.scaling, smooth_noise(HEIGHT, WIDTH, 3), prepared.plan.views
    )
    # What is stored is float16: half a unit in its last place, besides the promised 1e-5 deviations.
    allowed = np.maximum(np.abs(expected) * 2.0**-11, 2.0**-24) + 1e-5 * expected.std()
    assert (np.abs(found - expected) <= allowed).all()
    summary = json.loads((report.folder / "summary.json").read_text())
    assert summary["plan"]["exact"] is True
    assert summary["plan"]["resampled_by"] == str(prepared.base)
    assert summary["identity"]["scale"] == str(prepared.base)
    assert sum(report.pixels.values()) == HEIGHT * WIDTH


def test_blocks_and_windows_change_nothing_of_a_resampled_run(scene, model, tmp_path) -> None:
    logits = [
        Mosaic(run(spec(scene, model, tmp_path / name, **options)).folder / "mosaic.zarr").read_logits(
            Window(0, 0, HEIGHT, WIDTH)
        )
        for name, options in (
            ("one", {"block": 512}),
            ("many", {"block": 64}),
            ("windows", {"block": 256, "window": 64, "batch": 2}),
        )
    ]
    for other in logits[1:]:
        np.testing.assert_array_max_ulp(other, logits[0], maxulp=0 if BIT_EQUAL else 1)  # steps of float16
        assert (other != logits[0]).mean() < 1e-4
        np.testing.assert_array_equal(other.argmax(axis=0), logits[0].argmax(axis=0))


@pytest.mark.parametrize(
    ("trained", "options", "base", "told"),
    [
        (2.0, {}, "1/4", r"pixels are 0\.5 m on the ground.*2 m.*resampled by 1/4.*--gsd native"),
        (2.0, {"gsd": "native"}, "1", None),
        (0.1667, {}, "3", "resampled by 3 "),
        (0.58, {}, "1", None),
        (0.61, {}, "4/5", "resampled by 4/5"),
        (None, {}, "1", None),
        (None, {"gsd": 1.5}, "1/3", "1.5 m.*resampled by 1/3"),
        (2.0, {"gsd": 1.0}, "1/2", "1 m.*resampled by 1/2"),
        (2.0, {"gsd": 0.52}, "1", "near enough"),
        (0.001, {}, "1", "too far apart"),
        (100.0, {}, "1", "too far apart"),
    ],
)
def test_what_is_resampled_and_said(scene, model, tmp_path, trained, options, base, told) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "model")
    prepared = prepare(spec(scene, trained_on(tmp_path / "model", trained), tmp_path / "run", **options))
    assert describe(prepared)["resampled_by"] == base
    assert [Fraction(scale) for scale in describe(prepared)["scales"]] == [Fraction(base)]
    about = [notice for notice in prepared.notices if "on the ground" in notice]
    if told is None:
        assert about == []
    else:
        import re

        assert len(about) == 1
        assert re.search(told, about[0]), about
        assert "\n" not in about[0]


def test_pixels_that_are_not_square_are_told(model, tmp_path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", height=80, width=120, count=3, dtype="uint8", crs="EPSG:32637",
        transform=from_origin(500_000, 4_000_000, 1.0, 0.25),
    ) as file:  # fmt: skip
        file.write(np.moveaxis(smooth_noise(80, 120, 3), -1, 0))
    prepared = prepare(spec(tmp_path / "scene.tif", model, tmp_path / "run"))
    assert prepared.base == Fraction(1, 4)
    assert "1 x 0.25 m (geometric mean 0.5 m)" in prepared.notices[0]


def test_a_scene_of_unknown_size_stays_as_it_is(model, tmp_path) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(60, 90, 3), crs=None)
    prepared = prepare(spec(path, model, tmp_path / "run"))
    assert prepared.base == 1
    about_ground = [notice for notice in prepared.notices if "ground" in notice]
    assert len(about_ground) == 1
    assert "picture without a place on the ground" in about_ground[0]
    assert "--pixel-size METRES" in about_ground[0]
    with pytest.raises(UsageError, match=r"--gsd 2: the scene's pixels have no known size.*--pixel-size"):
        prepare(spec(path, model, tmp_path / "run", gsd=2))


def test_or_has_the_size_that_the_user_says(model, tmp_path) -> None:
    path = write_scene(tmp_path / "scene.tif", smooth_noise(60, 90, 3), crs=None)
    prepared = prepare(spec(path, model, tmp_path / "run", pixel_size=0.5))
    assert prepared.base == Fraction(1, 4)
    assert any("the scene's pixels are 0.5 m on the ground" in notice for notice in prepared.notices)
    assert not any("--pixel-size" in notice for notice in prepared.notices)
    assert describe(prepared)["ground_sample_distance"] == 0.5


def test_which_is_told_where_the_scene_says_its_own(scene, model, tmp_path) -> None:
    prepared = prepare(spec(scene, model, tmp_path / "run", pixel_size=9))
    assert prepared.base == Fraction(1, 4)
    assert any("--pixel-size is not used" in notice for notice in prepared.notices)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gsd": 50}, "--gsd 50: .*too far apart"),
        ({"scales": "1,1/16"}, "--scales 1/16 of a scene that is resampled by 1/4.*1/64 cannot be used"),
    ],
)
def test_scales_that_cannot_be(scene, model, tmp_path, options, told) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        prepare(spec(scene, model, tmp_path / "run", **options))
    assert "\n" not in str(raised.value)


class StopAtOnce(Silent):
    """Asks a run to stop after its first block."""

    def __init__(self) -> None:
        import threading

        self.stop = threading.Event()

    def block(self, record, pixels) -> None:
        self.stop.set()


def test_a_run_is_not_resumed_at_another_scale(scene, model, tmp_path) -> None:
    begun = StopAtOnce()
    with pytest.raises(Interrupted):
        run(spec(scene, model, tmp_path / "run", block=128), begun, begun.stop)
    with pytest.raises(UsageError, match="gsd was auto, is native; the scene was resampled by 1/4, is by 1"):
        run(spec(scene, model, tmp_path / "run", block=128, gsd="native"))
    # The archive is the same, so its digest is too; the card says otherwise.
    import shutil

    shutil.copytree(model, tmp_path / "model")
    with pytest.raises(UsageError, match="the scene was resampled by 1/4, is by 1/2"):
        run(spec(scene, trained_on(tmp_path / "model", 1.0), tmp_path / "run", block=128))
    told = Told()
    assert run(spec(scene, model, tmp_path / "run", block=128), told).computed == 12 - 1
    assert sum("resampled by 1/4" in notice for notice in told.notices) == 1
    assert run(spec(scene, model, tmp_path / "run", block=128)).finished_before
