"""``tileseg dataset check``: everything that is wrong is listed, and the sheet shows what is read."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from dataset_files import CLASSES, box, dataset, noise, patchy, polygons, write
from PIL import Image
from typer.testing import CliRunner

from tileseg.cli.dataset import app
from tileseg.dataset.check import check_dataset
from tileseg.dataset.facts import DatasetReport
from tileseg.dataset.sheet import visible, write_sheet
from tileseg.errors import InputError, UsageError

runner = CliRunner()


def scenes(*pairs: tuple[str, str, str]) -> str:
    return "".join(f"[[scenes]]\nsplit = '{s}'\nimage = '{i}'\nlabels = '{t}'\n" for s, i, t in pairs)


def messages(report: DatasetReport, level: str) -> list[str]:
    assert all("\n" not in finding.message for finding in report.findings)
    return [finding.message for finding in report.findings if finding.level == level]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    for name, shape in (("a", (300, 420)), ("b", (90, 500))):
        write(tmp_path / f"{name}.png", noise(*shape))
        write(tmp_path / f"{name}_labels.png", patchy(*shape, cell=40))
    return dataset(tmp_path, scenes(("train", "a.png", "a_labels.png"), ("validate", "b.png", "b_labels.png")))


def test_a_sound_dataset_has_no_findings(good: Path) -> None:
    report = check_dataset(good)
    assert report.findings == ()
    first = report.facts[0]
    labels = patchy(300, 420, cell=40)
    assert first.counts == (*np.bincount(labels.ravel(), minlength=3).tolist(), 0)
    np.testing.assert_allclose(first.mean, noise(300, 420).mean(axis=(0, 1)))
    np.testing.assert_allclose(first.std, noise(300, 420).std(axis=(0, 1)))
    np.testing.assert_allclose(report.shares("train"), np.bincount(labels.ravel()) / labels.size)
    assert (first.size, first.crs, first.ground_sample_distance, first.source) == ((300, 420), None, None, "raster")


def test_all_problems_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "fine.tif", noise(60, 90))
    write(tmp_path / "fine_labels.tif", patchy(60, 90))
    write(tmp_path / "small.png", patchy(50, 90))
    wrong = patchy(60, 90)
    wrong[:30] += 40
    write(tmp_path / "ids.tif", wrong)
    write(tmp_path / "palette.png", wrong, palette={i: (i, 0, 0, 255) for i in range(50)})
    write(tmp_path / "picture.png", noise(60, 90))
    write(tmp_path / "lossy.jpg", noise(60, 90, 1))
    write(tmp_path / "grey.png", noise(60, 90, 1))
    write(tmp_path / "unlabelled.tif", np.full((60, 90), 255, np.uint8))
    polygons(tmp_path / "away.geojson", [(box(5000, 0, 9, 9), {})])
    bad = {
        "small.png": "is 90 x 50 pixels, fine.tif is 90 x 60",
        "ids.tif": "values 40 (",
        "palette.png": "positions in its palette",
        "picture.png": "if its colours stand for classes",
        "lossy.jpg": "JPEG changes values",
        "unlabelled.tif": "no pixel has a known class",
        "away.geojson": "which class its polygons are",
        "nowhere.tif": "is not there",
    }
    text = scenes(("train", "fine.tif", "fine_labels.tif"), *(("train", "fine.tif", name) for name in bad))
    text += scenes(("train", "gone.tif", "gone_labels.tif"), ("train", "grey.png", "fine_labels.tif"))
    report = check_dataset(dataset(tmp_path, text))
    errors = messages(report, "error")
    for name, told in bad.items():
        assert any(f"{name}: " in line and told in line for line in errors), (name, errors)
    assert any("gone.tif: is not there" in line for line in errors)
    assert any("gone_labels.tif: is not there" in line for line in errors)
    assert any("grey.png: has 1 band" in line and "image_bands" in line for line in errors)
    assert len(errors) == report.errors == len(bad) + 3
    ids = next(line for line in errors if "ids.tif" in line)
    assert all(f"{value} (" in ids for value in (40, 41, 42))


def test_what_is_odd_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", noise(60, 90))
    write(tmp_path / "flat.png", np.full((60, 90, 3), 7, np.uint8))
    labels = patchy(60, 90)
    write(tmp_path / "nodata.tif", labels, nodata=0)
    write(tmp_path / "plain.png", np.zeros((60, 90), np.uint8))
    rare = np.full((60, 90), 255, np.uint8)
    rare[0, :40] = 1
    write(tmp_path / "rare.tif", rare)
    text = scenes(
        ("train", "a.tif", "nodata.tif"), ("train", "flat.png", "plain.png"), ("train", "a.tif", "plain.png"),
        ("validate", "a.tif", "rare.tif"),
    )  # fmt: skip
    report = check_dataset(dataset(tmp_path, f"ground_sample_distance = 0.3\n{text}"))
    assert report.errors == 0
    found = messages(report, "warning")
    for told in (
        "nodata.tif: calls its value 0 nodata",
        "flat.png: is the same everywhere in red, green, blue",
        "flat.png: has no coordinate reference system, so its ground sample distance is not known",
        "plain.png: has nothing but 'ground'",
        "plain.png: has no coordinate reference system; image and labels are taken to be on one grid",
        "rare.tif: the class of 9",
        "which is trained on: scores would be too good",
        "a.tif: has 0.5 m per pixel and is enlarged 1.67 times",
        "no scene for validation has a pixel of 'water'",
    ):
        assert any(told in line for line in found), (told, found)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_labels_that_do_not_say_where_they_lie_are_told(tmp_path: Path, suffix: str) -> None:
    image = write(tmp_path / "a.tif", noise(60, 90))
    rings = [box(5, 7, 30, 20), box(40, 20, 31, 30)]
    vector = tmp_path / f"l{suffix}"
    frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(ring) for ring in rings])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what is wanted here
        frame.to_parquet(vector) if suffix == ".parquet" else frame.to_file(vector)
    polygons(tmp_path / "metres.geojson", [(ring, {}) for ring in rings], crs=None)
    write(tmp_path / "same.tif", patchy(60, 90), crs=None)
    write(tmp_path / "other.tif", patchy(70, 90), crs=None)
    named = ("same.tif", "other.tif", vector.name, "metres.geojson")
    text = "class = 'building'\n" + scenes(*(("train", image.name, name) for name in named))
    report = check_dataset(dataset(tmp_path, text))
    assert report.errors == 0
    told = [line for line in messages(report, "warning") if "taken to" in line]
    expected = (
        "same.tif: has no coordinate reference system; image and labels are taken to be on one grid",
        "other.tif: has no coordinate reference system; image and labels are taken to have the same coordinates",
        f"{vector.name}: has no coordinate reference system; its polygons are taken to be in the image's coordinates",
        "metres.geojson: is in degrees by what it says (or, as GeoJSON, does not say), but its numbers are too large",
    )
    assert len(told) == len(expected)
    for line, start in zip(told, expected, strict=True):
        assert start in line
    # Both files of polygons lie where they should.
    drawn = [scene.read_labels(scene.extent) for scene in report.scenes[2:]]
    assert (drawn[0] == 1).sum() == 30 * 20 + 31 * 30
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_masks_of_0_and_255_are_doubted_unless_it_is_said_what_255_is(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(60, 90))
    write(tmp_path / "mask.png", patchy(60, 90, classes=2) * np.uint8(255))
    some = patchy(60, 90)
    some[:9] = 255
    write(tmp_path / "some.png", some)
    pairs = scenes(("train", "a.png", "mask.png"), ("train", "a.png", "some.png"))
    told = [line for line in messages(check_dataset(dataset(tmp_path, pairs)), "warning") if "but 0 and" in line]
    assert len(told) == 1
    assert "mask.png: has no values but 0 and 255" in told[0]
    assert 'label_map = { 0 = "ground", 255 = "building" }' in told[0]
    for said in ("ignore = [255]\n", "label_map = { 0 = 'ground', 255 = 'ignore', 1 = 1, 2 = 2 }\n"):
        told = messages(check_dataset(dataset(tmp_path, said + pairs)), "warning")
        assert not [line for line in told if "no values but" in line]
        assert any("mask.png: has nothing but 'ground'" in line for line in told)
    said = "label_map = { 0 = 'ground', 255 = 'building', 1 = 1, 2 = 2 }\n"
    assert check_dataset(dataset(tmp_path, said + pairs)).facts[0].unknown == 0


def test_overlapping_ground_is_told(tmp_path: Path) -> None:
    from affine import Affine
    from dataset_files import NORTH_UP

    write(tmp_path / "a.tif", noise(60, 90))
    write(tmp_path / "b.tif", noise(60, 90, seed=1), transform=NORTH_UP @ Affine.translation(81, 0))
    write(tmp_path / "l.png", patchy(60, 90))
    path = dataset(tmp_path, scenes(("train", "a.tif", "l.png"), ("validate", "b.tif", "l.png")))
    told = [line for line in messages(check_dataset(path), "warning") if "shows 10 % of" in line]
    assert len(told) == 1
    assert "b.tif" in told[0]


def test_the_command_prints_a_table_json_and_a_sheet(good: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = runner.invoke(app, ["check", str(good), "--sheet", str(sheet)], catch_exceptions=False)
    assert done.exit_code == 0
    assert ": 2 scenes, bands" in done.stdout
    assert "420 x 300" in done.stdout
    assert "0 ground (background), 1 building, 2 water" in done.stdout
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    facts = json.loads(runner.invoke(app, ["check", str(good), "--json"], catch_exceptions=False).stdout)
    assert [scene["name"] for scene in facts["scenes"]] == ["a", "b"]
    assert sum(facts["scenes"][0]["pixels"].values()) == 300 * 420
    assert facts["problems"] == []


def test_a_dataset_that_cannot_be_used_ends_with_42(good: Path, tmp_path: Path) -> None:
    (tmp_path / "b_labels.png").unlink()
    done = runner.invoke(app, ["check", str(good)])
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 42
    assert "1 error (see above)" in str(done.exception)
    assert ": 1 scene, bands" in done.stdout
    assert "error: " in done.stdout
    for arguments, told in ((["--gsd", "fine"], "--gsd fine"), (["--sheet", "a.jpg"], "--sheet a.jpg")):
        refused = runner.invoke(app, ["check", str(good), *arguments])
        assert isinstance(refused.exception, UsageError)
        assert told in str(refused.exception)
    assert isinstance(runner.invoke(app, ["check", str(tmp_path / "no.toml")]).exception, InputError)


def test_the_sheet_shows_the_image_beside_its_labels(tmp_path: Path) -> None:
    pixels, labels = noise(120, 200), np.zeros((120, 200), np.uint8)
    labels[30:90, 50:150] = 1
    labels[:, 180:] = 255
    write(tmp_path / "a.png", pixels)
    write(tmp_path / "l.png", labels)
    write_sheet(tmp_path / "s.png", check_dataset(dataset(tmp_path, scenes(("train", "a.png", "l.png")))))
    page = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    rows = next(
        row for row in range(page.shape[0] - 120) if (page[row : row + 120, 24:224] == pixels.astype(int)).all()
    )
    beside = page[rows : rows + 120, 24 + 288 + 4 :][:, :200]
    difference = np.abs(beside - pixels).sum(axis=2) > 0
    assert not difference[:25, :170].any()
    assert not difference[37:83, 57:143].any()  # outlines hide nothing
    assert difference[30:90, 50].all()
    assert difference[30:90, 49].all()
    assert difference[:, 181:].mean() > 0.95


def test_pictures_of_other_types_are_stretched() -> None:
    pixels = (np.linspace(1000, 3000, 60 * 40).reshape(60, 40, 1) * [1, 2, 3]).astype(np.uint16)
    known = np.ones((60, 40), bool)
    known[:10] = False
    picture = visible(pixels, known)
    assert picture.shape == (60, 40, 3)
    assert picture[known].min() == 0
    assert picture.max() == 255
    grey = visible(pixels[..., :1], known)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom tileseg.cli.main import main\nsys.argv = ['tileseg', 'dataset', 'check', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'rasterio', 'numba', 'pyogrio', 'keras', 'tensorflow', 'shapely'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.real_data
def test_polygons_of_real_buildings_lie_where_their_raster_says(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "buildings"
    text = "".join(
        f"[[scenes]]\nimage = '{folder}/zanzibar_1_rgb.tif'\nlabels = '{folder}/{n}'\n"
        for n in ("zanzibar_1_buildings.tif", "zanzibar_osm_buildings.geojson")
    )
    classes = CLASSES.rpartition("[[classes]]")[0]
    report = check_dataset(dataset(tmp_path, f"ground_sample_distance = 0.3\n{text}", classes))
    assert report.errors == 0
    assert [fact.ground_sample_distance for fact in report.facts] == pytest.approx([0.07398, 0.07398], abs=1e-5)
    raster, drawn = (scene.read(scene.extent)[1] == 1 for scene in report.scenes)
    assert (raster & drawn).sum() / (raster | drawn).sum() > 0.97
