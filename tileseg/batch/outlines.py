"""Outlines and sizes of the polygons of one layer: as :mod:`tileseg.polygons` does it for a scene, on any coordinates.

Polygons of several scenes have no common pixels. Their corners are put on a lattice of a fraction of a pixel, and
corners that lie on the border of a neighbour become corners of that too; then borders are cut where other than two
sides meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from tileseg.errors import UsageError
from tileseg.polygons.conflicts import Lines, fitting_lines
from tileseg.polygons.outline import regular_line
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.shape import usual_tolerance
from tileseg.polygons.thin import fitting_tolerance, plain_line
from tileseg.spec import VectorOptions

if TYPE_CHECKING:
    from pyproj import CRS

Array = npt.NDArray[Any]

_PARTS = 256
"""Parts of a pixel that corners are rounded to."""
_NEAR = 2.0
"""Parts up to which a corner lies on a border."""
_BENT = 1.02
"""Factor by which a degree of longitude may differ in length over a layer."""


@dataclass(frozen=True, slots=True)
class Ground:
    """How large a layer's units and the pixels of its scenes are."""

    unit: tuple[float, float]
    """Metres of a unit of x and of y."""
    pixel: float
    """Metres: side of the largest pixel."""

    @staticmethod
    def of(crs: CRS, bounds: Array, pixel: float) -> Ground:
        """``bounds``: of the layer; ``pixel``: side of its largest pixel in its units. Raises UsageError in degrees."""
        if not crs.is_geographic:
            metres = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
            return Ground((metres, metres), pixel * metres)
        low, high = np.cos(np.radians(np.abs(bounds[[1, 3]])).clip(0, np.pi / 2))
        if max(low, high) > _BENT * min(low, high):
            raise UsageError(
                f"--regularize and --simplify: a degree is not as long in the south of the layer as in the north "
                f"({bounds[1]:.1f} to {bounds[3]:.1f} degrees); choose a --crs in metres"
            )
        geod = crs.get_geod()
        degree = np.radians(1.0) * (6371008.8 if geod is None else geod.a)
        unit = (float(degree * (low + high) / 2), float(degree))
        return Ground(unit, pixel * min(unit))

    def metres(self, size: Quantity) -> float:
        """A length in metres."""
        return size.value * (self.pixel if size.in_pixels else 1.0)


def without_small(
    shapes: Array, options: VectorOptions, pixel_area: float, area: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Polygons with their small holes filled, and which of them are large enough.

    ``pixel_area``: square metres of a pixel; ``area``: of polygons, in square metres.
    """

    def limit(size: Quantity | None) -> float:
        return 0.0 if size is None else size.value * (pixel_area if size.in_pixels else 1.0)

    if least := limit(options.fill_holes):
        shapes = shapes.copy()
        for i in np.flatnonzero(shapely.get_num_interior_rings(shapes)).tolist():
            holes = np.array([shapely.Polygon(hole) for hole in shapes[i].interiors])
            kept = holes[area(holes) >= least]
            shapes[i] = shapely.Polygon(shapes[i].exterior, [hole.exterior for hole in kept])
    smallest = limit(options.min_area)
    return shapes, area(shapes) >= smallest if smallest else np.ones(len(shapes), np.bool_)


def outlined(shapes: Array, options: VectorOptions, wanted: Array, ground: Ground) -> Array:
    """Polygons (P,), none of which overlap, simplified or made regular; borders that two share stay shared.

    ``wanted``: (P,) bool, whose outlines are made regular.
    """
    step = ground.pixel / _PARTS
    scale = np.array(ground.unit) / step
    origin = np.round(shapely.bounds(shapes)[:, :2].min(axis=0) * scale)
    rings = _with_junctions([np.rint(ring * scale - origin) for ring in _rings(shapes)])
    if options.simplify is not None:
        whole = _polygons(shapes, [ring * step for ring in rings])
        found = shapely.coverage_simplify(whole, ground.metres(options.simplify))
        return np.asarray(shapely.transform(found, lambda xy: (xy / step + origin) / scale))
    most = usual_tolerance(options.tolerance, (ground.pixel, ground.pixel))
    owner = np.repeat(np.arange(len(shapes)), 1 + shapely.get_num_interior_rings(shapes))
    arcs = _Arcs.of(rings, wanted[owner])
    lines = arcs.lines(step, most, ground.pixel)
    reach = int(np.ceil(most / step)) + 1
    fine = fitting_lines(lines, len(arcs.points), max(16 * _PARTS, reach))
    best = np.zeros(len(arcs.points), np.int64)
    np.maximum.at(best, lines.arc[fine], np.flatnonzero(fine))
    return _polygons(shapes, [(ring + origin) / scale for ring in arcs.put_together(lines, best)])


def _rings(shapes: Array) -> list[Array]:
    """Open rings (n, 2), each polygon's exterior first."""
    return [shapely.get_coordinates(ring)[:-1] for shape in shapes for ring in (shape.exterior, *shape.interiors)]


def _polygons(shapes: Array, rings: list[Array]) -> Array:
    """Polygons of these open rings, as many each as those there have."""
    numbers = 1 + shapely.get_num_interior_rings(shapes)
    offsets = np.concatenate([[0], np.cumsum([len(ring) + 1 for ring in rings])])
    closed = np.concatenate([np.concatenate([ring, ring[:1]]) for ring in rings])
    made = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (offsets, np.concatenate([[0], np.cumsum(numbers)]))
    )
    return np.asarray(made)


