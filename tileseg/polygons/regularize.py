"""Polygons with straight walls and right angles, which still share their borders and stay within a distance.

Three passes over all polygons, which wait in files meanwhile, a few hundred thousand corners at a time:

1. whole polygons are put aside, in order, with the box around each ring;
2. rings are cut into arcs where more than two sides meet (with all rings near them, so that this does not depend on
   what is worked on together), and each arc gets the lines that might stand for it;
3. each arc gets the best of its lines that keeps clear of all lines near it; rings are put together of them.

What becomes of an arc depends on it and on what is near, so both its polygons get the same, whatever the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.arcs import Arcs, arcs_of
from tileseg.polygons.batch import concatenate, split
from tileseg.polygons.conflicts import Lines, fitting_lines
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.outline import regular_line
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import FilePile, Scratch, release
from tileseg.polygons.thin import fitting_tolerance, plain_line

_FINE_BITS = 8
"""Lines lie on a lattice of 1/256 of a pixel; a coarser one where a scene has more than four million pixels a side."""

_SQUARE = 16
"""Pixels: side of the squares in which neighbours are looked for, at least."""

_MOST_SQUARES = 1 << 11
"""Squares along a side, at most, in which a part of the polygons is drawn to find what is near."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How outlines are made regular."""

    sides: tuple[float, float]
    """Metres (or pixels) of a pixel along rows and along columns: right angles are those on the ground."""
    tolerance: float
    """How far an outline may lie from the raw one (Hausdorff), in the same unit."""
    wanted: Callable[[Array], Array]
    """Of labels (P,), which are wanted (bool). Borders of others move only where a wanted one shares them."""
    shape: tuple[int, int]
    """Rows and columns of the scene: what lies on its edge stays there."""

    @property
    def scale(self) -> int:
        """Parts of a pixel that lines are rounded to."""
        return 1 << min(_FINE_BITS, 30 - max(self.shape).bit_length())

    @property
    def reach(self) -> int:
        """Whole pixels that lines lie apart from their arcs, at most."""
        return math.ceil(self.tolerance / min(self.sides)) + 1


def regularize(batches: Iterable[PolygonBatch], rules: Rules, scratch: Scratch) -> Iterator[PolygonBatch]:
    """The polygons of all batches, in order, with outlines made regular: coordinates are float64 then.

    In memory are some 100 bytes for each polygon, 40 for each ring and 50 for each arc, and the corners of a part of
    the polygons and of those near it (or of the largest polygon and those near it).
    """
    whole = _put_aside(batches, scratch)
    if not len(whole):
        return
    boxes = _boxes(whole.coordinates, whole.ring_offsets)
    release(whole.coordinates)
    parts = list(_parts(whole, scratch.in_memory))
    candidates = _Candidates(scratch)
    for low, high in parts:
        candidates.add(_arcs(whole, boxes, low, high, rules), low, rules)
        release(whole.coordinates)
    kept = candidates.whole()
    arc_boxes = kept.boxes()
    for part, (low, high) in zip(split(whole, scratch.in_memory), parts, strict=True):
        yield _finished(part, kept, arc_boxes, low, high, rules)
        release(whole.coordinates)


def _put_aside(batches: Iterable[PolygonBatch], scratch: Scratch) -> PolygonBatch:
    """All polygons as one batch, with corners in a file."""
    pile: FilePile | None = None
    rest = []
    for batch in batches:
        if len(batch):
            pile = pile or FilePile(scratch.folder)
            for start in range(0, len(batch.coordinates), scratch.in_memory):
                pile.add(batch.coordinates[start : start + scratch.in_memory])
                release(batch.coordinates)
            rest.append(replace(batch, coordinates=np.empty((0, 2), np.int32)))
    whole = concatenate(rest)
    return whole if pile is None else replace(whole, coordinates=pile.whole())


def _parts(whole: PolygonBatch, corners: int) -> Iterator[tuple[int, int]]:
    """Ranges of rings, polygon by polygon, as ``split`` has them."""
    ring = 0
    for part in split(whole, corners):
        rings = len(part.ring_offsets) - 1
        yield ring, ring + rings
        ring += rings


