"""Polygon files, opened again with tools that are not ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow.parquet
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from tileseg.errors import TilesegError
from tileseg.formats import FORMATS as KNOWN
from tileseg.grid import Grid
from tileseg.polygons.join import join
from tileseg.polygons.shape import Shaper, Shapes
from tileseg.polygons.trace import trace_block
from tileseg.publish.table import Table
from tileseg.publish.vectors import write_vectors
from tileseg.window import tile

SHAPE = (37, 52)
NAMES = {0: 'back"ground', 1: "bâtiment, «toit»", 2: "eau"}
UTM = Grid(*SHAPE, Affine(3.1, 0, 500_000.3, 0, -3.1, 5_600_000.9), CRS.from_epsg(32632).to_wkt())
FORMATS = tuple(name for name, form in KNOWN.items() if form.reader is not None)


def labels_of(shape: tuple[int, int] = SHAPE, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (shape[0] // 4 + 1, shape[1] // 5 + 1)), np.ones((4, 5)))
    labels = labels[: shape[0], : shape[1]].astype(np.uint8)
    labels[rng.random(shape) < 0.03] = 2
    return labels


def shapes_of(grid: Grid, labels: npt.NDArray[np.uint8], *, confidence: bool = True) -> list[Shapes]:
    extent = grid.extent
    cores = tile(extent, 16, 16)
    weights = np.random.default_rng(1).integers(0, 65536, labels.shape).astype(np.uint16)
    parts = [tuple(trace_block(labels[c.slices], weights[c.slices] if confidence else None, c, extent)) for c in cores]
    shaper = Shaper(grid, has_confidence=confidence)
    return [shaper.shape(batch) for batch in join(cores, parts.__getitem__, 4)]


def read(path: Path) -> geopandas.GeoDataFrame:
    layer = "polygons" if path.suffix == ".gpkg" else None
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path, layer=layer)


def write(folder: Path, grid: Grid, shapes: list[Shapes], *formats: str, confidence: bool = True) -> dict[str, Path]:
    outputs = {form: folder / f"polygons{KNOWN[form].suffix}" for form in formats}
    write_vectors(shapes, outputs, Table(grid, NAMES, confidence))
    assert sorted(folder.iterdir()) == sorted([*outputs.values(), folder / "polygons.qml"])
    return outputs


@pytest.mark.parametrize("form", FORMATS)
def test_formats_hold_the_same_polygons(tmp_path: Path, form: str) -> None:
    shapes = shapes_of(UTM, labels_of())
    frame = read(write(tmp_path, UTM, shapes, form)[form]).sort_values("id", ignore_index=True)
    assert frame.columns.tolist() == [
        "id", "class", "class_name", "area_m2", "perimeter_m", "mean_probability", "min_probability", "pixels",
        "touches_edge", "touches_nodata", "geometry",
    ]  # fmt: skip
    assert frame["id"].tolist() == list(range(1, sum(map(len, shapes)) + 1))
    assert frame["class"].tolist() == [int(v) for s in shapes for v in s.label]
    assert frame["class_name"].tolist() == [NAMES[int(v)] for s in shapes for v in s.label]
    for column, name in [
        ("area_m2", "area"), ("perimeter_m", "perimeter"), ("mean_probability", "mean_probability"),
        ("min_probability", "min_probability"), ("pixels", "pixels"), ("touches_edge", "touches_edge"),
        ("touches_nodata", "touches_nodata"),
    ]:  # fmt: skip
        np.testing.assert_array_equal(frame[column], np.concatenate([getattr(s, name) for s in shapes]))
    assert frame["touches_edge"].dtype == bool
    geometries = np.concatenate([s.geometries() for s in shapes])
    if form.startswith("geojson"):
        assert frame.crs.to_epsg() == 4326
        back = frame.geometry.to_crs(UTM.crs)
        assert (shapely.hausdorff_distance(back.values, geometries) < 0.01).all()
        assert (back.count_interior_rings() == shapely.get_num_interior_rings(geometries)).all()
    else:
        assert frame.crs.to_epsg() == 32632
        assert shapely.equals_exact(shapely.normalize(frame.geometry.values), shapely.normalize(geometries)).all()
        assert all(g.exterior.is_ccw for g in frame.geometry) or form != "parquet"


def test_all_formats_from_one_stream_twice_give_the_same_bytes(tmp_path: Path) -> None:
    bytes_of = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        outputs = write(tmp_path / run, UTM, shapes_of(UTM, labels_of()), *KNOWN)
        bytes_of.append({form: path.read_bytes() for form, path in outputs.items()})
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize("form", FORMATS)
def test_layer_without_polygons_has_its_columns(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, UTM, [], form, confidence=False)[form]
    if form.startswith("geojson"):
        text = path.read_text()
        assert text == "" or json.loads(text) == {"type": "FeatureCollection", "features": []}
        return
    frame = read(path)
    assert len(frame) == 0
    assert frame.columns.tolist() == [
        "id", "class", "class_name", "area_m2", "perimeter_m", "pixels", "touches_edge", "touches_nodata", "geometry",
    ]  # fmt: skip
    assert frame.crs.to_epsg() == 32632


def features(path: Path) -> list[dict[str, object]]:
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection
    found: list[dict[str, object]] = collection["features"]
    return found


GRIDS = {
    "utm": UTM,
    "rotated": Grid(*SHAPE, Affine(8, 3, 400_000, 2.5, -9, 4_000_000), CRS.from_epsg(32633).to_wkt()),
    "south-up": Grid(*SHAPE, Affine(30, 0, 300_000, 0, 30, 6_000_000), CRS.from_epsg(32755).to_wkt()),
    "mirrored": Grid(*SHAPE, Affine(-30, 0, 300_000, 0, -30, 6_000_000), CRS.from_epsg(32755).to_wkt()),
    "westing": Grid(*SHAPE, Affine(30, 0, -750_000, 0, -30, -1_050_000), CRS.from_epsg(5514).to_wkt()),
    "degrees": Grid(*SHAPE, Affine(0.25, 0, -20, 0, -0.25, 40), CRS.from_epsg(4326).to_wkt()),
    "no crs": Grid(*SHAPE, Affine.identity()),
}


@pytest.mark.parametrize("name", GRIDS)
def test_geojson_follows_the_right_hand_rule_with_7_decimals(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, GRIDS[name], shapes_of(GRIDS[name], labels_of()), "geojson")["geojson"]
    holes = 0
    for feature in features(path):
        exterior, *interiors = feature["geometry"]["coordinates"]
        assert shapely.LinearRing(exterior).is_ccw
        assert not any(shapely.LinearRing(ring).is_ccw for ring in interiors)
        holes += len(interiors)
        for ring in (exterior, *interiors):
            assert ring[0] == ring[-1]
            assert all(value == round(value, 7) for xy in ring for value in xy)
    assert holes


def test_geojson_without_crs_is_in_pixels_and_says_so(tmp_path: Path) -> None:
    grid = GRIDS["no crs"]
    path = write(tmp_path, grid, shapes_of(grid, labels_of()), "geojson")["geojson"]
    assert "no coordinate reference system" in json.loads(path.read_text())["description"]
    first = features(path)[0]
    assert {"area_px", "perimeter_px"} <= set(first["properties"])
    xy = np.concatenate([np.array(ring) for f in features(path) for ring in f["geometry"]["coordinates"]])
    assert xy.min(axis=0).tolist() == [0, 0]
    assert xy.max(axis=0).tolist() == [SHAPE[1], SHAPE[0]]


@pytest.mark.parametrize("form", ["gpkg", "parquet", "fgb"])
def test_other_formats_without_crs(tmp_path: Path, form: str) -> None:
    grid = GRIDS["no crs"]
    frame = read(write(tmp_path, grid, shapes_of(grid, labels_of()), form)[form])
    assert frame.crs is None or frame.crs.to_epsg() is None
    assert frame.total_bounds.tolist() == [0, 0, SHAPE[1], SHAPE[0]]


def test_geojson_lines_are_features(tmp_path: Path) -> None:
    path = write(tmp_path, UTM, shapes_of(UTM, labels_of()), "geojsonseq")["geojsonseq"]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["properties"]["id"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("zone", [1, 60])
def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path, zone: int) -> None:
    """RFC 7946, section 3.1.9."""
    labels = np.zeros((20, 30), np.uint8)
    labels[4:9, 6:24] = 1
    labels[12:14, 2:4] = 1
    labels[12:14, 25:28] = 1
    # The zone's edge at 180 degrees runs through the middle.
    x = 166_000 - 8_000 if zone == 1 else 834_000 - 7_000
    grid = Grid(20, 30, Affine(500, 0, x, 0, -500, 10_000), CRS.from_epsg(32600 + zone).to_wkt())
    found = features(write(tmp_path, grid, shapes_of(grid, labels), "geojson")["geojson"])
    kinds = [f["geometry"]["type"] for f in found]
    assert sorted(kinds) == ["MultiPolygon", "MultiPolygon", "Polygon", "Polygon"]
    for feature in found:
        geometry = shapely.geometry.shape(feature["geometry"])
        assert shapely.is_valid(geometry)
        low, _, high, _ = geometry.bounds
        assert -180 <= low <= high <= 180
        parts = shapely.get_parts(geometry)
        assert all(part.exterior.is_ccw for part in parts)
        if len(parts) > 1:
            assert {abs(v) for p in parts for v in (p.bounds[0], p.bounds[2])} >= {180}
        metres = sum(shapely.area(parts)) * (111_319.49 * 110_574)
        assert metres == pytest.approx(feature["properties"]["area_m2"], rel=2e-3)


def test_geoparquet_metadata(tmp_path: Path) -> None:
    shapes = shapes_of(UTM, labels_of())
    path = write(tmp_path, UTM, shapes, "parquet")["parquet"]
    geo = json.loads(pyarrow.parquet.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32632}
    left, top = UTM.transform @ (0, 0)
    right, bottom = UTM.transform @ (SHAPE[1], SHAPE[0])
    assert column["bbox"] == [left, bottom, right, top]


def test_failure_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> Iterator[Shapes]:
        yield shapes_of(UTM, labels_of())[0]
        raise TilesegError("a block has gone")

    outputs = {form: tmp_path / f"polygons{KNOWN[form].suffix}" for form in FORMATS}
    outputs["geojson"].write_text("what was there before")
    with pytest.raises(TilesegError, match="a block has gone"):
        write_vectors(broken(), outputs, Table(UTM, NAMES, has_confidence=True))
    assert [p.name for p in tmp_path.iterdir()] == ["polygons.geojson"]
    assert outputs["geojson"].read_text() == "what was there before"


@pytest.mark.parametrize("form", FORMATS)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / f"polygons{KNOWN[form].suffix}"
    with pytest.raises(TilesegError, match=f"{path}: cannot be written"):
        write_vectors(shapes_of(UTM, labels_of()), {form: path}, Table(UTM, NAMES, has_confidence=True))
