"""Vertices and corners, of shapes whose corners are known."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.features
import shapely
import shapely.affinity

from tileseg.evaluate.outlines import NO_OUTLINES, outlines_of


def _array(*shapes: shapely.Geometry) -> np.ndarray:
    out = np.empty(len(shapes), object)
    out[:] = shapes
    return out


def test_a_house_with_a_yard_and_a_round_one() -> None:
    house = shapely.box(0, 0, 40, 30) - shapely.box(10, 10, 20, 18)
    found = outlines_of(_array(house, shapely.Point(100, 100).buffer(20, quad_segs=8)))
    assert found.vertices.tolist() == [8, 32]
    assert found.right == 8
    assert found.corners > 16, "a round outline turns often"
    assert found.share_right == pytest.approx(8 / found.corners)
    assert outlines_of(_array(house)).share_right == 1
    assert found.median_vertices == 20


def test_points_on_straight_edges_are_no_vertices_and_corners_may_be_turned() -> None:
    house = shapely.affinity.rotate(shapely.segmentize(shapely.box(0, 0, 40, 30), 3), 31)
    found = outlines_of(_array(house))
    assert found.vertices.tolist() == [4]
    assert (found.corners, found.right) == (4, 4)
    lozenge = shapely.Polygon([(0, 0), (30, 20), (60, 0), (30, -20)])
    assert (outlines_of(_array(lozenge)).corners, outlines_of(_array(lozenge)).right) == (4, 0)


def test_steps_of_pixels_are_no_corners() -> None:
    """All corners that GDAL traces are right angles; those of a house at an angle are four, of a disc none."""
    rows, cols = np.mgrid[:120, :200]
    along, across = (cols - 60) * 0.8 + (rows - 60) * 0.6, (rows - 60) * 0.8 - (cols - 60) * 0.6
    labels = ((np.abs(along) < 30) & (np.abs(across) < 18)).astype(np.uint8)
    disc = ((rows - 60) ** 2 + (cols - 150) ** 2 < 35**2).astype(np.uint8)
    traced = [
        shapely.geometry.shape(shape)
        for mask in (labels, disc)
        for shape, _ in rasterio.features.shapes(mask, mask=mask > 0)
    ]
    house, round_one = (outlines_of(_array(shape)) for shape in traced)
    assert house.vertices[0] > 50
    assert (house.corners, house.right) == (4, 4)
    assert round_one.share_right < 0.15


def test_pixels_that_are_no_squares() -> None:
    """A right angle on the ground, in pixels that are twice as high as wide."""
    ground = shapely.affinity.rotate(shapely.box(0, 0, 80, 60), 40)
    pixels = shapely.affinity.scale(ground, 1, 0.5, origin=(0, 0))
    assert outlines_of(_array(pixels)).right == 0
    assert outlines_of(_array(pixels), aspect=2).right == 4


def test_several_parts_and_none() -> None:
    both = shapely.MultiPolygon([shapely.box(0, 0, 10, 20), shapely.box(30, 0, 40, 9)])
    found = outlines_of(_array(both, shapely.box(50, 0, 60, 30)))
    assert found.vertices.tolist() == [8, 4]
    assert (found.corners, found.right) == (12, 12)
    assert np.isnan(NO_OUTLINES.median_vertices)
    assert np.isnan(NO_OUTLINES.share_right)
    assert (found + NO_OUTLINES).vertices.tolist() == [8, 4]
