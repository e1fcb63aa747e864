"""Windows of one picture of labels, each a scene of its own, must merge into the polygons of the whole picture."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from fakes import CLASSES
from pyproj import CRS

from tileseg.batch.layer import write_layer
from tileseg.errors import InputError, UsageError
from tileseg.formats import FORMATS as KNOWN
from tileseg.grid import Grid
from tileseg.mosaic import create_mosaic
from tileseg.run.vectorize import Classes, vectorize
from tileseg.spec import VectorOptions
from tileseg.window import Window

HEIGHT, WIDTH = 170, 230
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)


def picture(seed: int = 4) -> np.ndarray:
    """Blobs of two classes on background."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(HEIGHT // 10 + 1, WIDTH // 10 + 1))
    smooth = np.kron(coarse, np.ones((10, 10)))[:HEIGHT, :WIDTH] + rng.normal(scale=0.15, size=(HEIGHT, WIDTH))
    return np.select([smooth > 0.8, smooth < -0.9], [1, 2], 0).astype(np.uint8)


def make_run(folder: Path, labels: np.ndarray, window: Window, form: str = "parquet", crs: str = "EPSG:32637") -> Path:
    """The run of a window, as far as a merge looks at it. 255 is nodata."""
    folder.mkdir(parents=True)
    grid = Grid(HEIGHT, WIDTH, PLACE, CRS.from_user_input(crs).to_wkt())[window]
    part = np.ascontiguousarray(labels[window.slices])
    mosaic = create_mosaic(folder / "mosaic.zarr", grid, (256, 256), CLASSES, "labels", {})
    mosaic.write_block(grid.extent, None, part)
    path = folder / f"polygons{KNOWN[form].suffix}"
    report = vectorize(mosaic, {form: path}, Classes.of_card(CLASSES), VectorOptions())
    pixels = {info.name: int((part == i).sum()) for i, info in enumerate(CLASSES)}
    found = {"polygons": report.counts, "pixels": pixels, "blocks": 1, "outputs": {form: str(path)}}
    summary = {
        "report": found, "written": "2026-01-02T03:04:05+00:00", "scene": {"path": f"{folder.name}.tif"},
        "model": {"name": "tiny", "sha256": "0" * 64},
        "versions": dict.fromkeys(("tileseg", "keras", "tensorflow"), "1"),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_json_on_request(tmp_path, in_process) -> None:
    make_run(tmp_path / "one.tileseg", picture(), Window(0, 0, HEIGHT, WIDTH))
    told = json.loads(in_process("merge", tmp_path, "--out", tmp_path / "all.gpkg", "--json").stdout)
    assert (told["scenes"], told["output"]) == (1, str(tmp_path / "all.gpkg"))
    assert told["polygons"] == len(geopandas.read_file(tmp_path / "all.gpkg"))
    with closing(sqlite3.connect(tmp_path / "all.gpkg")) as database:  # older GDALs warn of what is newer
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)
        assert database.execute("SELECT extension_name FROM gpkg_extensions").fetchone() == ("gpkg_rtree_index",)


def of_class(frame: geopandas.GeoDataFrame, name: str) -> geopandas.GeoDataFrame:
    return frame[frame["class_name"] == name]


def check(merged: geopandas.GeoDataFrame, whole: geopandas.GeoDataFrame, blur: float = 0.0) -> None:
    """The same polygons, up to the order of vertices; ``blur``: metres by which borders may differ."""
    for name in ("roof", "water"):
        ours, theirs = of_class(merged, name), of_class(whole, name)
        difference = shapely.union_all(ours.geometry).symmetric_difference(shapely.union_all(theirs.geometry))
        assert difference.area <= 1e-6 + blur * theirs.length.sum()
        assert len(ours) == len(theirs)
        np.testing.assert_allclose(sorted(ours.area), sorted(theirs.area), atol=1e-6 + blur * 400)
        np.testing.assert_allclose(sorted(ours.area_m2), sorted(theirs.area_m2), rtol=1e-3 + blur)
        assert ours.pixels.sum() == pytest.approx(theirs.pixels.sum(), abs=len(ours))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> geopandas.GeoDataFrame:
    folder = make_run(tmp_path_factory.mktemp("whole") / "whole.tileseg", picture(), Window(0, 0, HEIGHT, WIDTH))
    return geopandas.read_parquet(folder / "polygons.parquet")


