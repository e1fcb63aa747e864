"""The temperature of a model against logistic regression, and what a card that has one changes: probabilities alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from fakes import CLASSES, smooth_noise, write_scene
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from tileseg import RunSpec, run
from tileseg.card import Temperature
from tileseg.errors import InputError, UsageError
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.temperature import Judged, Sample, best_temperature, calibrate, sample
from tileseg.grid import Grid
from tileseg.labels import CERTAIN, decide, probabilities
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card, save_card
from tileseg.window import Window


@dataclass(frozen=True)
class Held:
    """Logits (class, y, x) and labels (y, x) in memory."""

    logits: np.ndarray
    labels: np.ndarray

    def read_logits(self, window: Window) -> np.ndarray:
        return self.logits[(slice(None), *window.slices)]

    def read(self, window: Window) -> np.ndarray:
        return self.labels[window.slices]


def drawn(
    place: str, temperature: float, classes: int = 2, seed: int = 0, size: tuple[int, int] = (150, 190)
) -> Judged:
    """Labels drawn from probabilities, and logits that are ``temperature`` times too sure of them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(classes, *size))
    chances = softmax(logits, axis=0).cumsum(axis=0)
    labels = (rng.random(size) > chances).sum(axis=0).clip(0, classes - 1).astype(np.uint8)
    held = Held((logits * temperature).astype(np.float16), labels)
    return Judged(place, Grid(*size, Affine.identity()), held, held)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_it_is_the_inverse_of_the_slope_of_a_logistic_regression(temperature) -> None:
    scene = drawn("hill", temperature)
    (found,) = sample([scene])
    gap = (found.logits[1].astype(np.float64) - found.logits[0])[:, None]
    slope = LogisticRegression(C=np.inf, fit_intercept=False).fit(gap, found.truth).coef_[0, 0]
    assert best_temperature([found]) == pytest.approx(1 / slope, rel=2e-3)
    assert best_temperature([found]) == pytest.approx(temperature, rel=0.05)


def test_every_place_counts_alike_and_is_judged_by_the_others() -> None:
    small = drawn("small", 4.0, classes=3, size=(60, 70))
    large = drawn("large", 2.5, classes=3, seed=1, size=(200, 300))
    also = drawn("small", 4.0, classes=3, seed=2, size=(50, 90))
    samples = {one.place: one for one in sample([small, large, also])}
    assert {name: one.truth.size for name, one in samples.items()} == {"small": 60 * 70 + 50 * 90, "large": 200 * 300}
    found = calibrate([small, large, also], "m")
    assert found.value == pytest.approx(best_temperature(list(samples.values())), abs=1e-4)
    assert 2.8 < found.value < 3.6  # by pixels it would be nearly 2.5
    told = {place.place: place for place in found.places}
    for name, other in (("small", "large"), ("large", "small")):
        assert told[name].ece_before == pytest.approx(samples[name].error(1.0), abs=1e-5)
        left_out = best_temperature([samples[other]])
        assert told[name].ece_after == pytest.approx(samples[name].error(left_out), abs=1e-5)
        assert told[name].ece_after < told[name].ece_before
    assert "small, large" in found.data


def test_pixels_of_unknown_class_and_without_logits_do_not_count() -> None:
    scene = drawn("hill", 2.0, size=(40, 50))
    scene.truth.labels[:10] = IGNORE
    scene.logits.logits[:, :, 45:] = np.nan
    (found,) = sample([scene])
    assert found.truth.size == 30 * 45
    scene.truth.labels[:] = IGNORE
    with pytest.raises(InputError, match=r"^m: no pixel has both a true class and a prediction"):
        calibrate([scene], "m")


def test_a_large_place_is_looked_at_on_a_lattice(monkeypatch) -> None:
    monkeypatch.setattr("tileseg.evaluate.temperature.PIXELS", 500)
    monkeypatch.setattr("tileseg.evaluate.temperature._BLOCK", 64)
    scene = drawn("hill", 2.0, size=(150, 190))
    (found,) = sample([scene])
    step = 8  # the root of 28,500 / 500, rounded up
    np.testing.assert_array_equal(np.sort(found.truth), np.sort(scene.truth.labels[::step, ::step].ravel()))
    assert found.logits.shape == (2, len(found.truth))


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_with_a_temperature_are_the_softmax_of_cooled_logits(classes) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=4, size=(classes, 70, 41)).astype(np.float16)
    valid = np.ones((70, 41), bool)
    expected = softmax(logits.astype(np.float64) / 2.5, axis=0) * CERTAIN
    found = probabilities(logits, 2.5)
    assert np.abs(found - expected).max() <= 0.51
    labels, confidence = decide(logits, valid, 2.5)
    np.testing.assert_array_equal(labels, decide(logits, valid)[0])
    assert np.abs(confidence - expected.max(axis=0)).max() <= 0.51
    assert Sample("p", logits.reshape(classes, -1), labels.ravel()).loss(2.5) == pytest.approx(
        -np.log(expected.max(axis=0) / CERTAIN).mean(), rel=1e-5
    )


# --- A model with a temperature -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(150, 210, 3))


@pytest.fixture
def warm(model, tmp_path) -> Path:
    """The tiny model with a temperature of 2."""
    folder = shutil.copytree(model, tmp_path / "warm")
    save_card(load_card(folder).model_copy(update={"temperature": Temperature(value=2.0, data="made up")}), folder)
    return folder


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse(
        {"scene": scene, "model": str(model), "out": out, "block": 128, "workers": 0, "precision": "float32", **options}
    )


