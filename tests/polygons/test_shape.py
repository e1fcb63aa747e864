"""Polygons placed on the ground: against rasterio's coordinates and pyproj's geodesics."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from affine import Affine
from pyproj import CRS, Geod, Transformer

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.polygons.batch import concatenate, split
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.join import join
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.shape import Shaper, Shapes
from tileseg.polygons.trace import trace_block
from tileseg.window import Window, tile

SHAPE = (60, 83)
WGS84 = Geod(ellps="WGS84")

GRIDS = {
    "utm": (Affine(10.3, 0, 500_000.7, 0, -10.3, 5_600_000.1), 32632),
    "web mercator": (Affine(1.194, 0, -8_843_764.17, 0, -1.194, 4_848_553.57), 3857),
    "degrees": (Affine(0.01, 0, 7.1, 0, -0.013, 61.3), 4326),
    "rotated": (Affine(8, 3, 400_000, 2.5, -9, 4_000_000), 32633),
    "south-up": (Affine(30, 0, 300_000, 0, 30, 6_000_000), 32755),
    "mirrored and south-up": (Affine(-30, 0, 300_000, 0, 30, 6_000_000), 32755),
    "polar": (Affine(500, 0, -2_000_000, 0, -500, 1_500_000), 3413),
    "coarse": (Affine(30_000, 0, -1_000_000, 0, -30_000, 5_000_000), 3035),
    "feet": (Affine(3, 0, 6_000_000, 0, -3, 2_100_000), 2229),
}


def grid_of(name: str, shape: tuple[int, int] = SHAPE) -> Grid:
    transform, epsg = GRIDS[name]
    return Grid(*shape, transform, CRS.from_epsg(epsg).to_wkt())


def blobs(shape: tuple[int, int] = SHAPE, seed: int = 0, size: int = 5) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (shape[0] // size + 1, shape[1] // size + 1)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((size, size), np.uint8))[: shape[0], : shape[1]].copy()
    labels[rng.random(shape) < 0.02] = 1
    return labels


def discs(shape: tuple[int, int] = (120, 95)) -> npt.NDArray[np.uint8]:
    """Round borders, which have much to simplify, with places where three classes meet."""
    row, col = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for label, (y, x, radius) in enumerate([(40, 30, 27), (75, 55, 33), (20, 80, 18), (60, 48, 9)], start=1):
        labels[(row - y) ** 2 + (col - x) ** 2 < radius**2] = label
    return labels


def batches_of(labels: npt.NDArray[np.uint8], connectivity: int = 4, block: int = 32) -> list[PolygonBatch]:
    extent = Window(0, 0, *labels.shape)
    cores = tile(extent, block, block)
    confidence = (labels.astype(np.uint16) + 1) * np.uint16(13_107)
    parts = [
        tuple(trace_block(labels[c.slices], confidence[c.slices], c, extent, connectivity=connectivity)) for c in cores
    ]
    return list(join(cores, parts.__getitem__, connectivity))


def shape_all(shaper: Shaper, batches: list[PolygonBatch]) -> list[Shapes]:
    return [shaper.shape(batch) for batch in batches]


@pytest.mark.parametrize("name", GRIDS)
def test_coordinates_are_bit_equal_to_those_of_rasterio(name: str) -> None:
    labels, grid = blobs(), grid_of(name)
    found = sorted(
        (int(label), shapely.to_wkb(shapely.normalize(geometry)))
        for shapes in shape_all(Shaper(grid, lonlat=False), batches_of(labels))
        for label, geometry in zip(shapes.label, shapes.geometries(), strict=True)
    )
    assert found == sorted(
        (int(value), shapely.to_wkb(shapely.normalize(shapely.geometry.shape(geometry))))
        for geometry, value in rasterio.features.shapes(labels, transform=grid.transform)
    )


@pytest.mark.parametrize("name", GRIDS)
def test_exteriors_run_counter_clockwise(name: str) -> None:
    for shapes in shape_all(Shaper(grid_of(name)), batches_of(blobs())):
        for geometry in shapes.geometries():
            assert geometry.exterior.is_ccw
            assert not any(hole.is_ccw for hole in geometry.interiors)


@pytest.mark.parametrize("name", GRIDS)
def test_area_and_perimeter_are_geodesic(name: str) -> None:
    """Against Karney's geodesics on boundaries cut into single pixel sides (500 m at most)."""
    grid = grid_of(name)
    geod = grid.geod
    assert geod is not None
    crs = CRS.from_wkt(grid.crs_wkt)
    to_lonlat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    assert grid.pixel_metres is not None
    pixel = max(grid.pixel_metres)
    compared = 0
    for shapes in shape_all(Shaper(grid), batches_of(blobs(size=9))):
        for geometry, area, perimeter, pixels in zip(
            shapes.geometries(), shapes.area, shapes.perimeter, shapes.pixels, strict=True
        ):
            side = min(1.0, 500 / pixel) * min(
                math.hypot(grid.transform.a, grid.transform.d), math.hypot(grid.transform.b, grid.transform.e)
            )
            fine = shapely.transform(shapely.segmentize(geometry, side), to_lonlat.transform, interleaved=False)
            expected_area = geod.geometry_area_perimeter(fine)[0]
            expected_perimeter = sum(geod.line_length(*ring.coords.xy) for ring in (fine.exterior, *fine.interiors))
            assert perimeter == pytest.approx(expected_perimeter, rel=1e-7, abs=1e-4)
            if pixels > 20:  # pyproj itself is off by some 1e-4 m2
                assert area == pytest.approx(abs(expected_area), rel=5e-6, abs=2e-3)
                compared += 1
    assert compared > 5


