"""The outputs of a run on the sample raster, opened with tools that are not ours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from PIL import Image
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import shape


@pytest.fixture(scope="module")
def outputs(sample_rasters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tileseg run` on the settlement with the embedded model, at the defaults but for formats and raw polygons."""
    folder = tmp_path_factory.mktemp("out") / "settlement.tileseg"
    subprocess.run(
        [
            sys.executable, "-m", "tileseg", "run", str(sample_rasters / "settlement.tif"), "--out", str(folder),
            "--format", "geojson,geojsonseq,gpkg,parquet,fgb", "--raw", "-q",
        ],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scene(sample_rasters) -> rasterio.DatasetReader:
    with rasterio.open(sample_rasters / "settlement.tif") as file:
        yield file


def test_the_embedded_model_finds_the_buildings_of_the_settlement(outputs, sample_rasters) -> None:
    with (
        rasterio.open(sample_rasters / "settlement_labels.tif") as truth,
        rasterio.open(outputs / "labels.tif") as made,
    ):
        expected, found = truth.read(1) == 1, made.read(1) == 1
    assert (expected & found).sum() / (expected | found).sum() > 0.55


def test_labels_are_a_valid_cog_on_the_scenes_grid(outputs, scene) -> None:
    valid, errors, warnings = cog_validate(outputs / "labels.tif", strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(outputs / "labels.tif") as labels:
        assert (labels.transform, labels.crs, labels.shape) == (scene.transform, scene.crs, scene.shape)
        assert labels.colormap(1)[1][:3] != (0, 0, 0)
        assert labels.overviews(1)[:2] == [2, 4]


def test_xarray_puts_the_mosaic_where_the_scene_is(outputs, scene) -> None:
    data = xr.open_zarr(outputs / "mosaic.zarr")
    assert data.logits.shape == (2, *scene.shape)
    assert data.labels.rio.crs == scene.crs
    assert data.labels.rio.transform().almost_equals(scene.transform)
    assert data.labels.rio.bounds() == pytest.approx(tuple(scene.bounds))
    with rasterio.open(outputs / "labels.tif") as labels:
        np.testing.assert_array_equal(data.labels.values, labels.read(1))
    np.testing.assert_array_equal(data.logits.values.argmax(axis=0), data.labels.values)


def test_all_formats_hold_the_same_polygons(outputs, scene) -> None:
    frames = {
        suffix: geopandas.read_parquet(outputs / f"polygons.{suffix}")
        if suffix == "parquet"
        else geopandas.read_file(outputs / f"polygons.{suffix}", layer="polygons" if suffix == "gpkg" else None)
        for suffix in ("geojson", "geojsonl", "gpkg", "parquet", "fgb")
    }
    first = frames["gpkg"].sort_values("id").reset_index(drop=True)
    assert first.crs == scene.crs
    for suffix, frame in frames.items():
        ordered = frame.sort_values("id").reset_index(drop=True)
        for column in first.columns.drop("geometry"):
            assert ordered[column].tolist() == first[column].tolist(), (suffix, column)
        apart = ordered.to_crs(scene.crs).geometry.hausdorff_distance(first.geometry)
        assert apart.max() < (0.02 if "geojson" in suffix else 1e-9), suffix  # 7 decimals of a degree are a centimetre
    with rasterio.open(outputs / "labels.tif") as labels:
        values, grid = labels.read(1), labels.transform
    wanted = (values != 255) & (values != 0)
    whole = [shape(geometry) for geometry, _ in rasterio.features.shapes(values, mask=wanted, transform=grid)]
    assert sorted(g.normalize().wkb for g in whole) == sorted(g.normalize().wkb for g in first.geometry)


def test_what_is_handed_over_without_a_word_is_clean(outputs, tmp_path) -> None:
    command = [sys.executable, "-m", "tileseg", "vectorize", str(outputs), "--out", str(tmp_path / "clean.gpkg"), "-q"]
    subprocess.run(command, check=True)
    clean, raw = (
        geopandas.read_file(f, layer="polygons") for f in (tmp_path / "clean.gpkg", outputs / "polygons.gpkg")
    )
    assert clean.geometry.is_valid.all()
    assert clean.area.min() > 2  # of 4 square metres as the pixels have them, before walls were straightened
    assert raw.area.min() < 1
    assert clean.geometry.count_coordinates().median() < 0.5 * raw.geometry.count_coordinates().median()


def test_gdal_tools_open_everything(outputs) -> None:
    if shutil.which("ogrinfo") is None or shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo and ogrinfo are not installed (Debian: gdal-bin)")
    count = len(geopandas.read_file(outputs / "polygons.geojson"))
    for suffix in ("geojson", "geojsonl", "gpkg", "fgb"):
        told = subprocess.run(
            ["ogrinfo", "-ro", "-so", "-al", str(outputs / f"polygons.{suffix}")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"Feature Count: {count}" in told.stdout
        assert told.stderr == ""
    told = subprocess.run(["gdalinfo", str(outputs / "labels.tif")], capture_output=True, text=True, check=True)
    for word in ("LAYOUT=COG", "Color Table", "NoData Value=255", "Overviews"):
        assert word in told.stdout


def test_the_quicklook_is_a_picture(outputs) -> None:
    with Image.open(outputs / "quicklook.png") as picture:
        assert picture.width > 3 * 400
        assert len(picture.convert("RGB").resize((64, 32)).getcolors(4096) or []) > 100


def test_the_summary_says_what_was_done(outputs) -> None:
    summary = json.loads((outputs / "summary.json").read_text())
    assert summary["plan"]["exact"]
    assert summary["report"]["peak_memory"] < summary["report"]["projected_memory"]
    assert summary["model"]["name"]
    assert set(summary["versions"]) >= {"tileseg", "tensorflow", "keras", "zarr"}