def test_a_temperature_changes_probabilities_and_no_label(scene, model, warm, tmp_path) -> None:
    reports = {
        name: run(spec(scene, folder, tmp_path / name, keep=keep))
        for name, folder, keep in (("a", model, "logits"), ("b", warm, "logits"), ("c", warm, "probabilities"))
    }
    mosaics = {name: Mosaic(report.folder / "mosaic.zarr") for name, report in reports.items()}
    whole = mosaics["a"].grid.extent
    logits = mosaics["a"].read_logits(whole)
    np.testing.assert_array_equal(mosaics["b"].read_logits(whole), logits)
    for name in "bc":
        np.testing.assert_array_equal(mosaics[name].read_labels(whole), mosaics["a"].read_labels(whole))
        np.testing.assert_array_equal(mosaics[name].read_probabilities(whole), probabilities(logits, 2.0))
    assert (reports["b"].folder / "labels.tif").read_bytes() == (reports["a"].folder / "labels.tif").read_bytes()
    frames = {name: geopandas.read_file(report.folder / "polygons.geojson") for name, report in reports.items()}
    assert frames["b"].equals(frames["c"])
    assert frames["b"].geometry.equals(frames["a"].geometry)
    assert (frames["b"].mean_probability < frames["a"].mean_probability).all()
    with rasterio.open(reports["c"].folder / "probability_roof.tif") as raster:
        assert np.abs(raster.read(1) / 250 - probabilities(logits, 2.0)[1] / CERTAIN).max() <= 0.0021
    summary = json.loads((reports["b"].folder / "summary.json").read_text())
    assert summary["model"]["temperature"] == summary["identity"]["card"]["temperature"] == 2.0


def test_runs_with_and_without_a_temperature_are_not_mixed(scene, model, warm, tmp_path) -> None:
    run(spec(scene, model, tmp_path / "run"))
    with pytest.raises(UsageError, match=r"the card's temperature was not given, is 2\.0"):
        run(spec(scene, warm, tmp_path / "run"))
    run(spec(scene, warm, tmp_path / "warm-run"))
    with pytest.raises(UsageError, match=r"the card's temperature was 2\.0, is not given"):
        run(spec(scene, model, tmp_path / "warm-run"))
    anew = run(spec(scene, warm, tmp_path / "warm-run", min_area="30px"))
    assert anew.only_polygons
    fresh = run(spec(scene, warm, tmp_path / "fresh", min_area="30px"))
    name = "polygons.geojson"
    assert (anew.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_evaluate_puts_the_temperature_into_the_card(scene, model, tmp_path, in_process) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    with rasterio.open(run(spec(scene, model, tmp_path / "run")).folder / "labels.tif") as raster:
        labels, profile = raster.read(1), raster.profile
    rng = np.random.default_rng(0)
    lines = ['bands = ["red", "green", "blue"]']
    lines += [f'[[classes]]\nname = "{info.name}"\ncolor = "{info.color}"' for info in CLASSES]
    for place in ("hill", "coast"):
        wrong = np.where(rng.random(labels.shape) < 0.3, rng.integers(0, 3, labels.shape), labels).astype(np.uint8)
        profile.update(driver="GTiff", compress="deflate")
        with rasterio.open(tmp_path / f"{place}.tif", "w", **profile) as raster:
            raster.write(wrong, 1)
        lines.append(
            f'[[scenes]]\nimage = "{scene}"\nlabels = "{place}.tif"\nname = "{place}"\nplace = "{place}"\n'
            'split = "validate"'
        )
    (tmp_path / "data.toml").write_text("\n".join(lines))
    out = tmp_path / "evaluation"
    options = ("--out", out, "--no-distances", "--no-polygons", "--precision", "float32", "--workers", "0")
    done = in_process("evaluate", "--model", folder, tmp_path / "data.toml", "--calibrate", "probabilities", *options)
    assert done.returncode == 0, done.stderr
    found = load_card(folder).temperature
    assert found is not None
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["temperature"]["value"] == found.value
    assert f"temperature {found.value:g}, now in the model's card" in done.stdout
    assert {place.place for place in found.places} == {"hill", "coast"}
    assert all(place.ece_after < place.ece_before for place in found.places)
    scored = {place["name"]: place["expected_calibration_error"] for place in metrics["places"]}
    for place in found.places:
        assert scored[place.place] == pytest.approx(place.ece_before, abs=1e-4)
    assert "calibration error" in in_process("model", "info", folder).stdout
    again = in_process("evaluate", "--model", folder, tmp_path / "data.toml", "--overwrite", *options)
    assert again.returncode == 0, again.stderr
    better = json.loads((out / "metrics.json").read_text())
    for place in better["places"]:
        assert place["expected_calibration_error"] < scored[place["name"]]
        assert place["by_class"] == next(one for one in metrics["places"] if one["name"] == place["name"])["by_class"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ("--labels", "a.tif", "b.tif", "--calibrate", "probabilities"),
            "--labels compares files: DATASET, --places, --calibrate and",
        ),
        (
            ("--model", "embedded", "data.toml", "--calibrate", "probabilities"),
            "--calibrate writes into the model's card; copy ",
        ),
        (("--model", "m", "data.toml", "--calibrate", "all"), "--calibrate all: expected"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_one_line(arguments, problem, scene, tmp_path, in_process) -> None:
    labels = np.zeros((150, 210), np.uint8)
    with rasterio.open(scene) as raster:
        profile = {**raster.profile, "count": 1}
    with rasterio.open(tmp_path / "labels.tif", "w", **profile) as raster:
        raster.write(labels, 1)
    (tmp_path / "data.toml").write_text(
        '[[classes]]\nname = "other"\nbackground = true\n[[classes]]\nname = "building"\n'
        f'[[scenes]]\nimage = "{scene}"\nlabels = "labels.tif"\nsplit = "validate"\n'
    )
    done = in_process("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in " ".join(done.stderr.split())