def test_web_mercator_does_not_inflate_areas() -> None:
    """The same 100 m squares at 60 degrees north: 4 times as large on the map."""
    grid = Grid(5, 7, Affine(100, 0, 0, 0, -100, 8_399_738), CRS.from_epsg(3857).to_wkt())
    batch = concatenate(batches_of(np.zeros((5, 7), np.uint8)))
    assert Shaper(grid).shape(batch).area[0] / (35 * 100 * 100) == pytest.approx(0.25, rel=0.01)


def test_a_band_around_the_earth_has_its_true_area() -> None:
    grid = Grid(4, 360, Affine(1, 0, -180, 0, -1, 2), CRS.from_epsg(4326).to_wkt())
    shapes = Shaper(grid).shape(concatenate(batches_of(np.zeros((4, 360), np.uint8))))
    authalic_radius = 6_371_007.1809
    assert shapes.area[0] == pytest.approx(2 * math.pi * authalic_radius**2 * 2 * math.sin(math.radians(2)), rel=1e-2)
    degree = 111_319.49
    assert shapes.perimeter[0] == pytest.approx(2 * 360 * degree * math.cos(math.radians(2)) + 8 * 110_574, rel=1e-3)


def test_a_polygon_around_the_pole_has_its_true_area() -> None:
    grid = Grid(200, 210, Affine(10_000, 0, -1_050_000, 0, -10_000, 1_000_000), CRS.from_epsg(3413).to_wkt())
    shapes = Shaper(grid).shape(concatenate(batches_of(np.zeros((200, 210), np.uint8), block=210)))
    equal_area = Transformer.from_crs(3413, 6931, always_xy=True)
    geometry = shapely.transform(
        shapely.segmentize(shapes.geometries()[0], 1_000), equal_area.transform, interleaved=False
    )
    assert shapes.area[0] == pytest.approx(geometry.area, rel=1e-6)


