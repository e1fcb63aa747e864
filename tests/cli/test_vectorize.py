"""Where ``tileseg vectorize`` writes: a folder, or a file by its ending; and what ``run`` prints first."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from fakes import smooth_noise, write_scene

from tileseg.formats import FORMATS


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    from tileseg import RunSpec, run

    folder = tmp_path_factory.mktemp("run")
    scene = write_scene(folder / "scene.tif", smooth_noise(90, 140, 3))
    return run(RunSpec(scene=scene, model=str(model), out=folder / "scene.tileseg", workers=0)).folder


@pytest.mark.parametrize("given", ["", "mosaic.zarr"])
def test_polygons_of_a_run_go_into_its_folder(in_process, finished, tmp_path, given) -> None:
    name = f"again{len(given)}"
    told = in_process("vectorize", finished / given, "--name", name, "--format", "gpkg,geojson", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert [Path(path).parent for path in json.loads(told.stdout)["outputs"].values()] == [finished] * 3
    assert (finished / f"{name}.geojson").read_bytes() == (finished / "polygons.geojson").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_polygons_of_a_run_are_not_replaced_without_a_word(in_process, finished) -> None:
    before = (finished / "polygons.geojson").read_bytes()
    told = in_process("vectorize", finished, "--min-area", "50px")
    assert told.returncode == 2
    assert "polygons.geojson: exists; choose another --out or --name, or --overwrite it" in told.stderr
    assert (finished / "polygons.geojson").read_bytes() == before


def test_polygons_of_a_raster_go_into_the_current_folder(in_process, tmp_path) -> None:
    labels = np.zeros((30, 50, 1), np.uint8)
    labels[5:20, 10:30] = 1
    (tmp_path / "rasters").mkdir()
    write_scene(tmp_path / "rasters/labels.tif", labels)
    assert in_process("vectorize", "rasters/labels.tif", cwd=tmp_path).returncode == 0
    assert (tmp_path / "polygons.geojson").exists()


@pytest.mark.parametrize("name", ["t.gpkg", "t.geojson", "T.GEOJSONL", "t.fgb", "t.parquet"])
def test_a_file_is_a_file(in_process, finished, tmp_path, name) -> None:
    told = in_process("vectorize", finished, "--out", tmp_path / "new" / name)
    assert told.returncode == 0, told.stderr
    file = tmp_path / "new" / name
    assert file.is_file()
    assert (tmp_path / "new" / f"{name[0]}.qml").is_file()
    read = next(form.read for form in FORMATS.values() if form.suffix == file.suffix.lower())
    assert len(read(file)) == len(geopandas.read_file(finished / "polygons.geojson"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--out", "t.gpkg", "--format", "geojson"), "is a file of the format gpkg, but --format says geojson"),
        (("--out", "t.gpkg", "--name", "u"), "is the name of a file already"),
        (("--out", "t.shp"), ".shp is no format that tileseg writes; expected a folder, or a file ending in .geojson"),
        (("--out", "t.json"), ".json is no format"),
    ],
)
def test_names_that_contradict_are_refused(in_process, finished, tmp_path, options, what) -> None:
    told = in_process("vectorize", finished, *options, cwd=tmp_path)
    assert told.returncode == 2
    assert what in told.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_be_called_as_a_file(in_process, finished, tmp_path) -> None:
    (tmp_path / "t.gpkg").mkdir()
    assert in_process("vectorize", finished, "--out", tmp_path / "t.gpkg").returncode == 0
    assert (tmp_path / "t.gpkg/polygons.geojson").is_file()


def test_a_run_prints_what_it_found_first(in_process, model, tmp_path) -> None:
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(60, 80, 3))
    options = ("run", scene, "--model", model, "--workers", "0", "--out")
    short, long = (in_process(*options, tmp_path / name, *more).stdout for name, more in (("a", ()), ("b", ("-v",))))
    lines = short.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'a'}: done in ")
    assert lines[1].startswith("polygons: ")
    assert lines[2].split() == ["mosaic", str(tmp_path / "a/mosaic.zarr")]
    assert "seconds" not in short
    assert "whole run (wall clock)" in long
    other = in_process(*options, tmp_path / "a", "--min-area", "9px")
    assert "was finished; polygons made anew from its mosaic" in other.stdout.splitlines()[0]
    assert "finished already" in in_process(*options, tmp_path / "a", "--min-area", "9px").stdout.splitlines()[0]
