"""Outlines of a layer of several scenes: against the shapes that were drawn, by shapely, on coordinates of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from affine import Affine
from pyproj import CRS
from shapely import affinity

from tileseg.batch.outlines import Ground, outlined, without_small
from tileseg.errors import UsageError
from tileseg.polygons.quantity import Quantity
from tileseg.spec import VectorOptions

SHAPE = (90, 130)
PLACE = Affine(0.5, 0.03, 650_000.3, -0.02, -0.5, 4_200_000.7)
"""Neither north up nor on whole metres: borders are no multiples of anything."""
GROUND = Ground((1.0, 1.0), 0.5)


def row_of_houses(angle: float = 19) -> list[shapely.Polygon]:
    boxes = (shapely.box(22 + 25 * i, 30, 47 + 25 * i, 62 + 6 * (i % 2)) for i in range(3))
    return [affinity.rotate(box, angle, origin=(57, 45)) for box in boxes]


def traced(*shapes: shapely.Polygon) -> npt.NDArray[Any]:
    """The pixels whose centres lie in the shapes, as polygons on the ground, in the order of the shapes."""
    rows, cols = np.indices(SHAPE) + 0.5
    labels = np.zeros(SHAPE, np.uint8)
    for label, shape in enumerate(shapes, start=1):
        labels[shapely.contains_xy(shape, cols, rows)] = label
    found = rasterio.features.shapes(labels, mask=labels > 0, transform=PLACE)
    return np.array([shapely.geometry.shape(g) for g, _ in sorted(found, key=lambda pair: pair[1])])


def placed(shape: shapely.Polygon) -> shapely.Polygon:
    return affinity.affine_transform(shape, [PLACE.a, PLACE.b, PLACE.d, PLACE.e, PLACE.c, PLACE.f])


def regular(shapes: npt.NDArray[Any], tolerance: str = "1") -> npt.NDArray[Any]:
    options = VectorOptions.parse({"regularize": "all", "tolerance": tolerance})
    return outlined(shapes, options, np.ones(len(shapes), np.bool_), GROUND)


def test_houses_in_a_row_share_their_walls() -> None:
    truth = [placed(house) for house in row_of_houses()]
    found = regular(traced(*row_of_houses()))
    assert shapely.is_valid(found).all()
    assert shapely.coverage_is_valid(found)
    for house, drawn in zip(found, truth, strict=True):
        assert len(house.exterior.coords) <= 9
        assert shapely.hausdorff_distance(house.exterior, drawn.exterior) < 1.2
        assert house.symmetric_difference(drawn).area < 0.06 * drawn.area
    for one, other in ((0, 1), (1, 2)):
        assert found[one].intersection(found[other]).length == pytest.approx(16, abs=1.3)


def test_a_corner_on_a_neighbours_side_is_one_of_both() -> None:
    """As scenes that were cut along a line meet: one side has corners that the other has not."""
    left = shapely.Polygon([(0, 0), (20, 0.4), (20.2, 18.3), (0, 18)])
    upper = shapely.Polygon([(20.1, 9.35), (40, 9.3), (40, 18.4), (20.2, 18.3)])
    lower = shapely.Polygon([(20, 0.4), (40, 0.5), (40, 9.3), (20.1, 9.35)])
    found = regular(np.array([left, upper, lower]))
    assert shapely.is_valid(found).all()
    assert shapely.area(shapely.intersection(found[0], found[1:])).max() < 1e-6
    whole = shapely.union_all([left, upper, lower])
    assert shapely.union_all(found).symmetric_difference(whole).area < 0.02 * whole.area


def test_only_wanted_ones_move_and_yards_stay() -> None:
    yard = shapely.box(90, 15, 120, 45) - shapely.box(98, 22, 111, 36)
    shapes = traced(*row_of_houses()[:2], affinity.rotate(yard, 31))
    options = VectorOptions.parse({"regularize": "all"})
    found = outlined(shapes, options, np.array([False, False, True]), GROUND)
    assert shapely.hausdorff_distance(found[:2], shapes[:2]).max() < 0.01
    (hole,) = found[2].interiors
    assert len(hole.coords) == len(found[2].exterior.coords) == 5


def test_simplified_borders_stay_shared() -> None:
    shapes = traced(*row_of_houses())
    found = outlined(shapes, VectorOptions.parse({"simplify": "2px"}), np.ones(3, np.bool_), GROUND)
    assert shapely.coverage_is_valid(found)
    assert shapely.get_num_coordinates(found).sum() < 0.5 * shapely.get_num_coordinates(shapes).sum()


def test_small_holes_and_polygons() -> None:
    shapes = np.array(
        [shapely.box(0, 0, 10, 10) - shapely.box(1, 1, 2, 3) - shapely.box(5, 5, 8, 8), shapely.box(20, 0, 22, 2)]
    )
    options = VectorOptions(fill_holes=Quantity(3), min_area=Quantity(20, in_pixels=True))
    found, large = without_small(shapes, options, 0.25, shapely.area)
    assert shapely.area(found).tolist() == [91, 4]
    assert large.tolist() == [True, False]


def test_degrees_that_differ_in_length_are_refused() -> None:
    wgs84 = CRS.from_epsg(4326)
    ground = Ground.of(wgs84, np.array([15.0, 59.9, 15.3, 60.1]), 1e-5)
    assert ground.unit == pytest.approx((55_660, 111_320), rel=0.01)
    assert ground.pixel == pytest.approx(0.556, rel=0.01)
    with pytest.raises(UsageError, match=r"choose a --crs in metres"):
        Ground.of(wgs84, np.array([15.0, 40.0, 15.3, 60.1]), 1e-5)
