"""GeoJSON and areas of grids that reach around the globe: against the labels at pixel centres and equal-area sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.polygons.join import join
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.shape import Shaper
from tileseg.polygons.trace import trace_block
from tileseg.publish.table import Table
from tileseg.publish.vectors import write_vectors
from tileseg.window import tile

Labels = npt.NDArray[np.uint8]
EARTH = 510_065_621_724_089.0
"""Square metres: surface of the WGS 84 ellipsoid."""


def grid(transform: Affine, crs: str | int, shape: tuple[int, int]) -> Grid:
    return Grid(*shape, transform, CRS.from_user_input(crs).to_wkt())


def bands(shape: tuple[int, int]) -> Labels:
    """1 all round, 2 in the middle from side to side, 3 as an island in it."""
    labels = np.ones(shape, np.uint8)
    labels[shape[0] // 3 : 2 * shape[0] // 3] = 2
    labels[shape[0] // 2 - 3 : shape[0] // 2 + 2, 7 : shape[1] - 6] = 3
    return labels


def blobs(shape: tuple[int, int]) -> Labels:
    rng = np.random.default_rng(5)
    coarse = rng.integers(1, 4, (shape[0] // 7 + 1, shape[1] // 7 + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((7, 7), np.uint8))[: shape[0], : shape[1]].copy()
    labels[rng.random(shape) < 0.02] = 2
    return labels


def one(shape: tuple[int, int]) -> Labels:
    return np.ones(shape, np.uint8)


def features(folder: Path, labels: Labels, grid: Grid, simplify: Quantity | None = None) -> list[dict[str, Any]]:
    """The features of GeoJSON as it is written; 0 is nodata."""
    cores = tile(grid.extent, 40, 40)
    parts = [tuple(trace_block(labels[c.slices], None, c, grid.extent, nodata=0)) for c in cores]
    shaper = Shaper(grid, has_confidence=False)
    batches = list(join(cores, parts.__getitem__, 4))
    if simplify is not None:
        batches, shaper = [shaper.simplify(batches, simplify)], shaper.unfiltered()
    path = folder / "polygons.geojson"
    write_vectors(map(shaper.shape, batches), {"geojson": path}, Table(grid, {}, has_confidence=False))
    found: list[dict[str, Any]] = json.loads(path.read_text())["features"]
    return found


def geometries(found: list[dict[str, Any]]) -> list[Any]:
    return [shapely.geometry.shape(f["geometry"]) if f["geometry"] else shapely.Polygon() for f in found]


def area_of(geometry: Any) -> float:
    """Square metres of a geometry whose edges are straight in degrees."""
    if geometry.is_empty:
        return 0.0
    to = Transformer.from_crs(4326, 6933, always_xy=True)
    return float(shapely.transform(shapely.segmentize(geometry, 0.5), to.transform, interleaved=False).area)


def centres(grid: Grid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Longitude and latitude of pixel centres (n, 2), and which of them lie on the Earth, off the cuts."""
    row, col = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = (v.ravel() for v in grid.transform @ (col, row))
    to = Transformer.from_crs(grid.crs, 4326, always_xy=True)
    lon, lat = to.transform(x, y)
    there = np.isfinite(lon) & np.isfinite(lat)
    lon, lat = np.where(there, lon, 0), np.where(there, lat, 0)
    lon = (lon + 180) % 360 - 180
    there &= (np.abs(lat) < 89.99) & (np.abs(lon) < 179.99)
    assert grid.crs is not None
    if not grid.crs.is_geographic and "Mercator" not in grid.crs.name:
        back = to.transform(lon, lat, direction="INVERSE")
        there &= np.hypot(back[0] - x, back[1] - y) < 0.01 * abs(grid.transform.a)
    return np.column_stack([lon, lat]), there


