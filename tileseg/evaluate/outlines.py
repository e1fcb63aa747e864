"""Outlines of polygons as somebody who edits them sees them: how many vertices, and which corners are right angles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

_STRAIGHT = 0.05
"""Pixels: vertices as near to a straight line as this are none; files in other coordinates have some on long edges."""

STEP = 1.0
"""Pixels: outlines are simplified so far before corners are counted, so that the steps of pixels are no corners."""

CORNER = 10.0
"""Degrees: an outline that turns by less at a vertex has no corner there; and a right angle may be off by so much."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """Vertices and corners of polygons, holes among them."""

    vertices: npt.NDArray[np.int32]
    """(n,) vertices of each polygon, the first not counted twice."""
    corners: int
    """Where outlines turn by 10 degrees or more, once simplified by a pixel."""
    right: int
    """Of these, those that are within 10 degrees of a right angle."""

    def __add__(self, other: Outlines) -> Outlines:
        """Those of both."""
        return Outlines(
            np.concatenate([self.vertices, other.vertices]), self.corners + other.corners, self.right + other.right
        )

    @property
    def median_vertices(self) -> float:
        """Vertices of the middle polygon; NaN where there is none."""
        return float(np.median(self.vertices)) if len(self.vertices) else float("nan")

    @property
    def share_right(self) -> float:
        """Share of the corners that are right angles; NaN where there is none."""
        return self.right / self.corners if self.corners else float("nan")


NO_OUTLINES = Outlines(np.empty(0, np.int32), 0, 0)


def outlines_of(polygons: npt.NDArray[np.object_], aspect: float = 1.0) -> Outlines:
    """Count vertices and corners of polygons (n,) in (column, row) of a grid.

    ``aspect``: height of the grid's pixels on the ground, over their width.
    """
    if not len(polygons):
        return NO_OUTLINES
    owner, _, _ = _edges(shapely.simplify(polygons, _STRAIGHT))
    vertices = np.bincount(owner, minlength=len(polygons)).astype(np.int32)
    _, ring, edges = _edges(shapely.simplify(polygons, STEP))
    edges[:, 1] *= aspect
    # The edge before the first of a ring is its last.
    start = np.flatnonzero(np.diff(ring, prepend=-1))
    before = np.arange(len(edges)) - 1
    before[start] = np.append(start[1:], len(edges)) - 1
    last = edges[before]
    cross = last[:, 0] * edges[:, 1] - last[:, 1] * edges[:, 0]
    turn = np.abs(np.degrees(np.arctan2(cross, (last * edges).sum(axis=1))))
    return Outlines(vertices, int((turn >= CORNER).sum()), int((np.abs(turn - 90) <= CORNER).sum()))


def _edges(polygons: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Of every edge of all rings, one after the other: its polygon, its ring, and the way (n, 2) that it goes."""
    parts, of_part = shapely.get_parts(polygons, return_index=True)
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    points, of_point = shapely.get_coordinates(rings, return_index=True)
    within = of_point[1:] == of_point[:-1]
    ring = of_point[1:][within]
    return of_part[of_ring[ring]], ring, np.diff(points, axis=0)[within]