def test_without_crs_everything_is_in_pixels() -> None:
    grid = Grid(*SHAPE, Affine.identity())
    labels = blobs()
    shaper = Shaper(grid, min_area=Quantity(3))
    assert not shaper.is_georeferenced
    for shapes in shape_all(shaper, batches_of(labels)):
        assert shapes.lonlat is None
        np.testing.assert_array_equal(shapes.area, shapes.pixels)
        np.testing.assert_array_equal(shapes.perimeter, shapely.length(shapes.geometries()))
        assert (shapes.area >= 3).all()


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ('ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]', None),
        (None, (0.5, 0.25)),
    ],
)
def test_metres_are_metres_wherever_the_size_of_pixels_is_known(
    where: str | None, told: tuple[float, float] | None
) -> None:
    """A local system in metres, and the user's word for it: 16 m2 are 128 pixels of 0.5 x 0.25 m."""
    grid = Grid(*SHAPE, Affine(0.5, 0, 10, 0, -0.25, 40) if where else Affine.identity(), where)
    batches = batches_of(blobs())
    metres = shape_all(Shaper(grid, told, min_area=Quantity(16), fill_holes=Quantity(0.5)), batches)
    pixels = shape_all(
        Shaper(grid, min_area=Quantity(128, in_pixels=True), fill_holes=Quantity(4, in_pixels=True)), batches
    )
    assert [len(s) for s in metres] == [len(s) for s in pixels]
    assert 0 < sum(len(s) for s in metres) < sum(map(len, batches))
    square = Shaper(Grid(*SHAPE, Affine.identity()), (0.5, 0.5))
    thin = [square.simplify(batches, size).coordinates for size in (Quantity(1.25), Quantity(2.5, in_pixels=True))]
    np.testing.assert_array_equal(*thin)
    assert len(thin[0]) < sum(len(b.coordinates) for b in batches)


def test_probabilities_are_those_of_the_pixels() -> None:
    for shapes in shape_all(Shaper(grid_of("utm")), batches_of(blobs())):
        assert shapes.mean_probability is not None
        np.testing.assert_array_equal(shapes.mean_probability, np.round((shapes.label + 1) * 0.2, 4))
        np.testing.assert_array_equal(shapes.min_probability, shapes.mean_probability)
    bare = Shaper(grid_of("utm"), has_confidence=False).shape(batches_of(blobs())[0])
    assert bare.mean_probability is None
    assert bare.min_probability is None


@pytest.mark.parametrize("unit", ["px", ""])
def test_filters_by_area(unit: str) -> None:
    grid, labels = grid_of("utm"), blobs()
    pixel = 1 if unit else 10.3**2
    everything = shape_all(Shaper(grid), batches_of(labels))
    all_areas = np.concatenate([s.area if not unit else shapely.area(s.geometries()) / 10.3**2 for s in everything])
    limit = 20.5 * pixel
    kept = shape_all(Shaper(grid, min_area=Quantity.parse(f"{limit}{unit}")), batches_of(labels))
    assert sum(map(len, kept)) == (all_areas >= limit).sum()
    assert 0 < sum(map(len, kept)) < len(all_areas)


def test_fills_small_holes_and_measures_what_is_written() -> None:
    labels = np.zeros((12, 15), np.uint8)
    labels[2, 3] = labels[5:8, 6:10] = 1
    grid = grid_of("utm", labels.shape)
    batch = concatenate(batches_of(labels))
    (background,) = (s := Shaper(grid, fill_holes=Quantity(2, in_pixels=True)).shape(batch)).geometries()[s.label == 0]
    assert [len(hole.coords) for hole in background.interiors] == [5]
    assert background.interiors[0].envelope.area == pytest.approx(12 * 10.3**2)
    assert s.pixels[s.label == 0] == 180 - 13
    assert s.area[s.label == 0][0] == pytest.approx((180 - 12) * 10.3**2, rel=2e-3)
    # A filled polygon passes a limit that it would not have passed with its holes.
    both = Shaper(grid, fill_holes=Quantity(2 * 10.3**2), min_area=Quantity(168, in_pixels=True)).shape(batch)
    assert len(both) == 0
    both = Shaper(grid, fill_holes=Quantity(2, in_pixels=True), min_area=Quantity(168, in_pixels=True)).shape(batch)
    assert both.label.tolist() == [0]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", ["utm", "web mercator", "degrees", "rotated"])