EARTHLY = {
    "0 to 360": (blobs, grid(Affine(4, 0, 0, 0, -3, 90), 4326, (60, 90))),
    "0 to 360, wide": (bands, grid(Affine(4, 0, 0, 0, -3, 90), 4326, (60, 90))),
    "-180 to 180": (bands, grid(Affine(4, 0, -180, 0, -3, 90), 4326, (60, 90))),
    "beyond the poles by half a pixel": (blobs, grid(Affine(4, 0, -2, 0, -3, 91.5), 4326, (61, 90))),
    "across 180": (blobs, grid(Affine(1.8, 0, 100, 0, -1, 30), 4326, (60, 90))),
    "another datum": (bands, grid(Affine(4, 0, 0, 0, -3, 90), 4267, (60, 90))),
    "North Pole on a corner": (blobs, grid(Affine(1e5, 0, -4e6, 0, -1e5, 3e6), 3413, (60, 80))),
    "North Pole in a pixel": (blobs, grid(Affine(1e5, 0, -4.03e6, 0, -1e5, 3.07e6), 3413, (60, 80))),
    "North Pole on an edge": (blobs, grid(Affine(1e5, 0, -4.03e6, 0, -1e5, 3e6), 3413, (60, 80))),
    "North Pole, one class": (one, grid(Affine(1e5, 0, -4e6, 0, -1e5, 3e6), 3413, (60, 80))),
    "South Pole": (blobs, grid(Affine(1e5, 0, -4e6, 0, -1e5, 3e6), 3031, (60, 80))),
    "South Pole, beyond the Equator": (bands, grid(Affine(4e5, 0, -2e7, 0, -4e5, 1e7), 3031, (60, 90))),
    "rotated": (blobs, grid(Affine(8e4, 3e4, -4e6, 2e4, -9e4, 3e6), 3413, (60, 80))),
    "south-up": (blobs, grid(Affine(1e5, 0, -4e6, 0, 1e5, -3e6), 3413, (60, 80))),
    "both poles in one polygon": (
        bands,
        grid(Affine(2e5, 0, -9e6, 0, -3.5e5, 10.5e6), "+proj=laea +lat_0=20 +lon_0=90", (60, 90)),
    ),
    "all of an azimuthal map": (one, grid(Affine(4.3e5, 0, -12.9e6, 0, -4.3e5, 12.9e6), "+proj=laea", (60, 60))),
    "sinusoidal": (blobs, grid(Affine(4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), "ESRI:54008", (60, 90))),
    "sinusoidal, one class": (one, grid(Affine(4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), "ESRI:54008", (60, 90))),
    "Mollweide about 150 E": (
        blobs,
        grid(Affine(4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), "+proj=moll +lon_0=150", (60, 90)),
    ),
    "Equal Earth": (bands, grid(Affine(4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), 8857, (60, 90))),
    "a satellite's view": (
        one,
        grid(Affine(2e5, 0, -6e6, 0, -2e5, 6e6), "+proj=geos +h=35785831 +lon_0=140", (60, 60)),
    ),
    "Web Mercator beyond 180": (blobs, grid(Affine(1e3, 0, 20037508 - 45e3, 0, -1e3, 8e6), 3857, (60, 90))),
    "all of Web Mercator": (
        bands,
        grid(Affine(40075016.685578495 / 90, 0, -20037508.342789244, 0, -6e5, 18e6), 3857, (60, 90)),
    ),
    "zone 60": (blobs, grid(Affine(1e3, 0, 8e5, 0, -1e3, 7e6), 32660, (60, 90))),
    "zone 1, rotated": (blobs, grid(Affine(100, 30, 166_000, 20, -100, 7e6), 32601, (60, 90))),
    "a few millimetres": (blobs, grid(Affine(0.004, 0, 5e5, 0, -0.004, 7e6), 32633, (60, 90))),
}


@pytest.mark.parametrize("name", EARTHLY)
def test_geojson_shows_the_labels_wherever_the_grid_lies(tmp_path: Path, name: str) -> None:
    """RFC 7946: valid, within 180 degrees, cut there; the polygon with a pixel's centre has the pixel's label."""
    draw, where = EARTHLY[name]
    labels = draw((where.height, where.width))
    found = features(tmp_path, labels, where)
    shapes = geometries(found)
    assert all(shape.is_valid for shape in shapes)
    assert all(part.exterior.is_ccw for shape in shapes for part in shapely.get_parts(shape) if not part.is_empty)
    west, south, east, north = shapely.total_bounds(shapes)
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    places, there = centres(where)
    tree = shapely.STRtree(shapely.points(places))
    seen = np.zeros((len(found), len(places)), np.uint8)
    for row, feature, shape in zip(seen, found, shapes, strict=True):
        row[tree.query(shape, "contains")] = feature["properties"]["class"]
    assert (np.count_nonzero(seen, axis=0)[there] == 1).all()
    np.testing.assert_array_equal(seen.sum(axis=0)[there], labels.ravel()[there])


@pytest.mark.parametrize("name", EARTHLY)
def test_areas_are_those_on_the_ground(tmp_path: Path, name: str) -> None:
    draw, where = EARTHLY[name]
    found = features(tmp_path, draw((where.height, where.width)), where)
    areas = np.array([f["properties"]["area_m2"] for f in found])
    assert (areas >= 0).all()
    assert areas.sum() <= EARTH * (1 + 1e-6)
    drawn = np.array([area_of(shape) for shape in geometries(found)])
    # Borders may be off by 1/64 of a pixel, and are those of the grid's own datum.
    pixel = areas.sum() / (where.height * where.width)
    np.testing.assert_allclose(drawn, areas, rtol=2e-2, atol=pixel)
    assert drawn.sum() == pytest.approx(areas.sum(), rel=2e-3)


