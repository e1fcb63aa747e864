"""Polygons of any file on the pixels of a grid, wherever on the globe that lies and however longitudes are counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from tileseg.globe import globe_of, transformer_between
from tileseg.grid import Grid

if TYPE_CHECKING:
    from pyproj import CRS

Shapes = npt.NDArray[Any]
Owners = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]

_STEPS = 512
"""Points along the diagonal of what is reprojected: a straight line in one system is bent in another."""
_MARGIN = 0.05
"""Polygons are cut outside the grid by this share of its size before they are reprojected."""
_EDGE = 1e-9
"""Degrees: how far from the seam of a map polygons are cut, so that it is clear on which side they are."""


def parts_of(shapes: Shapes) -> tuple[Shapes, Owners]:
    """The polygons (n,) in geometries of any kind, valid, and which geometry each is part of."""
    owner = np.arange(len(shapes))
    for _ in range(2):  # collections of multi-polygons, multi-polygons
        shapes, part = shapely.get_parts(shapes, return_index=True)
        owner = owner[part]
    polygonal = (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(shapes)
    shapes, owner = shapes[polygonal], owner[polygonal]
    valid = shapely.is_valid(shapes)
    if valid.all():
        return shapes, owner
    # Structure keeps what is inside of rings that overlap.
    mended = np.where(valid, shapes, shapely.make_valid(shapes, method="structure", keep_collapsed=False))
    flat, part = shapely.get_parts(mended, return_index=True)
    polygonal = shapely.get_type_id(flat) == shapely.GeometryType.POLYGON
    return flat[polygonal], owner[part[polygonal]]


def on_grid(shapes: Shapes, crs: CRS | None, grid: Grid) -> tuple[Shapes, Owners]:
    """Polygons (n,) in (column, row) of a grid, near it, and which of ``shapes`` each is part of, in their order.

    Args:
        shapes: geometries in ``crs``; what is not polygonal is left out.
        crs: None: they are in the grid's own coordinates.
        grid: where they are wanted. A turn further is the same place, so scenes from 0 to 360 degrees, or beyond the
            end of a world map, find what a file has from -180 to 180.
    """
    shapes, owner = parts_of(shapes)
    if len(shapes) and crs is not None and grid.crs is not None and crs != grid.crs:
        shapes, owner = _reprojected(shapes, owner, crs, grid)
    if len(shapes) and grid.crs_wkt is not None:
        shapes, owner = _turned(shapes, owner, grid)
    inverse = ~grid.transform
    matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
    shapes, part = parts_of(shapely.transform(shapes, lambda xy: xy @ matrix.T + (inverse.c, inverse.f)))
    return shapes, owner[part]


def _turned(shapes: Shapes, owner: Owners, grid: Grid) -> tuple[Shapes, Owners]:
    """Polygons in the grid's CRS with their repetitions on the grid, where the map repeats itself."""
    assert grid.crs_wkt is not None
    period = globe_of(grid.crs_wkt).period
    if period is None:
        return shapes, owner
    left, _, right, _ = grid.bounds
    bounds = shapely.bounds(shapes)
    found, owners = [shapes], [owner]
    west, east = float(bounds[:, 0].min()), float(bounds[:, 2].max())
    for turn in range(math.floor((left - east) / period), math.ceil((right - west) / period) + 1):
        shift = turn * period
        here = (bounds[:, 2] + shift >= left) & (bounds[:, 0] + shift <= right)
        if turn and here.any():
            found.append(shapely.transform(shapes[here], lambda xy, shift=shift: xy + np.array([shift, 0.0])))
            owners.append(owner[here])
    every, order = np.concatenate(owners), np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(found)[order], every[order]


def _reprojected(shapes: Shapes, owner: Owners, crs: CRS, grid: Grid) -> tuple[Shapes, Owners]:
    """Polygons in the grid's CRS: cut around the grid first, then with points along their edges."""
    assert grid.crs is not None
    forward = transformer_between(crs, grid.crs)
    turns = (0.0, 360.0, -360.0) if crs.is_geographic else (0.0,)
    found, owners = [], []
    for window in _windows(grid, crs):
        for turn in turns:
            there = shapes
            if window is not None:
                box = (window[0] - turn, window[1], window[2] - turn, window[3])
                near = np.flatnonzero(shapely.intersects(shapes, shapely.box(*box)))
                there, part = parts_of(shapely.clip_by_rect(shapes[near], *box))
                part = near[part]
            elif turn:
                continue
            else:
                part = np.arange(len(shapes))
            if not len(there):
                continue
            left, bottom, right, top = shapely.total_bounds(there)
            dense = shapely.segmentize(there, max(math.hypot(right - left, top - bottom) / _STEPS, 1e-9))
            found.append(shapely.transform(dense, forward.transform, interleaved=False))
            owners.append(owner[part])
    if not found:
        return shapes[:0], owner[:0]
    placed, every = np.concatenate(found), np.concatenate(owners)
    finite = np.isfinite(shapely.bounds(placed)).all(axis=1) & ~shapely.is_empty(placed)
    placed, every = placed[finite], every[finite]
    order = np.argsort(every, kind="stable")
    return placed[order], every[order]


def _windows(grid: Grid, crs: CRS) -> list[Box | None]:
    """Where in a CRS's coordinates the grid lies, and a little around; in degrees, cut where the grid's map is.

    None where that is not known: then everything may be near.
    """
    assert grid.crs is not None
    assert grid.crs_wkt is not None
    frame = shapely.box(0, 0, grid.width, grid.height)
    margin = _MARGIN * max(grid.width, grid.height) + 16
    wide = shapely.buffer(frame, margin, join_style="mitre")
    outline = shapely.segmentize(wide, max(frame.length / _STEPS, 1))
    corners = np.array(grid.transform @ tuple(shapely.get_coordinates(outline).T)).T
    around = np.stack(transformer_between(grid.crs, crs).transform(*corners.T), axis=1)
    known = bool(np.isfinite(around).all())
    if not crs.is_geographic:
        return [(*around.min(axis=0).tolist(), *around.max(axis=0).tolist())] if known else [None]
    globe = globe_of(grid.crs_wkt)
    poles = [sign for sign, x, y in globe.poles if shapely.contains_xy(wide, *(~grid.transform @ (x, y)))]
    south, north = (around[:, 1].min(), around[:, 1].max()) if known else (-90.0, 90.0)
    if poles or not known or globe.seam is not None:
        middle = 0.0 if globe.seam is None else globe.seam - 180
        south, north = (-90.0 if -1 in poles else south), (90.0 if 1 in poles else north)
        return [(middle - 180 + _EDGE, float(south), middle + 180 - _EDGE, float(north))]
    steps = np.remainder(np.diff(around[:, 0]) + 180, 360) - 180
    lon = around[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    return [(float(lon.min()), float(south), float(lon.max()), float(north))]