def test_simplified_borders_stay_shared(name: str, connectivity: int) -> None:
    labels = discs()
    shaper = Shaper(grid_of(name, labels.shape))
    batches = batches_of(labels, connectivity)
    simple = shaper.simplify(batches, Quantity(2.5, in_pixels=True))
    full = concatenate(batches)
    assert len(simple) == len(full)
    assert len(simple.coordinates) < 0.5 * len(full.coordinates)
    shapes = shaper.unfiltered().shape(simple)
    if connectivity == 4:
        assert shapely.is_valid(shapes.geometries()).all()
        assert shapely.coverage_is_valid(shapely.transform(shapes.geometries(), lambda xy: np.round(xy, 6)))
    corners = {tuple(xy) for xy in full.coordinates.tolist()}
    assert {tuple(xy) for xy in simple.coordinates.tolist()} <= corners


def test_tolerance_in_metres_means_the_same_in_every_crs() -> None:
    labels = discs()
    batches = batches_of(labels)
    results = []
    lat = 60.0
    for transform, epsg in (
        (Affine(10, 0, 500_000, 0, -10, 6_651_000), 32633),
        (Affine(20, 0, 1_669_792, 0, -20, 8_399_738), 3857),
        (Affine(10 / (111_412.9 * math.cos(math.radians(lat))), 0, 15, 0, -10 / 111_412.9, lat), 4326),
    ):
        shaper = Shaper(Grid(*labels.shape, transform, CRS.from_epsg(epsg).to_wkt()))
        np.testing.assert_allclose(shaper.pixel_metres, 10, rtol=0.01)
        results.append(len(shaper.simplify(batches, Quantity(31.0)).coordinates))
    assert results[0] == pytest.approx(results[1], rel=0.05)
    assert results[0] == pytest.approx(results[2], rel=0.05)
    assert results[0] < 0.5 * sum(len(b.coordinates) for b in batches)


def test_simplifying_nothing_gives_nothing() -> None:
    assert len(Shaper(grid_of("utm")).simplify([], Quantity(1))) == 0


def test_split_gives_the_same_polygons_in_parts() -> None:
    batch = concatenate(batches_of(blobs()))
    parts = list(split(batch, 100))
    assert len(parts) > 3
    whole = concatenate(parts)
    for name in ("coordinates", "ring_offsets", "polygon_offsets", "label", "first_pixel"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(batch, name))


def test_scene_beyond_its_crs_is_refused() -> None:
    grid = Grid(6, 5, Affine(1e7, 0, 1e9, 0, -1e7, 1e9), CRS.from_epsg(3035).to_wkt())
    with pytest.raises(InputError, match="cannot be turned into longitude and latitude"):
        Shaper(grid).shape(concatenate(batches_of(np.zeros((6, 5), np.uint8))))


@pytest.mark.parametrize(
    ("text", "value", "in_pixels"),
    [
        ("25", 25, False),
        (" 0.5 m ", 0.5, False),
        ("50px", 50, True),
        ("3 PX", 3, True),
        ("1.5m2", 1.5, False),
        (7, 7, False),
    ],
)
def test_quantities(text: str | int, value: float, in_pixels: bool) -> None:
    assert Quantity.parse(text) == Quantity(value, in_pixels)
    assert Quantity.parse(str(Quantity.parse(text))) == Quantity(value, in_pixels)


@pytest.mark.parametrize("text", ["", "px", "-3", "five", "3 km", "nan", "1e400"])
def test_bad_quantities_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no area or length"):
        Quantity.parse(text)


@pytest.mark.parametrize("text", ["1234567.5", "0.000012", "25", "50px"])
def test_quantities_are_written_in_full(text: str) -> None:
    assert Quantity.parse(str(Quantity.parse(text))) == Quantity.parse(text)