@pytest.mark.parametrize("name", ["sinusoidal, one class", "all of an azimuthal map"])
def test_a_map_of_the_whole_earth_is_as_large_as_the_earth(tmp_path: Path, name: str) -> None:
    draw, where = EARTHLY[name]
    (feature,) = features(tmp_path, draw((where.height, where.width)), where)
    assert feature["properties"]["area_m2"] == pytest.approx(EARTH, rel=1e-6)
    assert shapely.box(-180, -90, 180, 90).equals(shapely.geometry.shape(feature["geometry"]))


def test_a_polygon_beside_the_map_lies_nowhere(tmp_path: Path) -> None:
    where = EARTHLY["sinusoidal"][1]
    labels = np.zeros((60, 90), np.uint8)
    labels[:5, :5] = 1
    (feature,) = features(tmp_path, labels, where)
    assert feature["geometry"] is None
    assert feature["properties"]["area_m2"] == 0


def test_a_grid_without_any_ground_is_refused(tmp_path: Path) -> None:
    where = grid(Affine(1e6, 0, 1e9, 0, -1e6, 1e9), 3035, (60, 90))
    with pytest.raises(InputError, match="check its georeference"):
        features(tmp_path, one((60, 90)), where)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (32633, Affine(100, 0, 399_960, 0, -100, 7_000_020)),
        (32633, Affine(80, 30, 399_960, 20, -90, 7_000_020)),
        (3035, Affine(2000, 0, 2_600_000, 0, -2000, 5_300_000)),
        (3413, Affine(2000, 0, 100_000, 0, -2000, 1_500_000)),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_long_edges_follow_the_grid_on_both_sides_of_a_border(
    tmp_path: Path, crs: int, transform: Affine, turn: int
) -> None:
    """A Sentinel-2 tile at 63 N, and others: straight in the grid, bent in degrees."""
    labels = np.ones((1100, 900), np.uint8)
    labels[550:] = 2
    labels[545:550, 500:560] = 3
    where = Grid(1100, 900, transform, CRS.from_epsg(crs).to_wkt())
    found = features(tmp_path, labels[::turn].copy(), where)
    shapes = {f["properties"]["class"]: shapely.geometry.shape(f["geometry"]) for f in found}
    back = Transformer.from_crs(4326, crs, always_xy=True)
    for shape in shapes.values():
        xy = shapely.get_coordinates(
            shapely.transform(shapely.segmentize(shape, 1e-3), back.transform, interleaved=False)
        )
        col, row = ~transform @ tuple(xy.T)
        # On the lines of the grid that the borders run along.
        lines = [545, 550, 555, 0, 1100]
        off = np.minimum(
            np.min(np.abs(np.subtract.outer(np.array(lines), row)), axis=0),
            np.min(np.abs(np.subtract.outer(np.array([0, 500, 560, 900]), col)), axis=0),
        )
        assert off.max() < 0.05
    # Between them is neither a gap nor an overlap: of a strip of 1/64 of a pixel along the border, less than a tenth.
    each = sum(shape.area for shape in shapes.values())
    strip = each / (1100 * 900) * 900 / 64
    filled = shapely.union_all(
        [shapely.Polygon(p.exterior) for p in shapely.get_parts(shapely.union_all(list(shapes.values())))]
    )
    assert filled.area == pytest.approx(each, abs=strip / 10)
    assert shapely.union_all(list(shapes.values())).area == pytest.approx(each, abs=strip / 10)


@pytest.mark.parametrize("crs", [32633, 3857, 3413])
@pytest.mark.parametrize("pixel", [0.02, 0.005, 0.001])
def test_decimals_follow_the_pixel(tmp_path: Path, crs: int, pixel: float) -> None:
    labels = blobs((30, 45))
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(14.3, 61.2)
    found = features(tmp_path, labels, grid(Affine(pixel, 0, x, 0, -pixel, y), crs, (30, 45)))
    for feature, shape in zip(found, geometries(found), strict=True):
        assert shape.is_valid
        assert area_of(shape) == pytest.approx(feature["properties"]["area_m2"], rel=0.2)


@pytest.mark.parametrize("name", ["North Pole on a corner", "zone 60", "sinusoidal", "zone 1, rotated"])
def test_simplified_polygons_are_valid_in_degrees(tmp_path: Path, name: str) -> None:
    draw, where = EARTHLY[name]
    found = features(tmp_path, draw((where.height, where.width)), where, Quantity(2.5, in_pixels=True))
    assert all(shape.is_valid for shape in geometries(found))