def _with_junctions(rings: list[Array]) -> list[Array]:
    """Rings with the corners of others that lie on their sides; without corners that repeat."""
    rings = [ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] for ring in rings]
    ends = np.cumsum([len(ring) for ring in rings])
    points = np.concatenate(rings)
    following = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    corners = np.unique(points, axis=0)
    sides = shapely.linestrings(np.stack([points, following], axis=1))
    side, corner = shapely.STRtree(shapely.points(corners)).query(sides, predicate="dwithin", distance=_NEAR)
    way = following - points
    along = ((corners[corner] - points[side]) * way[side]).sum(axis=1) / np.maximum(1, (way[side] ** 2).sum(axis=1))
    apart = np.minimum(np.hypot(*(corners[corner] - points[side]).T), np.hypot(*(corners[corner] - following[side]).T))
    between = (along > 0) & (along < 1) & (apart > _NEAR)
    at = np.concatenate([np.arange(len(points), dtype=float), side[between] + along[between]])
    order = np.argsort(at, kind="stable")
    every = np.concatenate([points, corners[corner[between]]])[order]
    return np.split(every, np.searchsorted(at[order], ends[:-1]))


@dataclass(frozen=True, slots=True)
class _Arcs:
    """The borders between polygons, each once, and how rings follow them."""

    points: list[Array]
    """(n, 2) of each; a closed one does not repeat its first."""
    closed: list[bool]
    wanted: list[bool]
    rings: list[list[tuple[int, bool]]]
    """Of each ring: arcs, and whether it follows them backward."""

    @staticmethod
    def of(rings: list[Array], wanted: Array) -> _Arcs:
        """Cut rings where other than two sides meet."""
        every = np.concatenate(rings)
        _, vertex = np.unique(every, axis=0, return_inverse=True)
        vertex = vertex.ravel()
        following = np.concatenate(
            [np.roll(part, -1) for part in np.split(vertex, np.cumsum([len(r) for r in rings])[:-1])]
        )
        pairs = np.unique(np.concatenate([np.stack([vertex, following], 1), np.stack([following, vertex], 1)]), axis=0)
        node = np.bincount(pairs[:, 0], minlength=len(vertex)) != 2
        known: dict[bytes, int] = {}
        found = _Arcs([], [], [], [])
        low = 0
        for ring, is_wanted in zip(rings, wanted, strict=True):
            ids = vertex[low : low + len(ring)]
            low += len(ring)
            starts = np.flatnonzero(node[ids])
            parts = []
            if len(starts):
                turned = np.roll(np.arange(len(ring)), -starts[0])
                cuts = [*(starts - starts[0]).tolist(), len(ring)]
                around = np.append(turned, turned[0])
                parts = [around[a : b + 1] for a, b in itertools.pairwise(cuts)]
            else:  # a whole ring, from its least corner on, in the direction of its lesser neighbour
                parts = [np.roll(np.arange(len(ring)), -int(ids.argmin()))]
            found.rings.append([found._add(ring, ids, part, not len(starts), bool(is_wanted), known) for part in parts])
        return found

    def _add(
        self, ring: Array, ids: Array, part: Array, closed: bool, wanted: bool, known: dict[bytes, int]
    ) -> tuple[int, bool]:
        """The number of a part of a ring among the arcs, where it is one of them now, and whether it runs backward."""
        names = ids[part]
        backward = bool(names[1] > names[-1]) if closed else tuple(names[::-1]) < tuple(names)
        if backward:
            part = np.concatenate([part[:1], part[:0:-1]]) if closed else part[::-1]
        key = ids[part].tobytes()
        number = known.setdefault(key, len(self.points))
        if number == len(self.points):
            self.points.append(ring[part])
            self.closed.append(closed)
            self.wanted.append(wanted)
        elif wanted:
            self.wanted[number] = True
        return number, backward

    def lines(self, step: float, tolerance: float, pixel: float) -> Lines:
        """Of each arc itself, a line with fewer corners and a regular one, as far as there are such."""
        out: list[Array] = []
        arc: list[int] = []
        for number, (points, closed) in enumerate(zip(self.points, self.closed, strict=True)):
            candidates = [points]
            if self.wanted[number] and len(points) > 2:
                steps = _steps(points * step, closed, pixel)
                most = fitting_tolerance(steps, closed, tolerance, pixel)
                candidates.append(plain_line(steps, closed, most, min(0.75 * pixel, most / 2)) / step)
                candidates.append(regular_line(steps, closed, most, pixel, steps[:0], most) / step)
            loop = not closed and (points[0] == points[-1]).all()
            for line in candidates:
                if line is points or len(line) >= (4 if loop else 3 if closed else 2):
                    out.append(np.rint(line))
                    arc.append(number)
        offsets = np.concatenate([[0], np.cumsum([len(line) for line in out])])
        return Lines(
            np.concatenate(out).astype(np.int32),
            offsets.astype(np.int64),
            np.array(arc, np.int64),
            np.arange(len(self.points)),
            np.array(self.closed, np.bool_),
        )

    def put_together(self, lines: Lines, best: Array) -> list[Array]:
        """Open rings of the best lines."""
        made = []
        for ring in self.rings:
            parts = []
            for number, backward in ring:
                line = lines.points[lines.offsets[best[number]] : lines.offsets[best[number] + 1]].astype(float)
                if backward:
                    line = np.concatenate([line[:1], line[:0:-1]]) if self.closed[number] else line[::-1]
                parts.append(line if self.closed[number] else line[:-1])
            made.append(np.concatenate(parts))
        return made


def _steps(line: Array, closed: bool, pixel: float) -> Array:
    """Points of a line no more than about a pixel apart."""
    if closed:
        line = np.concatenate([line, line[:1]])
    counts = np.maximum(1, np.ceil(np.hypot(*np.diff(line, axis=0).T) / pixel - 1e-6).astype(int))
    at = np.concatenate([i + np.arange(n) / n for i, n in enumerate(counts)] + [[len(counts)]])
    dense = np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in range(2)], axis=1)
    return dense[:-1] if closed else dense
