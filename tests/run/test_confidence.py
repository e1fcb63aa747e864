"""What a run says of how sure it is: probabilities as rasters, and where views disagree."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import xarray as xr
from fakes import smooth_noise, write_scene
from rasterio.features import geometry_mask

from tileseg import RunSpec, run
from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.labels import CERTAIN, NODATA, SPREAD_STEP, probabilities, spread_bytes
from tileseg.mosaic import Mosaic
from tileseg.run.names import MOSAIC, probability_files, written_files
from tileseg.run.report import RunReport

HEIGHT, WIDTH = 301, 403


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    pixels[:90, :70] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, nodata=0)


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse(
        {"scene": scene, "model": str(model), "out": out, "block": 128, "workers": 0, "precision": "float32", **options}
    )


@pytest.fixture(scope="module")
def with_probabilities(scene, model, tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return run(spec(scene, model, tmp_path_factory.mktemp("out") / "run", keep="probabilities"))


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(name=name, color="#000000", background=name == "ground") for name in names]


def test_names_of_the_files_are_those_of_the_classes() -> None:
    assert probability_files(classes("ground", "roof", "Häuser & <Höfe>", "ROOF", "../..", "x" * 300)) == {
        1: "probability_roof.tif",
        2: "probability_Häuser_Höfe.tif",
        3: "probability_ROOF_3.tif",
        4: "probability_4.tif",
        5: f"probability_{'x' * 40}.tif",
    }
    assert probability_files(classes("roof_1", "roof", "roof")) == {
        0: "probability_roof_1.tif",
        1: "probability_roof.tif",
        2: "probability_roof_2.tif",
    }
    mine = [*probability_files(classes("a", "b/c")).values(), "labels.tif", "labels.tif.aux.xml", "polygons.fgb"]
    assert written_files([*mine, "scene.tif", "probability.tif", "my_probability_a.tif"]) == mine


def test_probabilities_are_files_for_any_gis(with_probabilities, scene, model, tmp_path) -> None:
    folder = with_probabilities.folder
    logits = Mosaic(run(spec(scene, model, tmp_path / "logits")).folder / MOSAIC)
    expected = probabilities(logits.read_logits(logits.grid.extent))
    with rasterio.open(folder / "labels.tif") as raster:
        labels = raster.read(1)
    assert (labels == NODATA).any()
    for i, name in ((1, "roof"), (2, "water")):
        path = with_probabilities.outputs[f"probability_{name}"]
        assert path == folder / f"probability_{name}.tif"
        with rasterio.open(path) as raster:
            values = raster.read(1)
            found = values * raster.scales[0]
        assert np.array_equal(values == NODATA, labels == NODATA)
        data = labels != NODATA
        assert np.abs(found - expected[i] / CERTAIN)[data].max() <= 0.0020001
        assert (found[data & (labels == i)] >= 1 / 3 - 0.0021).all()
    assert not (folder / "probability_ground.tif").exists()
    assert not list(logits.path.parent.glob("probability_*"))


def test_probability_files_do_not_depend_on_blocks(with_probabilities, scene, model, tmp_path) -> None:
    other = run(spec(scene, model, tmp_path / "run", keep="probabilities", block=192, window=96))
    for name in ("probability_roof.tif", "probability_water.tif"):
        assert (other.folder / name).read_bytes() == (with_probabilities.folder / name).read_bytes()


def test_probability_files_are_outputs_like_others(scene, model, tmp_path) -> None:
    """Made again where they are missing, removed by another run, and never written over anybody's."""
    wish = spec(scene, model, tmp_path / "run", keep="probabilities")
    folder = run(wish).folder
    before = (folder / "probability_roof.tif").read_bytes()
    (folder / "probability_roof.tif").unlink()
    assert run(wish).computed == 0
    assert (folder / "probability_roof.tif").read_bytes() == before
    assert run(wish).finished_before
    run(spec(scene, model, tmp_path / "run", overwrite=True))
    assert not list(folder.glob("probability_*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "probability_roof.tif").touch()
    with pytest.raises(UsageError, match=r"probability_roof\.tif is there, but no run of tileseg wrote it"):
        run(spec(scene, model, other, keep="probabilities"))


# --- Disagreement of views ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disagreeing(scene, model, tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    out = tmp_path_factory.mktemp("out") / "run"
    return run(spec(scene, model, out, keep="disagreement", flips="hv", scales="1/2,1", formats="geojson,gpkg"))


def mirrored(path: Path, flip: tuple[slice, slice], out: Path) -> Path:
    """A scene with its rows or columns in the other order, on the same grid."""
    with rasterio.open(path) as raster:
        pixels = np.moveaxis(raster.read(), 0, -1)
    return write_scene(out, np.ascontiguousarray(pixels[flip]), nodata=0)


@pytest.mark.parametrize(
    ("kind", "merge"), [("model", "logits"), ("model", "probabilities"), ("keras_model", "logits")]
)
def test_disagreement_is_the_deviation_over_views_run_alone(request, tmp_path, kind, merge) -> None:
    """Every view by a run of its own: of a mirrored scene, or at another scale. Sizes fit the network's stride."""
    model = request.getfixturevalue(kind)
    height, width = 208, 320
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(height, width, 3), nodata=0)
    both = run(spec(scene, model, tmp_path / "both", keep="disagreement", flips="h", scales="1/2,1", merge=merge))
    mosaic = Mosaic(both.folder / MOSAIC)
    chances = []
    for k, flip in enumerate((np.s_[:, :], np.s_[:, ::-1])):
        one = mirrored(scene, flip, tmp_path / f"{k}.tif")
        for scale in ("1/2", "1"):
            alone = Mosaic(run(spec(one, model, tmp_path / f"{k}-{scale[-1]}", scales=scale)).folder / MOSAIC)
            logits = alone.read_logits(alone.grid.extent)[:, flip[0], flip[1]]
            chances.append(probabilities(np.ascontiguousarray(logits)) / CERTAIN)
    expected = np.sqrt(np.var(chances, axis=0).sum(axis=0) / 2)
    found = mosaic.read_disagreement(mosaic.grid.extent)
    # Of probabilities that are merged, the half-size view is resampled after the softmax instead of before it.
    most = 0.002 if merge == "logits" else 0.05
    assert expected.max() > 0.1
    assert np.abs(found * SPREAD_STEP - expected).max() < most
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_two_classes_disagree_by_the_deviation_of_either() -> None:
    spread = np.float16([[0, 0.1, 0.5, 0.7, np.nan]])
    found = spread_bytes(spread, np.array([[True, True, True, True, False]]))
    assert found.tolist() == [[0, 50, 250, 250, 255]]


def test_disagreement_is_the_same_for_any_block_window_and_workers(disagreeing, scene, model, tmp_path) -> None:
    views = {"keep": "logits,disagreement", "flips": "hv", "scales": "1/2,1"}
    for out, options in (("a", {"block": 192, "window": 112}), ("b", {"block": 512}), ("c", {"workers": 2})):
        other = run(spec(scene, model, tmp_path / out, **views, **options))
        assert (other.folder / "disagreement.tif").read_bytes() == (
            disagreeing.folder / "disagreement.tif"
        ).read_bytes()
        frames = [
            geopandas.read_file(report.folder / "polygons.geojson").sort_values(["pixels", "area_m2", "perimeter_m"])
            for report in (other, disagreeing)
        ]
        for name in ("mean_disagreement", "mean_probability"):
            assert sorted(frames[0][name]) == sorted(frames[1][name])


def test_disagreement_lies_in_the_mosaic_as_a_file_and_in_polygons(disagreeing) -> None:
    folder = disagreeing.folder
    assert disagreeing.outputs["disagreement"] == folder / "disagreement.tif"
    with rasterio.open(folder / "labels.tif") as raster:
        labels = raster.read(1)
    with rasterio.open(folder / "disagreement.tif") as raster:
        values = raster.read(1)
        assert (raster.nodata, raster.scales) == (255, (SPREAD_STEP,))
        assert raster.descriptions == ("standard deviation of probabilities over views",)
    assert np.array_equal(values == NODATA, labels == NODATA)
    array = xr.open_zarr(folder / "mosaic.zarr").disagreement
    assert array.dims == ("y", "x")
    np.testing.assert_allclose(array.values, np.where(values == 255, np.nan, values * SPREAD_STEP), rtol=1e-6)
    frame = geopandas.read_file(folder / "polygons.gpkg", layer="polygons")
    assert list(frame.columns).index("mean_disagreement") == list(frame.columns).index("min_probability") + 1
    with rasterio.open(folder / "labels.tif") as raster:
        transform = raster.transform
    for row in frame.sort_values("pixels").tail(40).itertuples():
        inside = geometry_mask([row.geometry], labels.shape, transform, invert=True)
        assert inside.sum() == row.pixels
        assert row.mean_disagreement == pytest.approx(values[inside].mean() * SPREAD_STEP, abs=5.1e-5)


def test_polygons_made_again_have_their_disagreement(disagreeing, scene, model, in_process) -> None:
    folder = disagreeing.folder
    before = (folder / "polygons.geojson").read_bytes()
    views = {"keep": "disagreement", "flips": "hv", "scales": "1/2,1"}
    again = run(spec(scene, model, folder, **views, min_area="40px"))
    assert again.only_polygons
    frame = geopandas.read_file(folder / "polygons.geojson")
    assert frame.mean_disagreement.between(0, 0.5).all()
    run(spec(scene, model, folder, **views))
    assert (folder / "polygons.geojson").read_bytes() == before
    assert in_process("vectorize", folder, "--out", folder / "again", "--block", 128).returncode == 0
    assert (folder / "again" / "polygons.geojson").read_bytes() == before


def test_a_run_that_keeps_labels_may_keep_disagreement_too(scene, model, tmp_path) -> None:
    report = run(spec(scene, model, tmp_path / "run", keep="labels,disagreement", flips="h"))
    assert (report.folder / "disagreement.tif").exists()
    frame = geopandas.read_file(report.folder / "polygons.geojson")
    assert {"mean_probability", "mean_disagreement"} <= set(frame.columns)
    with pytest.raises(UsageError, match="keep was labels,disagreement, is logits,disagreement"):
        run(spec(scene, model, tmp_path / "run", keep="disagreement", flips="h"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keep": "disagreement"}, r"^--keep: there is one view|^--keep disagreement: there is one view.*--flips h"),
        ({"keep": "logits,labels"}, "expected one of logits, probabilities, labels, with disagreement besides or not"),
        ({"keep": "disagrement", "flips": "h"}, "did you mean"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(options, problem) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        RunSpec.parse({"scene": "scene.tif", **options})
    assert "\n" not in str(caught.value)


def test_what_is_kept_has_one_spelling() -> None:
    for given in ("disagreement", "disagreement,logits", ["logits", "disagreement"], " logits , disagreement"):
        assert RunSpec(scene="a.tif", keep=given, flips="h").keep == "logits,disagreement"
    chosen = RunSpec(scene="a.tif", keep="disagreement,probabilities", scales="1,2")
    assert (chosen.keep, chosen.kept, chosen.keeps_disagreement) == (
        "probabilities,disagreement", "probabilities", True,
    )  # fmt: skip
    assert RunSpec(scene="a.tif").keeps_disagreement is False
