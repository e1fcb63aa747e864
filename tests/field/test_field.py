"""Bug reports of others, recreated: the inputs that each case's ``make.py`` draws, and what its ``expect.md`` says.

The cases lie beside the real rasters; the tests skip where there are none.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely

import tileseg

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = Path(tileseg.__file__).parent

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``make.py`` of every case; :func:`made` runs one."""
    data = Path(os.environ.get("TILESEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    source = data.parent / "field"
    if not source.is_dir():
        pytest.skip(f"no field cases: {source} is not a folder (it lies beside TILESEG_TEST_DATA)")
    root = tmp_path_factory.mktemp("field")
    for script in source.glob("*/make.py"):
        folder = root / script.parent.name
        folder.mkdir()
        shutil.copy(script, folder)
    return root


def made(cases: Path, number: str) -> Path:
    """The folder of a case, with its inputs."""
    (folder,) = cases.glob(f"{number}_*")
    if len(list(folder.iterdir())) == 1:
        runpy.run_path(str(folder / "make.py"))
    return folder


def done(told: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert told.returncode == 0, told.stderr
    assert "Traceback" not in told.stderr
    return told


def refused(told: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert told.returncode in (1, 2, 42)
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("tileseg: ")]
    assert "Traceback" not in told.stderr
    return line


def polygons(in_process, labels: Path, out: Path) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Those of a label raster as GeoJSON and as GeoPackage."""
    done(in_process("vectorize", labels, "--out", out, "--format", "geojson,gpkg"))
    json_, package = (geopandas.read_file(out / f"polygons.{end}", layer="polygons") for end in ("geojson", "gpkg"))
    assert json_.is_valid.all()
    assert len(json_) == len(package)
    return json_, package


@pytest.mark.parametrize("name", ["global", "stripe", "narrow", "mercator"])
def test_01_polygons_wider_than_half_the_globe(in_process, cases, tmp_path, name) -> None:
    found, package = polygons(in_process, made(cases, "01") / f"{name}.tif", tmp_path)
    expected = shapely.area(package.to_crs(4326).geometry.to_numpy())
    assert shapely.area(found.geometry.to_numpy()) == pytest.approx(expected, rel=2e-2)
    west, _, east, _ = found.total_bounds
    assert (west, east) >= (-180 - 1e-9, -180)
    assert east <= 180 + 1e-9
    if name == "global":
        assert shapely.area(found[found["class"] == 1].geometry.to_numpy()) == pytest.approx([21600, 21600])


@pytest.mark.parametrize(("name", "pole", "equal_area"), [("arctic", 89.9, 6931), ("antarctic", -89.9, 6932)])
def test_03_a_pole_inside(in_process, cases, tmp_path, name, pole, equal_area) -> None:
    found, package = polygons(in_process, made(cases, "03") / f"{name}.tif", tmp_path)
    inside = found[found.contains(shapely.Point(0, pole)) | found.touches(shapely.Point(0, pole))]
    assert inside["class"].tolist() == [1]
    # Edges are straight in degrees, so that they are cut into short ones before they are measured.
    pieces = found.geometry.segmentize(0.05).to_crs(equal_area)
    assert pieces.area.to_numpy() == pytest.approx(package["area_m2"].to_numpy(), rel=1e-2)


def test_04_long_edges_keep_within_a_pixel(in_process, cases, tmp_path) -> None:
    found, package = polygons(in_process, made(cases, "04") / "tile.tif", tmp_path)
    # As RFC 7946 says: straight between positions, in degrees.
    back = found.geometry.segmentize(0.002).to_crs(32633)
    for mine, theirs in zip(back, package.geometry, strict=True):
        assert shapely.hausdorff_distance(mine.boundary, theirs.boundary) < 100
    upper, lower = (shapely.union_all(found[found["class"] == c].geometry) for c in (1, 2))
    assert upper.intersection(lower).area == pytest.approx(0, abs=1e-12)
    gaps = [shapely.Polygon(ring) for ring in shapely.union_all(found.geometry).interiors]
    assert sum(shapely.area(gaps)) < 1.8e-6  # all along 110 km, less than one pixel, in square degrees


def test_06_near_infrared_that_is_called_alpha(in_process, cases, model, tmp_path) -> None:
    folder = made(cases, "06")
    for name in ("rgbn", "rgbn_undefined"):
        out = tmp_path / name
        done(
            in_process(
                "run", folder / f"{name}.tif", "--bands", "4,1,2", "--model", model, "--workers", 0, "--out", out
            )
        )
        with rasterio.open(out / "labels.tif") as labels:
            assert (labels.read(1) != 255).all()
    table = done(in_process("dataset", "check", folder / "four.toml")).stdout.splitlines()
    (row,) = [line for line in table if "rgbn " in line]
    assert row.split()[-1] == "-"  # nothing unknown


@pytest.mark.parametrize("name", ["same", "other", "mask"])
def test_07_labels_with_alpha_on_any_grid(in_process, cases, name) -> None:
    told = done(in_process("dataset", "check", made(cases, "07") / f"{name}.toml"))
    assert "13.7 %" in told.stdout or "13.6 %" in told.stdout or "13.8 %" in told.stdout, told.stdout
    assert "21.9 %" in told.stdout or "22.0 %" in told.stdout or "21.8 %" in told.stdout, told.stdout


@pytest.mark.parametrize("name", ["l.geojsonl", "l.kml", "l.fgb", "l.gml", "l.gpkg", "null.gpkg"])
def test_08_vector_labels_whose_extent_is_not_known(in_process, cases, name) -> None:
    told = done(in_process("dataset", "check", made(cases, "08") / f"{name}.toml"))
    assert "14.6 %" in told.stdout, told.stdout


def test_10_an_exclamation_mark_in_a_path(in_process, cases, model, tmp_path) -> None:
    folder = made(cases, "10") / "!top"
    out = folder / "out"
    done(in_process("vectorize", folder / "lab.tif", "--out", out, "--format", "geojson,gpkg,fgb,parquet"))
    assert sorted(path.suffix for path in out.iterdir()) == [".fgb", ".geojson", ".gpkg", ".parquet", ".qml"]
    run = ("run", folder / "scene.tif", "--model", model, "--workers", 0, "--format", "gpkg")
    done(in_process(*run, "--aoi", folder / "aoi.gpkg", "--out", folder / "run"))
    with rasterio.open(folder / "run/labels.tif") as labels:
        assert np.count_nonzero(labels.read(1) != 255) == 50 * 50  # the area is 25 m wide, pixels half a metre
    done(in_process("dataset", "check", folder / "d.toml"))
    # Relative to the folder, too.
    done(in_process("vectorize", "lab.tif", "--out", "again", "--format", "gpkg", cwd=folder))


def test_12_installed_read_only_without_a_home(cases, tmp_path) -> None:
    folder = made(cases, "12")
    shutil.copytree(
        PACKAGE, tmp_path / "tileseg", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    for inside in {path.parent for path in (tmp_path / "tileseg").rglob("*.py")}:
        (inside / "__pycache__").touch()  # where no machine code can be kept, not even by root
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/dev/null"}
    command = [sys.executable, "-m", "tileseg", "dataset", "check", str(folder / "d.toml")]
    done(subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False))


@pytest.mark.parametrize("name", ["turned180", "turned90", "square90", "upright"])
def test_14_photographs_are_turned_as_they_are_shown(in_process, cases, name, tmp_path) -> None:
    """Bright pixels of the picture are those of its mask, or the check says that they are not."""
    told = in_process("dataset", "check", made(cases, "14") / f"{name}.toml", "--sheet", tmp_path / "sheet.png")
    if told.returncode:
        assert "turn" in refused(told).lower() or "exif" in refused(told).lower()
        return
    from tileseg.source.scene import open_scene

    scene = open_scene(made(cases, "14") / f"{name}.jpg", expected=3)
    bright = scene.read(scene.grid.extent)[0].mean(axis=-1) > 105
    with rasterio.open(made(cases, "14") / ("mask_sq.png" if name == "square90" else "mask.png")) as file:
        mask = file.read(1) == 1
    aligned = bright.shape == mask.shape and (bright & mask).sum() / (bright | mask).sum() > 0.9
    assert aligned or "EXIF" in told.stdout + told.stderr or "turn" in told.stdout + told.stderr


def building_iou(told: subprocess.CompletedProcess[str]) -> float:
    return json.loads(done(told).stdout)["by_class"]["building"]["iou"]


def test_15_nodata_of_0_in_an_evaluation(in_process, cases, tmp_path) -> None:
    folder = made(cases, "15")
    options = ("--classes", "other,building", "--no-distances", "--json")

    def evaluate(name: str, truth: str, prediction: str, *more: str) -> subprocess.CompletedProcess[str]:
        pair = (folder / prediction, folder / truth)
        return in_process("evaluate", "--labels", *pair, *options, "--out", tmp_path / name, *more)

    assert building_iou(evaluate("plain", "truth.tif", "pred.tif")) == pytest.approx(0.171, abs=1e-3)
    maps = [text for side in ("--map-truth", "--map") for what in ("0=other", "1=building") for text in (side, what)]
    mapped = evaluate("mapped", "truth0.tif", "pred0.tif", *maps)
    assert building_iou(mapped) == pytest.approx(0.171, abs=1e-3)
    hidden = done(evaluate("hidden", "truth0.tif", "pred0.tif"))
    assert "nodata" in hidden.stderr or "nodata" in hidden.stdout


@pytest.mark.slow
def test_16_nodata_of_0_in_training(in_process, shallow, unfused, cases, tmp_path) -> None:
    folder = made(cases, "16")
    options = (
        "--network", "width=0.1,encoder=unet,batch_norm=false,decoder_convs=1", "--crop", 96,
        "--batch", 2, "--steps", 2, "--steps-per-epoch", 2,
        "--warmup", 0,
    )  # fmt: skip
    told = done(in_process("train", folder / "d.toml", "--out", tmp_path / "m", *options))
    assert "calls its value 0 nodata" in told.stderr + told.stdout
    told = done(in_process("dataset", "check", folder / "mapped.toml"))
    assert "calls its value 0 nodata" not in told.stderr + told.stdout


def pack(in_process, archive: Path, folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    given = ("--classes", "other:#c8b99a,building:#d9544d", "--divisor", 255, *more)
    return in_process("model", "pack", archive, folder, *given)


@pytest.mark.parametrize("name", ["fixed128", "fixed100", "any"])
def test_17_what_pack_takes_check_proves_and_run_computes(in_process, cases, tmp_path, name) -> None:
    folder = made(cases, "17")
    told = pack(in_process, folder / f"{name}.keras", tmp_path / "m", "--activation", "softmax")
    if told.returncode:
        assert name == "fixed100"  # no multiple of the stride: or it is freed, and proved
        refused(told)
        return
    done(in_process("model", "check", tmp_path / "m"))
    done(in_process("run", folder / "scene.tif", "--model", tmp_path / "m", "--workers", 0, "--out", tmp_path / "o"))
    with rasterio.open(tmp_path / "o/labels.tif") as labels:
        assert (labels.read(1) != 255).all()


def test_17_valid_padding_is_refused(in_process, cases, tmp_path) -> None:
    refused(pack(in_process, made(cases, "17") / "valid.keras", tmp_path / "m", "--activation", "softmax"))


def test_19_a_graph_that_ends_in_softmax_gives_no_logits(in_process, cases, tmp_path) -> None:
    archive = made(cases, "19") / "soft.keras"
    assert "softmax" in refused(pack(in_process, archive, tmp_path / "m"))
    done(pack(in_process, archive, tmp_path / "right", "--activation", "softmax"))


def test_33_a_script_without_a_guard(cases) -> None:
    folder = made(cases, "33")
    script = [sys.executable, "script.py"]
    told = subprocess.run(script, cwd=folder, capture_output=True, text=True, check=False)
    if told.returncode == 0:
        assert (folder / "scene.tileseg/summary.json").exists()
    else:
        assert 'if __name__ == "__main__":' in told.stderr.splitlines()[-1]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## From Python")[2]
    assert 'if __name__ == "__main__":' in readme.partition("##")[0]