TILES = {
    "abutting": [Window(0, 0, 80, 110), Window(0, 110, 80, 120), Window(80, 0, 90, 110), Window(80, 110, 90, 120)],
    "overlapping": [Window(0, 0, 100, 130), Window(0, 97, 100, 133), Window(70, 0, 100, 130), Window(70, 97, 100, 133)],
    "one inside": [Window(0, 0, HEIGHT, WIDTH), Window(30, 50, 60, 90)],
    "twice the same": [Window(0, 0, HEIGHT, WIDTH), Window(0, 0, HEIGHT, WIDTH)],
}


@pytest.mark.parametrize("tiling", TILES)
def test_scenes_merge_into_the_polygons_of_the_whole(tmp_path, whole, tiling) -> None:
    for i, window in enumerate(TILES[tiling]):
        make_run(tmp_path / f"{i}.tileseg", picture(), window)
    report = write_layer(tmp_path, tmp_path / "all.parquet")
    merged = geopandas.read_parquet(tmp_path / "all.parquet")
    check(merged, whole)
    assert (report.scenes, report.polygons) == (len(TILES[tiling]), len(merged))
    assert merged.crs.to_epsg() == 32637
    assert list(merged.id) == list(range(1, len(merged) + 1))
    assert (report.cut > 0) == (tiling != "abutting")


def test_where_one_has_no_data_the_other_counts(tmp_path, whole) -> None:
    left, right = picture(), picture()
    left[20:90, 60:140] = 255  # in the left scene's own half, too
    make_run(tmp_path / "a.tileseg", left, Window(0, 0, HEIGHT, 150))
    make_run(tmp_path / "b.tileseg", right, Window(0, 40, HEIGHT, WIDTH - 40))
    write_layer(tmp_path, tmp_path / "all.gpkg")
    check(geopandas.read_file(tmp_path / "all.gpkg"), whole)


def test_geojson_s_centimetres_do_not_matter(tmp_path, whole) -> None:
    for i, window in enumerate(TILES["overlapping"]):
        make_run(tmp_path / f"{i}.tileseg", picture(), window, "geojson")
    write_layer(tmp_path, tmp_path / "all.fgb")
    check(geopandas.read_file(tmp_path / "all.fgb"), whole, blur=0.03)


def test_disagreement_leaves_no_ground_twice(tmp_path) -> None:
    for i, window in enumerate(TILES["overlapping"]):
        make_run(tmp_path / f"{i}.tileseg", picture(seed=i), window)
    write_layer(tmp_path, tmp_path / "all.parquet")
    merged = geopandas.read_parquet(tmp_path / "all.parquet")
    assert shapely.union_all(merged.geometry).area == pytest.approx(merged.area.sum(), rel=1e-6)
    assert merged.geometry.is_valid.all()


@pytest.mark.parametrize("form", [name for name, form in KNOWN.items() if form.reader is not None])
def test_scenes_without_polygons_claim_their_ground_and_no_more(tmp_path, whole, form) -> None:
    nothing = np.zeros((HEIGHT, WIDTH), np.uint8)
    make_run(tmp_path / "empty.tileseg", nothing, Window(0, 0, HEIGHT, 100), form)
    assert write_layer(tmp_path, tmp_path / "none.gpkg").polygons == 0
    assert len(geopandas.read_file(tmp_path / "none.gpkg")) == 0
    make_run(tmp_path / "full.tileseg", picture(), Window(0, 60, HEIGHT, WIDTH - 60), form)
    report = write_layer(tmp_path, tmp_path / "all.parquet")
    merged = geopandas.read_parquet(tmp_path / "all.parquet")
    assert report.scenes == 2
    assert report.polygons == len(merged) > 5
    # The line between the centres (column 50 and 145) leaves all to the left of it to the empty scene.
    assert merged.total_bounds[0] == pytest.approx(PLACE.c + 97.5 * PLACE.a, abs=0.1)
    assert set(merged.scene) == {"full"}


