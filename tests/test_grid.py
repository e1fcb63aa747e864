"""The size of a grid's pixels on the ground, against pyproj's own distances and the definitions of projections."""

import math

import pytest
from affine import Affine
from pyproj import Geod, Transformer

from tileseg.grid import Grid


def wkt(code: str) -> str:
    from pyproj import CRS

    return CRS.from_user_input(code).to_wkt()


def test_web_mercator_is_longer_than_the_ground() -> None:
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(37.2, 60.0)
    grid = Grid(300, 500, Affine(0.6, 0, x - 150, 0, -0.6, y + 90), wkt("EPSG:3857"))
    across, down = grid.pixel_metres
    # The parallel at 60 degrees, and the meridian, on the ellipsoid.
    geod = Geod(ellps="WGS84")
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    for found, to in ((across, (x + 60, y)), (down, (x, y - 60))):
        lon, lat = to_degrees.transform(*zip((x, y), to, strict=True))
        assert found == pytest.approx(geod.line_length(lon, lat) / 100, rel=1e-4)
    assert grid.ground_sample_distance == pytest.approx(0.6 * math.cos(math.radians(60)), rel=5e-3)


def test_degrees_are_measured() -> None:
    grid = Grid(40, 90, Affine(0.001, 0, 20, 0, -0.001, 60.02), wkt("EPSG:4326"))
    across, down = grid.pixel_metres
    assert across == pytest.approx(55.8, rel=2e-3)
    assert down == pytest.approx(111.4, rel=2e-3)
    assert grid.ground_sample_distance == pytest.approx(math.sqrt(across * down))


@pytest.mark.parametrize("turn", [0, 30, 180])
def test_turned_and_flipped_grids_have_the_same_pixels(turn) -> None:
    placed = Affine.translation(500_000, 4_000_000) @ Affine.rotation(turn) @ Affine.scale(0.5, -0.25)
    across, down = Grid(200, 300, placed, wkt("EPSG:32637")).pixel_metres
    # At the zone's central meridian a metre of the map is 1/0.9996 of one on the ground.
    assert across == pytest.approx(0.5 / 0.9996, rel=1e-5)
    assert down == pytest.approx(0.25 / 0.9996, rel=1e-5)


def test_feet_become_metres() -> None:
    grid = Grid(200, 300, Affine(1, 0, 6_560_000, 0, -1, 1_840_000), wkt("EPSG:2229"))
    assert grid.ground_sample_distance == pytest.approx(0.3048, rel=1e-3)


@pytest.mark.parametrize(("unit", "metres"), [('UNIT["metre",1]', 0.5), ('UNIT["foot",0.3048]', 0.1524)])
def test_local_systems_have_the_size_of_their_unit(unit, metres) -> None:
    grid = Grid(200, 300, Affine(0.5, 0, 0, 0, -0.5, 0), f'LOCAL_CS["a site",{unit}]')
    assert grid.ground_sample_distance == pytest.approx(metres)


@pytest.mark.parametrize(
    "crs",
    [
        None,
        'LOCAL_CS["a drawing",UNIT["unknown",0]]',
    ],
)
def test_places_nowhere_on_the_earth_have_no_size(crs) -> None:
    grid = Grid(200, 300, Affine(0.5, 0, 0, 0, -0.5, 0), crs)
    assert grid.pixel_metres is None
    assert grid.ground_sample_distance is None
