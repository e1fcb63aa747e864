"""Polygons with straight walls and right angles, which still share their borders and stay within a distance.

Passes over all polygons, which wait in files meanwhile, a few hundred thousand corners at a time:

1. whole polygons are put aside, in order, with the box around each ring;
2. rings are cut into arcs where more than two sides meet (with all rings near them, so that this does not depend on
   what is worked on together), and each arc gets the lines that might stand for it;
3. lines that come too near to others are drawn closer to their arcs there, twice at most;
4. each arc gets the best of its lines that keeps clear of all lines near it; rings are put together of them.

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
from tileseg.polygons.conflicts import Lines, fitting_lines, meeting_places
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.nearby import SQUARE, boxes_of, gather, near_boxes
from tileseg.polygons.outline import regular_line
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import FilePile, Scratch, release
from tileseg.polygons.thin import fitting_tolerance, plain_line

_FINE_BITS = 8
"""Lines lie on a lattice of 1/256 of a pixel; a coarser one where a scene has more than four million pixels a side."""

_CLOSER = (0.3, 0.0)
"""Shares of the tolerance that lines may be off where they met others, at the first and second attempt; a pixel's half
at least."""


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

    @property
    def cell(self) -> int:
        """Side of the squares in which lines are looked up, in parts of a pixel."""
        return max(SQUARE, self.reach) * self.scale


def regularize(batches: Iterable[PolygonBatch], rules: Rules, scratch: Scratch) -> Iterator[PolygonBatch]:
    """The polygons of all batches, in order, with outlines made regular: coordinates are float64 then.

    In memory are some 100 bytes for each polygon, 40 for each ring and 50 for each arc, and the corners of a part of
    the polygons and of those near it (or of the largest polygon and those near it).
    """
    whole = _put_aside(batches, scratch)
    if not len(whole):
        return
    boxes = boxes_of(whole.coordinates, whole.ring_offsets)
    release(whole.coordinates)
    parts = list(_parts(whole, scratch.in_memory))
    candidates = _Candidates(scratch)
    for low, high in parts:
        candidates.add(_arcs(whole, boxes, low, high, rules), low, rules)
        release(whole.coordinates)
    kept = candidates.whole()
    for share in _CLOSER:
        kept = _closer(kept, parts, rules, share, scratch)
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
    near = near_boxes(whole.coordinates[first:last], whole.ring_offsets[low : high + 1] - first, boxes, 1, 1)
    near = np.concatenate([np.arange(low, high), near[(near < low) | (near >= high)]])
    coordinates, offsets = gather(whole.coordinates, whole.ring_offsets, near)
    polygon = np.searchsorted(whole.polygon_offsets, near, "right") - 1
    return arcs_of(coordinates, offsets, high - low, rules.wanted(whole.label[polygon]), rules.shape)


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

    def add_again(self, kept: _Kept, lines: Lines, first: int, last: int) -> None:
        """Arcs ``first`` to ``last`` of those that were kept, with these lines."""
        self._pile.add(lines.points)
        self._lengths.append(np.diff(lines.offsets))
        self._arc.append(lines.arc + self._count)
        nothing = np.empty((0, 2), np.int32)
        self._arcs.append(
            Arcs(
                nothing, nothing[:, 0], kept.ring[first:last], kept.closed[first:last], kept.backward[first:last],
                kept.key[first:last], np.empty(0, np.bool_),
            )
        )  # fmt: skip
        self._count += last - first

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
        found = boxes_of(self.points, self.offsets)
        release(self.points)
        least, most = np.minimum.reduceat(found[:, :2], first), np.maximum.reduceat(found[:, 2:], first)
        return np.concatenate([least, most], axis=1)

    def lines(self, arcs: Array) -> Lines:
        """Some arcs with their lines."""
        low, high = np.searchsorted(self.arc, arcs), np.searchsorted(self.arc, arcs, "right")
        counts = high - low
        chosen = np.arange(counts.sum()) + np.repeat(low - np.cumsum(counts) + counts, counts)
        points, offsets = gather(self.points, self.offsets, chosen)
        release(self.points)
        arc = np.repeat(np.arange(len(arcs)), counts)
        return Lines(points, offsets, arc, self.key[arcs], self.closed[arcs])


@compiled
def _lines_of(
    points: Array, offsets: Array, closed: Array, wanted: Array,
    width: float, height: float, tolerance: float, scale: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Of each arc itself, a line with fewer corners and a regular one, as far as there are such.

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
                line = regular_line(steps, closed[a], most, pixel, steps[:0], most)
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


def _closer(kept: _Kept, parts: list[tuple[int, int]], rules: Rules, share: float, scratch: Scratch) -> _Kept:
    """The same arcs; regular lines that meet others, or themselves, are drawn closer to their arcs there."""
    boxes = kept.boxes()
    candidates = _Candidates(scratch)
    for low, high in parts:
        first, last = np.searchsorted(kept.ring, [low, high])
        mine, lines = _with_near(kept, boxes, first, last, rules)
        fine = fitting_lines(lines, len(mine), rules.cell)
        own = lines.of_arcs(len(mine))
        top = np.flatnonzero((np.diff(own.arc, append=-1) != 0) & (np.diff(own.arc, prepend=-1) == 0))
        refused = top[~fine[top]]
        if len(refused):
            owner, places = meeting_places(lines, refused, rules.cell)
            new = {line: _redrawn(own, line, places[owner == line], rules, share) for line in refused.tolist()}
            own = own.with_others({line: points for line, points in new.items() if own.may_be(line, len(points))})
        candidates.add_again(kept, own, first, last)
    return candidates.whole()


def _redrawn(lines: Lines, line: int, places: Array, rules: Rules, share: float) -> Array:
    """A regular line of an arc that keeps closer to it near some places; none where there is no such line."""
    arc = lines.arc[line]
    closed = bool(lines.closed[arc])
    raw = lines.line(int(np.searchsorted(lines.arc, arc))) // rules.scale
    sides = np.array(rules.sides)
    pixel = float(sides.max())
    steps = _steps(raw, closed, *rules.sides)
    most = fitting_tolerance(steps, closed, rules.tolerance, pixel)
    there = (places / rules.scale - raw[0]) * sides if len(places) else steps
    found = regular_line(steps, closed, most, pixel, there, max(share * most, 0.5 * pixel))
    redrawn: Array = np.rint((found / sides + raw[0]) * rules.scale).astype(np.int32)
    return redrawn


def _with_near(kept: _Kept, boxes: Array, first: int, last: int, rules: Rules) -> tuple[Array, Lines]:
    """Arcs ``first`` to ``last``, and the lines of these and then of all arcs near them."""
    mine = np.arange(first, last)
    lines = kept.lines(mine)
    near = near_boxes(lines.points, lines.offsets, boxes, rules.reach, rules.scale)
    return mine, kept.lines(np.concatenate([mine, near[(near < first) | (near >= last)]]))


def _finished(part: PolygonBatch, kept: _Kept, boxes: Array, low: int, high: int, rules: Rules) -> PolygonBatch:
    """The polygons of rings ``low`` to ``high``, put together of the best lines of their arcs."""
    first, last = np.searchsorted(kept.ring, [low, high])
    mine, lines = _with_near(kept, boxes, first, last, rules)
    fine = fitting_lines(lines, len(mine), rules.cell)
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