def test_overlaps_in_degrees_are_cut_in_silence(tmp_path) -> None:
    """Warnings are errors here."""
    for i, window in enumerate(TILES["overlapping"]):
        make_run(tmp_path / f"{i}.tileseg", picture(seed=i), window)
    report = write_layer(tmp_path, tmp_path / "all.parquet", "EPSG:4326")
    metres = write_layer(tmp_path, tmp_path / "metres.parquet")
    assert report.cut > 0
    assert (report.scenes, report.crs) == (metres.scenes, "WGS 84")
    found, expected = (geopandas.read_parquet(tmp_path / name) for name in ("all.parquet", "metres.parquet"))
    assert found.pixels.sum() == pytest.approx(expected.pixels.sum(), rel=0.01)


def test_other_systems_meet_in_degrees(tmp_path) -> None:
    make_run(tmp_path / "a.tileseg", picture(), Window(0, 0, 80, 110))
    make_run(tmp_path / "b.tileseg", picture(), Window(0, 0, 80, 110), crs="EPSG:32638")
    assert write_layer(tmp_path, tmp_path / "all.parquet").crs == "WGS 84"
    merged = geopandas.read_parquet(tmp_path / "all.parquet")
    assert merged.total_bounds[2] - merged.total_bounds[0] == pytest.approx(6, abs=0.1)


def test_mistakes(tmp_path) -> None:
    with pytest.raises(UsageError, match="no finished runs"):
        write_layer(tmp_path, tmp_path / "all.parquet")
    folder = make_run(tmp_path / "a.tileseg", picture(), Window(0, 0, 80, 110))
    with pytest.raises(UsageError, match=r"\.parquet, \.gpkg, \.fgb"):
        write_layer(tmp_path, tmp_path / "all.shp")
    with pytest.raises(UsageError, match="--crs nowhere"):
        write_layer(tmp_path, tmp_path / "all.parquet", "nowhere")
    (folder / "polygons.parquet").unlink()
    with pytest.raises(InputError, match="no polygons there"):
        write_layer(tmp_path, tmp_path / "all.parquet")


