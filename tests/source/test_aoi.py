"""Areas of interest are rasterised as GDAL does it, one pixel at a time the same in every window."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from fakes import smooth_noise, write_scene
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.aoi import Aoi
from tileseg.source.scene import open_scene
from tileseg.window import Window, tile

UTM = CRS.from_epsg(32737)
GRID = Grid(120, 170, Affine(0.5, 0, 534000, 0, -0.5, 9318000), UTM.to_wkt())


def star(col: float, row: float, radius: float, points: int = 7) -> shapely.Polygon:
    """A star in pixels, with a hole."""
    angles = np.arange(2 * points) * np.pi / points + 0.1
    reach = np.where(np.arange(2 * points) % 2, radius, radius / 3)
    ring = np.stack([col + reach * np.cos(angles), row + reach * np.sin(angles)], axis=1)
    return shapely.Polygon(ring, [shapely.Point(col, row).buffer(radius / 8).exterior.coords])


def on_ground(shape: shapely.Geometry, grid: Grid = GRID) -> shapely.Geometry:
    t = grid.transform
    return shapely.affinity.affine_transform(shape, [t.a, t.b, t.d, t.e, t.c, t.f])


def save(path: Path, shapes: list[shapely.Geometry], crs: object = UTM, **options: object) -> Path:
    frame = geopandas.GeoDataFrame(geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, **options)
    return path


def burnt(shapes: list[shapely.Geometry], grid: Grid = GRID) -> np.ndarray:
    """GDAL's answer, in the grid's own coordinates."""
    shape = (grid.height, grid.width)
    return rasterio.features.rasterize(shapes, out_shape=shape, transform=grid.transform, dtype="uint8") == 1


SHAPES = [star(60.3, 50.2, 40), star(140.7, 90.1, 55, 5), shapely.box(2, 3, 9, 30)]


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp", "a.fgb", "a.parquet"])
def test_any_vector_file_is_gdals_mask(tmp_path: Path, name: str) -> None:
    shapes = [on_ground(shape) for shape in SHAPES]
    crs = 4326 if name.endswith("geojson") else UTM
    frame = geopandas.GeoSeries(shapes, crs=UTM).to_crs(crs)
    aoi = Aoi.from_file(save(tmp_path / name, list(frame), crs), GRID)
    wrong = aoi.mask(GRID.extent) != burnt(shapes)
    # GeoJSON is rounded to a few centimetres by its writer.
    assert wrong.mean() <= (0.002 if name.endswith("geojson") else 0)


def test_overlaps_and_layers_are_joined(tmp_path: Path) -> None:
    first, second = on_ground(shapely.box(10, 10, 60, 50)), on_ground(shapely.box(40, 30, 90, 80))
    save(tmp_path / "a.gpkg", [first, first], layer="one")
    save(tmp_path / "a.gpkg", [second], layer="two")
    assert np.array_equal(Aoi.from_file(tmp_path / "a.gpkg", GRID).mask(GRID.extent), burnt([first, second]))


def test_a_pixel_is_the_same_in_every_window(tmp_path: Path) -> None:
    shapes = [on_ground(shape) for shape in SHAPES]
    aoi = Aoi.from_file(save(tmp_path / "a.gpkg", shapes), GRID)
    whole = aoi.mask(GRID.extent)
    again = pickle.loads(pickle.dumps(aoi))
    for height, width in ((7, 11), (64, 64), (1, 1), (120, 3)):
        for window in tile(GRID.extent, height, width):
            part = again.mask(window)
            assert np.array_equal(part, whole[window.slices])
            assert again.touches(window) or not part.any()


@given(
    points=st.lists(st.tuples(st.integers(-10, 60), st.integers(-10, 50)), min_size=3, max_size=9),
    halves=st.booleans(),
    cut=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_borders_through_pixel_centres_are_shared_out_once(
    points: list[tuple[int, int]], halves: bool, cut: tuple[int, int]
) -> None:
    """Two areas that share a border, often through centres, have every pixel exactly once."""
    grid = Grid(40, 50, Affine.identity())
    ring = np.array(points, float) + (0.5 if halves else 0)
    shape = shapely.make_valid(shapely.Polygon(ring), method="structure", keep_collapsed=False)
    frame = shapely.box(-20, -20, 70, 70)
    rest = frame.difference(shape)
    if shape.is_empty:
        return
    inside, outside = (Aoi(shapely.MultiPolygon(shapely.get_parts(part).tolist())) for part in (shape, rest))
    masks = inside.mask(grid.extent), outside.mask(grid.extent)
    # Nodes made by self-intersections are rounded, so a centre on such an edge may fall to either side of it.
    exact = shapely.Polygon(ring).is_simple and shapely.Polygon(ring).is_valid
    assert (masks[0] ^ masks[1]).mean() >= (1 if exact else 0.99)
    for window in tile(grid.extent, *cut):
        assert np.array_equal(inside.mask(window), masks[0][window.slices])


def test_edges_are_bent_as_the_projection_bends_them(tmp_path: Path) -> None:
    """A box in degrees, 60 km wide, in UTM: its straight parallel sags by hundreds of metres."""
    grid = Grid(600, 700, Affine(100, 0, 500_000, 0, -100, 9_000_000), CRS.from_epsg(32637).to_wkt())
    forward = Transformer.from_crs(4326, 32637, always_xy=True)
    lat = Transformer.from_crs(32637, 4326, always_xy=True).transform(530_000, 8_970_000)[1]
    box = shapely.box(35, 70, 48, lat)
    mask = Aoi.from_file(save(tmp_path / "a.gpkg", [box], 4326), grid).mask(grid.extent)
    rows, cols = np.mgrid[0:600, 0:700]
    x, y = grid.transform.a * (cols + 0.5) + grid.transform.c, grid.transform.e * (rows + 0.5) + grid.transform.f
    lon, lats = forward.transform(x, y, direction="INVERSE")
    expected = (lon >= 35) & (lon <= 48) & (lats <= lat)
    assert (mask != expected).mean() < 1e-4
    assert 0.2 < expected.mean() < 0.9


def test_the_whole_world_can_be_an_area(tmp_path: Path) -> None:
    aoi = Aoi.from_file(save(tmp_path / "a.gpkg", [shapely.box(-180, -90, 180, 90)], 4326), GRID)
    assert aoi.mask(GRID.extent).all()
    assert aoi.touches(Window(0, 0, 1, 1))


@pytest.mark.parametrize(
    "transform", [Affine(0.4, 0.3, 534000, 0.3, -0.4, 9318000), Affine(0.5, 0, 534000, 0, 0.5, 9317000)]
)
def test_rotated_and_south_up_grids(tmp_path: Path, transform: Affine) -> None:
    grid = Grid(120, 170, transform, UTM.to_wkt())
    shapes = [on_ground(shape, grid) for shape in SHAPES]
    aoi = Aoi.from_file(save(tmp_path / "a.gpkg", shapes), grid)
    assert np.array_equal(aoi.mask(grid.extent), burnt(shapes, grid))


def test_geojson_in_metres_is_taken_to_be_in_the_scenes_system(tmp_path: Path) -> None:
    shape = on_ground(SHAPES[0])
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(shapely.geometry.mapping(shape)))
    assert np.array_equal(Aoi.from_file(path, GRID).mask(GRID.extent), burnt([shape]))


def test_a_scene_without_a_system_takes_the_numbers(tmp_path: Path) -> None:
    grid = Grid(120, 170, Affine.identity())
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(shapely.geometry.mapping(SHAPES[0])))
    assert np.array_equal(Aoi.from_file(path, grid).mask(grid.extent), burnt([SHAPES[0]], grid))


def test_a_file_without_a_system_is_taken_to_be_in_the_scenes(tmp_path: Path) -> None:
    shape = on_ground(SHAPES[0])
    path = save(tmp_path / "a.shp", [shape])
    path.with_suffix(".prj").unlink()
    aoi = Aoi.from_file(path, GRID)
    assert np.array_equal(aoi.mask(GRID.extent), burnt([shape]))


def test_crossed_rings_are_repaired(tmp_path: Path) -> None:
    bow = on_ground(shapely.Polygon([(10, 10), (50, 50), (50, 10), (10, 50)]))
    mask = Aoi.from_file(save(tmp_path / "a.gpkg", [bow]), GRID).mask(GRID.extent)
    assert mask.sum() == pytest.approx(800, abs=45)


def test_touching_is_only_where_the_area_is(tmp_path: Path) -> None:
    aoi = Aoi.from_file(save(tmp_path / "a.gpkg", [on_ground(shapely.box(32, 32, 64, 64))]), GRID)
    assert aoi.touches(Window(40, 40, 2, 2))
    assert not aoi.touches(Window(0, 0, 31, 170))
    assert not aoi.mask(Window(0, 0, 31, 170)).any()


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.geojson").write_text("hello")
    (tmp_path / "text.parquet").write_text("hello")
    cases = {
        tmp_path / "missing.gpkg": "not there",
        tmp_path / "text.geojson": "cannot be read",
        tmp_path / "text.parquet": "cannot be read",
        save(tmp_path / "points.gpkg", [on_ground(shapely.Point(3, 4))]): "no polygon",
        save(
            tmp_path / "far.gpkg", [on_ground(shapely.box(500, 0, 600, 50))]
        ): "none of its polygons lies on the scene",
        save(
            tmp_path / "abroad.gpkg", [shapely.box(2, 48, 3, 49)], 4326
        ): r"lies on the scene: they span x 2 to 3, y 48 to 49 \(WGS 84\), the scene x \d.* zone ",
    }
    for path, complaint in cases.items():
        with pytest.raises(InputError, match=complaint) as caught:
            Aoi.from_file(path, GRID)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def in_degrees(shapes: list[shapely.Geometry]) -> str:
    """GeoJSON."""
    return str(geopandas.GeoSeries(shapes, crs=UTM).to_crs(4326).to_json())


@pytest.mark.parametrize("name", ["a.geojson", "a.geojsonl", "a.geojsons", "a.ndjson"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_of_all_kinds_is_read(tmp_path: Path, name: str, mark: str) -> None:
    shapes = [on_ground(shape) for shape in SHAPES]
    text = in_degrees(shapes)
    if name != "a.geojson":
        between = "\n\x1e" if name == "a.geojsons" else "\n"
        text = between.join(["", *(json.dumps(feature) for feature in json.loads(text)["features"])]).lstrip("\n")
    (tmp_path / name).write_text(mark + text, encoding="utf-8")
    assert (Aoi.from_file(tmp_path / name, GRID).mask(GRID.extent) != burnt(shapes)).mean() < 0.002


@pytest.mark.parametrize("extent", [(None,) * 4, (0.0,) * 4, (1.0, 1.0, 2.0, 2.0)])
@pytest.mark.parametrize("index", ["YES", "NO"])
def test_what_a_geopackage_says_of_its_extent_decides_nothing(
    tmp_path: Path, extent: tuple[float | None, ...], index: str
) -> None:
    shapes = [on_ground(shape) for shape in SHAPES]
    path = save(tmp_path / "a.gpkg", shapes, SPATIAL_INDEX=index)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE gpkg_contents SET min_x=?, min_y=?, max_x=?, max_y=?", extent)
    assert np.array_equal(Aoi.from_file(path, GRID).mask(GRID.extent), burnt(shapes))


@pytest.mark.parametrize("folder", ["a!b", "a;b", "a\tb", "a\nb", "a#b", "a?b", "ü %20"])
@pytest.mark.parametrize("name", ["a.gdb", "a.zip", "a.shp", "a.gpkg"])
def test_paths_of_all_characters_are_read(tmp_path: Path, folder: str, name: str) -> None:
    shapes = [on_ground(shape) for shape in SHAPES]
    plain = tmp_path / "plain"
    plain.mkdir()
    if name == "a.gdb":
        save(plain / name, shapes, driver="OpenFileGDB")
    else:
        save(plain / ("a.shp" if name == "a.zip" else name), shapes)
    if name == "a.zip":
        shutil.make_archive(str(tmp_path / "a"), "zip", plain)
        (tmp_path / "a.zip").rename(plain / "a.zip")
    plain.rename(tmp_path / folder)
    aoi = Aoi.from_file(tmp_path / folder / name, GRID)
    assert (aoi.mask(GRID.extent) != burnt(shapes)).mean() < 0.001  # a FileGDB has steps of a tenth of a millimetre


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_with_wkt_are_read(tmp_path: Path, between: str) -> None:
    shape = on_ground(SHAPES[0])
    (tmp_path / "a.csv").write_text(f'id{between}WKT\n1{between}"{shape.wkt}"\n')
    assert np.array_equal(Aoi.from_file(tmp_path / "a.csv", GRID).mask(GRID.extent), burnt([shape]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id;x;y\n1;534000;9318000\n", r"a column called WKT; .*ogr2ogr -oo GEOM_POSSIBLE_NAMES=<column>"),
        ('id;geometry\n1;"POLYGON ((0 0, 9 0, 9 9, 0 0))"\n', "a column called WKT"),
        ('id;WKT\n1;"POLYGON ((35 -6, 36 -6, 36 -5, 35 -6))"\n', r"names no system, .*ogr2ogr -a_srs EPSG:<code>"),
    ],
)
def test_tables_that_cannot_be_used_say_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=told):
        Aoi.from_file(tmp_path / "a.csv", GRID)


def test_what_is_something_else_is_named(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", smooth_noise(20, 30, 3))
    (tmp_path / "a.gpkg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "a.geojson").write_text("hello")
    what = {"a.tif": "it is a raster", "a.gpkg": "a pointer of Git LFS", "a.geojson": "no such format"}
    for name, told in what.items():
        with pytest.raises(InputError, match=f"cannot be read as a vector file: .*{told}") as caught:
            Aoi.from_file(tmp_path / name, GRID)
        assert "driver" not in str(caught.value)


@pytest.mark.real_data
def test_real_buildings_as_an_area(real_data: Path) -> None:
    scene = open_scene(real_data / "buildings" / "zanzibar_1_rgb.tif", expected=3)
    path = real_data / "buildings" / "zanzibar_osm_buildings.geojson"
    shapes = geopandas.read_file(path).to_crs(scene.grid.crs).geometry
    mask = Aoi.from_file(path, scene.grid).mask(scene.grid.extent)
    assert 0.02 < mask.mean() < 0.5
    assert np.mean(mask != burnt(list(shapes), scene.grid)) < 1e-5