def _arcs(whole: PolygonBatch, boxes: Array, low: int, high: int, rules: Rules) -> Arcs:
    """The arcs of rings ``low`` to ``high``."""
    first, last = whole.ring_offsets[[low, high]]
    near = _near(whole.coordinates[first:last], whole.ring_offsets[low : high + 1] - first, boxes, 1, 1)
    near = np.concatenate([np.arange(low, high), near[(near < low) | (near >= high)]])
    coordinates, offsets = _gather(whole.coordinates, whole.ring_offsets, near)
    polygon = np.searchsorted(whole.polygon_offsets, near, "right") - 1
    return arcs_of(coordinates, offsets, high - low, rules.wanted(whole.label[polygon]), rules.shape)


def _near(points: Array, offsets: Array, boxes: Array, reach: int, scale: int) -> Array:
    """Boxes (n, 4) that come near lines, in squares of some pixels; ascending.

    ``reach``: pixels that count as near; ``scale``: units of the points and boxes in a pixel.
    """
    origin, far = points.min(axis=0) - reach * scale, points.max(axis=0) + reach * scale
    side = max(_SQUARE * scale, reach * scale, int((far - origin).max()) // _MOST_SQUARES + 1)
    drawn = np.zeros(tuple(((far - origin) // side + 2)[::-1]), np.int32)
    _draw(points, offsets, origin, side, reach * scale, drawn)
    drawn = drawn.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    return np.flatnonzero(_touched(boxes, origin, side, drawn))


@compiled
def _draw(points: Array, offsets: Array, origin: Array, side: int, reach: int, drawn: Array) -> None:
    """Mark the squares that segments of lines, closed, may come near; one row and column further."""
    for line in range(len(offsets) - 1):
        k = offsets[line + 1] - 1
        for i in range(offsets[line], offsets[line + 1]):
            # In pieces of at most a square, so that slanting ones do not mark all around them.
            dx, dy = float(points[i, 0] - points[k, 0]), float(points[i, 1] - points[k, 1])
            pieces = int(max(abs(dx), abs(dy)) / side) + 1
            for piece in range(pieces):
                x0, y0 = points[k, 0] + dx * (piece / pieces), points[k, 1] + dy * (piece / pieces)
                x1, y1 = points[k, 0] + dx * ((piece + 1) / pieces), points[k, 1] + dy * ((piece + 1) / pieces)
                low_x, high_x = int(min(x0, x1)) - 1 - reach, int(max(x0, x1)) + 1 + reach
                low_y, high_y = int(min(y0, y1)) - 1 - reach, int(max(y0, y1)) + 1 + reach
                for row in range(max(0, (low_y - origin[1]) // side), (high_y - origin[1]) // side + 1):
                    for col in range(max(0, (low_x - origin[0]) // side), (high_x - origin[0]) // side + 1):
                        if row + 1 < drawn.shape[0] and col + 1 < drawn.shape[1]:
                            drawn[row + 1, col + 1] = 1
            k = i


@compiled
def _touched(boxes: Array, origin: Array, side: int, sums: Array) -> Array:
    """(n,) bool: which boxes lie on a marked square. ``sums``: of the marks, from the first row and column on."""
    found = np.zeros(len(boxes), np.bool_)
    rows, cols = sums.shape
    for i in range(len(boxes)):
        x0, x1 = (boxes[i, 0] - origin[0]) // side, (boxes[i, 2] - origin[0]) // side + 1
        y0, y1 = (boxes[i, 1] - origin[1]) // side, (boxes[i, 3] - origin[1]) // side + 1
        x0, x1, y0, y1 = max(0, x0), min(cols - 1, x1), max(0, y0), min(rows - 1, y1)
        found[i] = x0 < x1 and y0 < y1 and sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0
    return found


@compiled
def _boxes(points: Array, offsets: Array) -> Array:
    """(lines, 4) int64: least and greatest x and y (xmin, ymin, xmax, ymax)."""
    out = np.empty((len(offsets) - 1, 4), np.int64)
    for line in range(len(offsets) - 1):
        for axis in range(2):
            out[line, axis] = out[line, 2 + axis] = points[offsets[line], axis]
        for i in range(offsets[line] + 1, offsets[line + 1]):
            for axis in range(2):
                out[line, axis] = min(out[line, axis], points[i, axis])
                out[line, 2 + axis] = max(out[line, 2 + axis], points[i, axis])
    return out


@compiled
def _gather(points: Array, offsets: Array, chosen: Array) -> tuple[Array, Array]:
    """Lines, one after the other, and their offsets."""
    ends = np.zeros(len(chosen) + 1, np.int64)
    for k in range(len(chosen)):
        ends[k + 1] = ends[k] + offsets[chosen[k] + 1] - offsets[chosen[k]]
    out = np.empty((ends[-1], 2), np.int32)
    for k in range(len(chosen)):
        start = offsets[chosen[k]]
        for i in range(ends[k + 1] - ends[k]):
            out[ends[k] + i, 0], out[ends[k] + i, 1] = points[start + i, 0], points[start + i, 1]
    return out, ends


class _Candidates:
    """Collects arcs and the lines that might stand for them."""

    def __init__(self, scratch: Scratch) -> None:
        self._pile = FilePile(scratch.folder)
        self._lengths: list[Array] = []
        self._arc: list[Array] = []
        self._arcs: list[Arcs] = []
        self._count = 0

    def add(self, arcs: Arcs, first_ring: int, rules: Rules) -> None:
        """Arcs of further rings, of which the first has this number."""
        points, lengths, arc = _lines_of(
            arcs.points, arcs.offsets, arcs.closed, arcs.wanted, *rules.sides, rules.tolerance, rules.scale
        )
        self._pile.add(points)
        self._lengths.append(lengths)
        self._arc.append(arc + self._count)
        nothing = np.empty((0, 2), np.int32)
        self._arcs.append(replace(arcs, points=nothing, offsets=nothing[:, 0], ring=arcs.ring + first_ring))
        self._count += len(arcs.key)

    def whole(self) -> _Kept:
        """All that was collected."""

        def joined(name: str) -> Array:
            return np.concatenate([getattr(arcs, name) for arcs in self._arcs])

        names = [field.name for field in fields(Arcs) if field.name not in ("points", "offsets", "wanted")]
        return _Kept(
            self._pile.whole(),
            np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))]),
            np.concatenate(self._arc),
            **{name: joined(name) for name in names},
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """Arcs of all rings, in order, with their lines. A arcs, L lines, n points."""

    points: Array
    """(n, 2) int32, in parts of a pixel; in a file."""
    offsets: Array
    """(L + 1,) int64."""
    arc: Array
    """(L,) int64: as in :class:`tileseg.polygons.conflicts.Lines`."""
    ring: Array
    """(A,) int64: the ring of each arc."""
    closed: Array
    backward: Array
    key: Array

    def boxes(self) -> Array:
        """(A, 4) around each arc and its lines."""
        first = np.flatnonzero(np.diff(self.arc, prepend=-1))
        found = _boxes(self.points, self.offsets)
        release(self.points)
        least, most = np.minimum.reduceat(found[:, :2], first), np.maximum.reduceat(found[:, 2:], first)
        return np.concatenate([least, most], axis=1)

    def lines(self, arcs: Array) -> Lines:
        """Some arcs with their lines."""
        low, high = np.searchsorted(self.arc, arcs), np.searchsorted(self.arc, arcs, "right")
        counts = high - low
        chosen = np.arange(counts.sum()) + np.repeat(low - np.cumsum(counts) + counts, counts)
        points, offsets = _gather(self.points, self.offsets, chosen)
        release(self.points)
        arc = np.repeat(np.arange(len(arcs)), counts)
        return Lines(points, offsets, arc, self.key[arcs], self.closed[arcs])


@compiled
def _lines_of(
    points: Array, offsets: Array, closed: Array, wanted: Array,
    width: float, height: float, tolerance: float, scale: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Of each arc itself, a line with fewer corners and the cheapest walls, as far as there are such.

    Returns (points (n, 2) int32 in parts of a pixel, points of each line, arc of each line).
    """
    arcs = len(closed)
    out = np.empty((4 * len(points) + 64, 2), np.int32)
    lengths, arc = np.empty(3 * arcs, np.int64), np.empty(3 * arcs, np.int64)
    pixel = max(width, height)
    n = lines = 0
    for a in range(arcs):
        low, high = offsets[a], offsets[a + 1]
        for i in range(low, high):
            out[n + i - low, 0], out[n + i - low, 1] = points[i, 0] * scale, points[i, 1] * scale
        lengths[lines], arc[lines] = high - low, a
        n, lines = n + high - low, lines + 1
        if not wanted[a] or high - low < 3:
            continue
        steps = _steps(points[low:high], closed[a], width, height)
        most = fitting_tolerance(steps, closed[a], tolerance, pixel)
        for level in range(2):
            if level == 0:
                line = plain_line(steps, closed[a], most, min(0.75 * pixel, most / 2))
            else:
                line = regular_line(steps, closed[a], most, pixel)
                if not len(line):
                    line = plain_line(steps, closed[a], most, min(most, max(pixel, min(2 * pixel, most / 2))))
            loop = not closed[a] and points[low, 0] == points[high - 1, 0] and points[low, 1] == points[high - 1, 1]
            if len(line) < (4 if loop else 3 if closed[a] else 2):
                continue
            if n + len(line) + 2 * (offsets[arcs] - high) > len(out):
                grown = np.empty((2 * len(out) + len(line), 2), np.int32)
                grown[:n] = out[:n]
                out = grown
            for i in range(len(line)):
                out[n + i, 0] = round((line[i, 0] / width + points[low, 0]) * scale)
                out[n + i, 1] = round((line[i, 1] / height + points[low, 1]) * scale)
            lengths[lines], arc[lines] = len(line), a
            n, lines = n + len(line), lines + 1
    return out[:n], lengths[:lines], arc[:lines]


@compiled
def _steps(line: Array, closed: bool, width: float, height: float) -> Array:
    """A line in steps of a pixel side, in metres from its first point."""
    n, total = len(line), 0
    for i in range(n if closed else n - 1):
        k = (i + 1) % n
        total += abs(line[k, 0] - line[i, 0]) + abs(line[k, 1] - line[i, 1])
    out = np.empty((total + (0 if closed else 1), 2))
    at = 0
    for i in range(n if closed else n - 1):
        k = (i + 1) % n
        dx, dy = line[k, 0] - line[i, 0], line[k, 1] - line[i, 1]
        count = abs(dx) + abs(dy)
        for step in range(count):
            out[at, 0] = (line[i, 0] - line[0, 0] + dx // count * step) * width
            out[at, 1] = (line[i, 1] - line[0, 1] + dy // count * step) * height
            at += 1
    if not closed:
        out[at, 0], out[at, 1] = (line[n - 1, 0] - line[0, 0]) * width, (line[n - 1, 1] - line[0, 1]) * height
    return out


def _finished(part: PolygonBatch, kept: _Kept, boxes: Array, low: int, high: int, rules: Rules) -> PolygonBatch:
    """The polygons of rings ``low`` to ``high``, put together of the best lines of their arcs."""
    first, last = np.searchsorted(kept.ring, [low, high])
    mine = np.arange(first, last)
    lines = kept.lines(mine)
    near = _near(lines.points, lines.offsets, boxes, rules.reach, rules.scale)
    near = np.concatenate([mine, near[(near < first) | (near >= last)]])
    lines = kept.lines(near)
    fine = fitting_lines(lines, len(mine), max(_SQUARE, rules.reach) * rules.scale)
    best = np.zeros(len(mine), np.int64)
    number = np.flatnonzero(fine & (lines.arc < len(mine)))
    np.maximum.at(best, lines.arc[number], number)  # an arc's last line is its most regular one
    coordinates, offsets = _put_together(
        lines.points, lines.offsets, best, kept.ring[mine] - low, kept.closed[mine], kept.backward[mine], high - low,
        rules.scale,
    )  # fmt: skip
    return replace(part, coordinates=coordinates, ring_offsets=offsets)


@compiled
def _put_together(
    points: Array, offsets: Array, best: Array, ring: Array, closed: Array, backward: Array, rings: int, scale: int
) -> tuple[Array, Array]:
    """Rings of lines, one after the other, in pixels: (n, 2) float64 and their offsets."""
    ends = np.zeros(rings + 1, np.int64)
    for a in range(len(best)):
        ends[ring[a] + 1] += offsets[best[a] + 1] - offsets[best[a]] - (0 if closed[a] else 1)
    for r in range(rings):
        ends[r + 1] += ends[r]
    out = np.empty((ends[rings], 2))
    n = 0
    for a in range(len(best)):
        low, high = offsets[best[a]], offsets[best[a] + 1]
        for i in range(high - low - (0 if closed[a] else 1)):
            k = low + i
            if backward[a]:  # of a ring, the first point stays the first
                k = (low if i == 0 else high - i) if closed[a] else high - 1 - i
            out[n, 0], out[n, 1] = points[k, 0] / scale, points[k, 1] / scale
            n += 1
    return out, ends
