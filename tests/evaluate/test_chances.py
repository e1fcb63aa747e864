"""How likely polygons are real objects: against scikit-learn, and from evaluation to an attribute of polygons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from fakes import CLASSES, smooth_noise, write_scene
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from tileseg import RunSpec, run
from tileseg.card import MatchChance
from tileseg.errors import UsageError
from tileseg.evaluate import chances
from tileseg.evaluate.chances import JudgedObjects, error, fit, learn
from tileseg.evaluate.objects import Matcher, Objects
from tileseg.nn.folder import load_card, save_card
from tileseg.polygons.chance import chance_of, features_of

WEIGHTS = np.array([-4.0, 1.1, -0.1, 0.8, -1.0])


def drawn(place: str, count: int, seed: int, weights: np.ndarray = WEIGHTS) -> JudgedObjects:
    """Polygons that match as often as the weights say."""
    rng = np.random.default_rng(seed)
    features = features_of(np.exp(rng.normal(4, 1.5, count)), rng.uniform(0.5, 1, count), rng.random(count) < 0.1)
    return JudgedObjects(place, features, (rng.random(count) < expit(features @ weights)).astype(float))


def test_features_are_as_they_are_called() -> None:
    found = features_of(np.array([np.e, 100.0]), np.array([0.5, 0.99999]), np.array([False, True]))
    np.testing.assert_allclose(found[0], [1, 1, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found[1], [1, np.log(100), np.log(100) ** 2, np.log(0.9999 / 0.0001), 1])
    np.testing.assert_allclose(chance_of(found, WEIGHTS), expit(found @ WEIGHTS))


def test_the_fit_is_a_logistic_regression_in_which_places_count_alike(monkeypatch) -> None:
    monkeypatch.setattr(chances, "_RIDGE", 0.0)
    judged = [drawn("hill", 300, 1), drawn("coast", 1500, 2)]
    features, matched = np.concatenate([j.features for j in judged]), np.concatenate([j.matched for j in judged])
    share = np.concatenate([np.full(len(j.matched), 1 / len(j.matched)) for j in judged])
    scale = features[:, 1:].std(axis=0)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    model.fit(features[:, 1:] / scale, matched, sample_weight=share * len(matched))
    expected = model.predict_proba(features[:, 1:] / scale)[:, 1]
    np.testing.assert_allclose(chance_of(features, fit(judged)), expected, atol=2e-3)


def test_what_never_varies_and_what_separates_all_give_finite_weights() -> None:
    one = drawn("hill", 200, 3)
    one.features[:, 4] = 0
    clear = JudgedObjects("hill", one.features, (one.features[:, 1] > 4).astype(float))
    weights = fit([clear])
    assert np.isfinite(weights).all()
    assert weights[4] == 0
    assert np.abs(chance_of(clear.features, weights) - clear.matched).mean() < 0.15


def test_a_place_is_judged_by_the_others() -> None:
    judged = [drawn("a", 900, 4), drawn("b", 900, 5), drawn("c", 900, 6)]
    found = learn(judged)
    np.testing.assert_allclose(found.weights, fit(judged), atol=1e-6)
    for k, told in enumerate(found.places):
        others = [one for i, one in enumerate(judged) if i != k]
        assert told.ece_after == pytest.approx(
            error(chance_of(judged[k].features, fit(others)), judged[k].matched), abs=1e-5
        )
        assert told.ece_after < 0.06 < told.ece_before
        assert (told.place, told.count) == ("abc"[k], 900)


def test_the_error_equals_a_plain_computation() -> None:
    chance = np.array([0.05, 0.1, 0.11, 0.95, 1.0, 0.0])
    matched = np.array([0.0, 1, 0, 1, 1, 0])
    bins = [[0, 1, 5], [2], [3, 4]]
    expected = sum(abs(matched[b].mean() - chance[b].mean()) * len(b) for b in bins) / 6
    assert error(chance, matched) == pytest.approx(expected)


def test_a_matcher_says_which_polygons_match() -> None:
    truth = np.array([shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)])
    matcher = Matcher(truth)
    batch = Objects(
        np.array([shapely.box(0, 0, 10, 9), shapely.box(20, 0, 24, 10), shapely.box(50, 0, 51, 1)]),
        np.array([1, 1, 2]),
        np.arange(15.0).reshape(3, 5),
    )
    matcher.add(batch.of(1), batch.features_of(1))
    matcher.add(batch.of(2), batch.features_of(2))
    found = matcher.result()
    assert found.hits.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found.features, batch.features)
    assert (found + found).hits.tolist() == [1, 0, 0, 1, 0, 0]
    cut = batch.within(10, 40).at_least(41)
    np.testing.assert_array_equal(cut.features, batch.features[:1])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(300, 400, 3))


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse({"scene": scene, "model": str(model), "out": out, "workers": 0, **options})


def test_polygons_have_their_confidence(scene, model, tmp_path, in_process) -> None:
    folder = shutil.copytree(model, tmp_path / "judged")
    chance = MatchChance(weights=tuple(WEIGHTS), data="made up")
    save_card(load_card(folder).model_copy(update={"objects": {"roof": chance}}), folder)
    report = run(spec(scene, folder, tmp_path / "run", formats="geojson,gpkg,parquet,fgb"))
    frames = [
        geopandas.read_file(report.folder / f"polygons.{end}", layer="polygons") for end in ("geojson", "gpkg", "fgb")
    ]
    frames.append(geopandas.read_parquet(report.folder / "polygons.parquet"))
    for frame in frames:
        roofs = frame[frame.class_name == "roof"]
        features = features_of(*(roofs[name].to_numpy() for name in ("area_m2", "mean_probability", "touches_edge")))
        np.testing.assert_allclose(roofs.confidence, chance_of(features, WEIGHTS), atol=5.1e-5)
        assert frame[frame.class_name == "water"].confidence.isna().all()
    plain = geopandas.read_file(run(spec(scene, model, tmp_path / "plain")).folder / "polygons.geojson")
    assert "confidence" not in plain
    assert plain.geometry.equals(frames[0].geometry)
    with pytest.raises(UsageError, match="the card's objects"):
        run(spec(scene, model, tmp_path / "run", formats="geojson,gpkg,parquet,fgb"))
    done = in_process("vectorize", report.folder, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = geopandas.read_file(tmp_path / "again" / "polygons.geojson")
    assert sorted(again.confidence.dropna()) == sorted(frames[0].confidence.dropna())
    done = in_process("vectorize", report.folder, "--out", tmp_path / "other", "--threshold", "roof=0.6")
    assert done.returncode == 0, done.stderr
    assert "confidence" not in geopandas.read_file(tmp_path / "other" / "polygons.geojson")


def test_evaluate_puts_the_chances_into_the_card(scene, model, tmp_path, in_process) -> None:
    """Of a truth that is the prediction without its small polygons, confidence is that a polygon is large."""
    folder = shutil.copytree(model, tmp_path / "model")
    done = run(spec(scene, model, tmp_path / "run", min_area="60px", fill_holes="1e9px"))
    large = geopandas.read_file(done.folder / "polygons.geojson")
    lines = [f'[[classes]]\nname = "{info.name}"\ncolor = "{info.color}"' for info in CLASSES]
    lines[0] += "\nbackground = true"
    for place in ("hill", "coast"):
        large.to_file(tmp_path / f"{place}.gpkg", driver="GPKG")
        lines.append(
            f'[[scenes]]\nimage = "{scene}"\nlabels = "{place}.gpkg"\nattribute = "class_name"\nname = "{place}"\n'
            f'place = "{place}"\nsplit = "validate"'
        )
    (tmp_path / "data.toml").write_text("\n".join(lines))
    options = ("--out", tmp_path / "evaluation", "--no-distances", "--workers", "0", "--calibrate", "objects")
    found = in_process("evaluate", "--model", folder, tmp_path / "data.toml", *options)
    assert found.returncode == 0, found.stderr
    objects = load_card(folder).objects
    assert set(objects) == {"roof", "water"}
    assert "confidence of roof, now in the model's card" in found.stdout
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["objects"]["roof"]["weights"] == list(objects["roof"].weights)
    small, big = (
        chance_of(features_of(np.array([area]), np.array([0.6]), np.array([False])), np.array(objects["roof"].weights))
        for area in (1.0, 60.0)
    )
    assert small < 0.2
    assert big > 0.6
    assert "confidence, roof" in in_process("model", "info", folder).stdout
    refused = in_process(
        "evaluate", "--model", folder, tmp_path / "data.toml", *options, "--no-polygons", "--overwrite"
    )
    assert refused.returncode == 2
    assert "--calibrate objects: needs polygons" in refused.stderr


def test_too_few_polygons_are_refused_in_one_line(tmp_path) -> None:
    from tileseg.errors import InputError

    with pytest.raises(InputError, match="no class has 50 polygons"):
        chances.set_chances(tmp_path, [], CLASSES)
    assert not chances.enough([drawn("hill", 20, 1)])
