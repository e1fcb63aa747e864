"""A finished run in a script: arrays, polygons, pictures, and what is said where there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers .rio
from fakes import smooth_noise, write_scene

import tileseg
from tileseg import Run, RunSpec, open_run
from tileseg.errors import InputError, UsageError
from tileseg.storage.place import parse_place


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Run:
    """A run of 150 x 210 pixels, of which a corner has no data."""
    folder = tmp_path_factory.mktemp("run")
    pixels = smooth_noise(150, 210, 3)
    pixels[:40, :60] = 0
    scene = write_scene(folder / "in.tif", pixels, nodata=0)
    spec = RunSpec(
        scene=scene, out=folder / "out", model=str(model), keep="probabilities", formats=("geojson", "gpkg"), raw=True
    )
    return open_run(tileseg.run(spec))


def test_the_mosaic_has_names_and_no_numbers_without_data(finished) -> None:
    data = finished.mosaic
    assert list(data["class"].values) == [info.name for info in finished.classes]
    with rasterio.open(finished.folder / "labels.tif") as raster:
        labels, grid = raster.read(1), raster
        assert data.rio.crs == grid.crs
        assert data.rio.transform() == grid.transform
    there = labels != 255
    assert not there[:40, :60].any()
    np.testing.assert_array_equal(np.isnan(data.labels), ~there)
    np.testing.assert_array_equal(data.labels.values[there], labels[there])
    chances = data.probabilities.values
    assert chances.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(chances).any(axis=0), ~there)
    np.testing.assert_allclose(chances.sum(axis=0)[there], 1, atol=1e-4)
    np.testing.assert_array_equal(chances.argmax(axis=0)[there], labels[there])
    name = finished.classes[1].name
    assert data.probabilities.sel({"class": name}).shape == labels.shape


def test_polygons_are_those_in_the_scenes_own_crs(finished) -> None:
    frame = finished.polygons()
    assert len(frame) == sum(finished.report.polygons.values()) > 0
    assert frame.crs.to_epsg() == 32637
    other = geopandas.read_file(finished.report.outputs["geojson"])
    assert len(other) == len(frame)
    only = replace(finished, report=replace(finished.report, outputs={"geojson": finished.report.outputs["geojson"]}))
    assert only.polygons().crs.to_epsg() == 4326


def test_a_notebook_sees_the_picture_the_classes_and_the_files(finished) -> None:
    page = finished._repr_html_()
    for text in ("data:image/jpeg;base64,", "labels.tif", "polygons.gpkg", *(info.name for info in finished.classes)):
        assert text in page
    without = replace(finished, report=replace(finished.report, outputs={}))
    assert "img" not in without._repr_html_()
    with pytest.raises(InputError, match="no quicklook"):
        _ = without.quicklook
    with pytest.raises(InputError, match="tileseg vectorize"):
        without.polygons()


def test_a_map_has_the_largest_polygons_where_the_classes_have_colours(finished) -> None:
    page = finished.explore(most=3).get_root().render()
    assert len(re.findall(r'"type": "Feature"', page)) == 3
    areas = finished.polygons()["area_m2"].nlargest(3)
    for area in areas:
        assert str(area) in page


def test_what_is_no_finished_run_is_named(tmp_path, finished) -> None:
    with pytest.raises(InputError, match="no finished run: expected a folder that `tileseg run` made"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        open_run(tmp_path / "missing")
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"summary\.json"):
        open_run(tmp_path)
    far = Run(parse_place("s3://bucket/out"), finished.report)
    for ask in (lambda: far.mosaic, far.polygons, lambda: far.quicklook):
        with pytest.raises(UsageError, match="copy the folder here"):
            ask()


def test_names_of_the_package_are_there_when_asked_for() -> None:
    assert {name: getattr(tileseg, name).__name__ for name in tileseg.__all__ if name != "run"} == {
        name: name for name in tileseg.__all__ if name != "run"
    }
    assert Path(tileseg.__file__).name == "__init__.py"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tileseg.nothing