@pytest.mark.parametrize(
    ("form", "name", "x"),
    [
        ("parquet", "EPSG:32660", 820_000.0),
        ("geojson", "EPSG:32660", 820_000.0),
        ("parquet", "EPSG:32601", 160_000.0),
        ("geojson", "EPSG:32601", 160_000.0),
        ("geojson", "EPSG:4326", 179.9),
        ("geojson", "EPSG:4326", -180.1),
    ],
)
def test_scenes_on_both_sides_of_180_degrees_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, name: str, x: float
) -> None:
    pixel = 0.001 if name == "EPSG:4326" else 100.0
    y = 10.0 if name == "EPSG:4326" else 1_000_000.0
    monkeypatch.setattr(sys.modules[__name__], "PLACE", Affine(pixel, 0, x, 0, -pixel, y))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[40:80, 10 : WIDTH - 10] = 1
    for i, window in enumerate((Window(0, 0, HEIGHT, WIDTH // 2), Window(0, WIDTH // 2, HEIGHT, WIDTH - WIDTH // 2))):
        make_run(tmp_path / "runs" / f"{i}.tileseg", labels, window, form, name)
    report = write_layer(tmp_path / "runs", tmp_path / "all.gpkg", "EPSG:4326")
    assert (report.scenes, report.polygons, report.joined) == (2, 1, 1)
    (row,) = geopandas.read_file(tmp_path / "all.gpkg").itertuples()
    west, _, east, _ = row.geometry.bounds
    assert row.geometry.is_valid
    assert (west, east) == pytest.approx((-180, 180))
    assert len(row.geometry.geoms) == 2
    flat = shapely.transform(row.geometry, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
    assert flat.envelope.area == pytest.approx(shapely.area(row.geometry), rel=0.1)
    assert row.pixels == 40 * (WIDTH - 20)


@pytest.mark.parametrize("form", ["parquet", "geojson"])
@pytest.mark.parametrize(("west", "east"), [(179.0, 180.0), (-181.0, -180.0), (359.5, 0.0), (-0.5, 360.0)])
def test_scenes_that_count_longitudes_differently_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, west: float, east: float
) -> None:
    """Neighbours at 180 or at 0 degrees, one of them with longitudes from 0 to 360."""
    width = 0.5 if west in (359.5, -0.5) else 1.0
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[40:80] = 1
    for name, x in (("west", west), ("east", east)):
        monkeypatch.setattr(sys.modules[__name__], "PLACE", Affine(width / WIDTH, 0, x, 0, -0.01, 10))
        make_run(tmp_path / "runs" / f"{name}.tileseg", labels, Window(0, 0, HEIGHT, WIDTH), form, "EPSG:4326")
    report = write_layer(tmp_path / "runs", tmp_path / "all.gpkg")
    assert (report.polygons, report.joined, report.cut) == (1, 1, 0)
    (row,) = geopandas.read_file(tmp_path / "all.gpkg").itertuples()
    assert row.pixels == 2 * 40 * WIDTH
    assert shapely.area(row.geometry) == pytest.approx(2 * width * 0.4, rel=1e-2)
    assert np.abs(row.geometry.bounds[::2]).max() <= 180


def test_a_layer_has_the_sizes_and_outlines_that_are_wanted(tmp_path, in_process) -> None:
    for i, window in enumerate(TILES["overlapping"]):
        make_run(tmp_path / f"runs/{i}.tileseg", picture(), window)
    write_layer(tmp_path / "runs", tmp_path / "raw.parquet")
    wanted = ("--min-area", "20", "--fill-holes", "8px", "--regularize", "roof,water", "--tolerance", "3px")
    told = in_process("merge", tmp_path / "runs", "--out", tmp_path / "all.parquet", "--json", *wanted)
    assert told.returncode == 0, told.stderr
    raw, merged = (geopandas.read_parquet(tmp_path / name) for name in ("raw.parquet", "all.parquet"))
    large = raw[(raw.area_m2 >= 20) | raw.geometry.map(lambda shape: shapely.Polygon(shape.exterior).area >= 20)]
    assert json.loads(told.stdout)["polygons"] == len(merged)
    assert (raw.area_m2 >= 20).sum() <= len(merged) <= len(large) < len(raw)
    assert list(merged.id) == list(range(1, len(merged) + 1))
    assert shapely.is_valid(merged.geometry).all()
    shapes = merged.geometry.to_numpy()
    a, b = shapely.STRtree(shapes).query(shapes, predicate="overlaps")
    assert shapely.area(shapely.intersection(shapes[a], shapes[b])).max(initial=0) < 1e-3
    assert shapely.get_num_coordinates(shapes).sum() < 0.5 * shapely.get_num_coordinates(large.geometry).sum()
    np.testing.assert_allclose(merged.area_m2, merged.area, rtol=2e-3)
    together = shapely.union_all(large.geometry).symmetric_difference(shapely.union_all(shapes))
    assert together.area < 0.1 * merged.area.sum()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            ("--regularize", "barn"),
            "--regularize barn: no such class; expected some of ground (0), roof (1), water (2)",
        ),
        (("--regularize", "all", "--simplify", "1"), "give only one of them"),
        (("--tolerance", "1"), "--tolerance: is that of --regularize"),
        (("--min-area", "some"), "'some' is no area or length"),
    ],
)
def test_shapes_that_cannot_be_are_refused(tmp_path, in_process, options, what) -> None:
    make_run(tmp_path / "runs/one.tileseg", picture(), Window(0, 0, 40, 50))
    told = in_process("merge", tmp_path / "runs", "--out", tmp_path / "all.gpkg", *options)
    assert (told.returncode, (tmp_path / "all.gpkg").exists()) == (2, False)
    assert what in told.stderr
