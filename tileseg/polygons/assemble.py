"""Whole polygons from the pieces that meet on seams.

A batch is small, or one polygon of any size: then its corners and the tables of its rings are mapped from files and
worked on in pieces.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import Fragment, PolygonBatch
from tileseg.polygons.joined import JoinedPolygons, grouped
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.memory import JOIN_SCATTERED
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch, release
from tileseg.polygons.seams import Load, Seams


@dataclass(frozen=True, slots=True)
class Assembler:
    """Puts joined polygons together, with the coordinates read from the fragments."""

    seams: Seams
    joined: JoinedPolygons
    load: Load
    scratch: Scratch
    first_component: Array
    """(fragments + 1,) int64."""
    first_entry: Array
    position: Array
    """(entries,) int64: the corner at which each of the batch at hand begins."""

    @staticmethod
    def of(seams: Seams, joined: JoinedPolygons, load: Load, scratch: Scratch) -> Assembler:
        """For the polygons of a scene, each to be put together once."""
        return Assembler(
            seams, joined, load, scratch,
            first_component=np.append(seams.first_component.filled, seams.parent.size),
            first_entry=np.append(seams.first_entry.filled, seams.following.size),
            position=scratch.table(np.int64, seams.following.size),
        )  # fmt: skip

    def batch(self, low: int, high: int) -> PolygonBatch:
        """Polygons ``low`` to ``high``."""
        member_offsets = self.joined.member_offsets[low : high + 1]
        members = self.joined.members[member_offsets[0] : member_offsets[-1]]
        linked = self._linked(low, high)
        closed = self.seams.closed.filled
        count = sum(int(closed[members[a:b]].sum()) for a, b in self.scratch.pieces(len(members)))
        rings = _Rings.empty(linked.rings + count, self.scratch)
        linked.enter(rings)
        stop, small = linked.rings, len(rings.place) <= self.scratch.piece
        closed_rings = self._closed(members, member_offsets - member_offsets[0])
        found = list(closed_rings) if small else closed_rings  # of a large polygon, they are read twice
        for fragment, chosen, polygon in found:
            here = slice(stop, stop := stop + len(chosen))
            rings.first[here] = fragment.ring_coordinates[fragment.ring_offsets[chosen]]
            rings.place[here] = np.diff(fragment.ring_offsets)[chosen]
            rings.polygon[here] = polygon
            rings.release()
        offsets = rings.sort()
        out = self.scratch.corners(int(offsets[-1]))
        linked.copy(out, rings)
        stop = linked.rings
        found = found if small else self._closed(members, member_offsets - member_offsets[0])
        for fragment, chosen, _ in found:
            place = rings.place[stop : (stop := stop + len(chosen))]
            for part in _neighbours(place, self.scratch.in_memory):
                mine = chosen[part]
                first, last = fragment.ring_offsets[mine], fragment.ring_offsets[mine + 1]
                _copy_rings(fragment.ring_coordinates, first, last, first, out, place[part])
                release(out)
            rings.release()
        return PolygonBatch(
            coordinates=out,
            ring_offsets=offsets,
            polygon_offsets=rings.polygon_offsets(high - low),
            **{name: column.filled[self.joined.root[low:high]] for name, column in self.seams.columns.items()},
        )

    def _linked(self, low: int, high: int) -> _LinkedRings:
        """Follow arcs and corners on seams, and put their corners in order."""
        seams = self.seams
        ends = self.joined.entry_offsets[low : high + 1]
        entries, ends = self.joined.entries[ends[0] : ends[-1]], ends - ends[0]
        offsets = self.scratch.table(np.int64, len(entries) + 1)
        polygon = self.scratch.table(np.int32, len(entries))
        state = np.array([0, -1, 0, 0, 0])
        for _ in self.scratch.pieces(len(entries)):
            _walk(
                entries, ends, seams.following.filled, seams.fragment.filled, seams.place.filled,
                self.position, offsets, polygon, state, self.scratch.piece,
            )  # fmt: skip
            seams.release()
            release(entries, self.position, offsets, polygon)
        corners, rings = int(state[2]), int(state[3])
        coordinates = self.scratch.corners(corners)
        in_order = entries if high == low + 1 else np.sort(entries)
        for a, b in self.scratch.pieces(len(in_order), JOIN_SCATTERED):
            mine = in_order[a:b]
            mine = mine[seams.fragment.filled[mine] == -1]
            coordinates[self.position[mine]] = seams.place.filled[mine]
            release(coordinates, entries, self.position)
        for number, within in _by_fragment(in_order, self.first_entry):
            mine = in_order[within]
            mine = mine[(seams.fragment.filled[mine] == number) & (seams.place.filled[mine, 1] > 0)]
            if len(mine):
                fragment = self._fragment(number)
                for a, b in self.scratch.pieces(len(mine), JOIN_SCATTERED):
                    arcs = seams.place.filled[mine[a:b], 0]
                    _place_arcs(
                        coordinates, self.position[mine[a:b]], fragment.arc_coordinates, fragment.arc_offsets, arcs
                    )
                    release(coordinates, entries, self.position)
                if len(entries) > self.scratch.piece:
                    release(fragment.strip_offsets)
        seams.release()
        offsets, polygon = offsets[: rings + 1], polygon[:rings]
        return _LinkedRings(coordinates, offsets, polygon, _topmost(coordinates, offsets, self.scratch), self.scratch)

    def _closed(self, members: Array, offsets: Array) -> Iterator[tuple[Fragment, Array, Array]]:
        """The closed rings of components, fragment by fragment: which of its rings, and which polygon has them.

        ``offsets``: of each polygon's components.
        """
        order = np.argsort(members, kind="stable")
        for number, within in _by_fragment(members[order], self.first_component):
            fragment, mine = self._fragment(number), order[within]
            component = members[mine] - self.first_component[number]
            first = fragment.component_offsets[component]
            counts = fragment.component_offsets[component + 1] - first
            rings = np.repeat(first - np.cumsum(counts) + counts, counts)
            polygon = np.searchsorted(offsets, mine, "right") - 1
            yield fragment, rings + np.arange(len(rings)), np.repeat(polygon, counts)
            release(fragment.strip_offsets)

    def _fragment(self, number: int) -> Fragment:
        block = bisect.bisect_right(self.seams.first_fragment, number) - 1
        fragments = self.load(block)
        if fragments is None:
            raise AssertionError(f"the fragments of block {block} have gone")
        return fragments[number - self.seams.first_fragment[block]]


def _by_fragment(numbers: Array, first: Array) -> Iterator[tuple[int, slice]]:
    """Fragments, and which of ascending numbers lie in each; ``first``: the first number of each fragment."""
    if len(numbers):
        low, high = np.searchsorted(first, [numbers[0], numbers[-1]], "right").tolist()
        bounds = np.searchsorted(numbers, first[low - 1 : high + 1])
        for k in np.flatnonzero(np.diff(bounds)).tolist():
            yield low - 1 + k, slice(bounds[k], bounds[k + 1])


def _neighbours(place: Array, most: int) -> Iterator[Array]:
    """Positions by what they hold, in parts that span so many corners at most."""
    order = np.argsort(place, kind="stable")
    places = np.append(place[order], place[order[-1:]])
    for low, high in ring_pieces(places, most):
        yield order[low:high]


@dataclass(frozen=True, slots=True)
class _Rings:
    """Tables of the rings of a batch: of those on seams, then the others as the fragments have them. R of them."""

    first: Array
    """(R, 2) int32: their topmost, then leftmost corner, of which a polygon has no other."""
    polygon: Array
    """(R,) int32: counted from the batch's first."""
    place: Array
    """(R,) int64: how many corners they have; once sorted, where in the batch they begin."""
    scratch: Scratch

    @staticmethod
    def empty(amount: int, scratch: Scratch) -> _Rings:
        """Nothing entered yet."""
        return _Rings(
            scratch.table(np.int32, amount, 2),
            scratch.table(np.int32, amount),
            scratch.table(np.int64, amount),
            scratch,
        )

    def release(self) -> None:
        """Give back the memory behind them."""
        release(self.first, self.polygon, self.place)

    def sort(self) -> Array:
        """Find the places of rings by polygon, then first corner; and the offsets (R + 1,) of the rings in order."""
        offsets = self.scratch.table(np.int64, len(self.place) + 1)
        done = 0
        for rings in self._in_order():
            ends = offsets[done] + np.cumsum(self.place[rings])
            self.place[rings] = ends - self.place[rings]
            offsets[done + 1 : done + 1 + len(rings)] = ends
            done += len(rings)
            self.release()
            release(offsets)
        return offsets

    def _in_order(self) -> Iterator[Array]:
        """Rings in order, in pieces."""
        amount, first = len(self.place), self.first
        if amount <= self.scratch.piece:
            yield np.lexsort((first[:, 0], first[:, 1], self.polygon))
            return
        # The rings of one polygon: by row, then row by row.
        rows = []
        for low, high in self.scratch.pieces(amount):
            rows += [first[low:high, 1].min(), first[low:high, 1].max()]
            self.release()
        top, bottom = int(min(rows)), int(max(rows))

        def row(low: int, high: int) -> Array:
            found = first[low:high, 1] - np.int32(top)
            self.release()
            return found

        rings, offsets = grouped(row, amount, bottom - top + 1, self.scratch)
        for low, high in ring_pieces(offsets, self.scratch.piece):
            mine = rings[offsets[low] : offsets[high]]
            yield mine[np.lexsort((first[mine, 0], first[mine, 1]))]
            release(rings)

    def polygon_offsets(self, polygons: int) -> Array:
        """(polygons + 1,) int64."""
        if polygons == 1:
            return np.array([0, len(self.polygon)])
        return np.concatenate([[0], np.cumsum(np.bincount(self.polygon, minlength=polygons))])


@dataclass(frozen=True, slots=True)
class _LinkedRings:
    """Rings made of arcs and corners on seams. R of them."""

    coordinates: Array
    offsets: Array
    """(R + 1,) int64, into them."""
    polygon: Array
    """(R,) int32."""
    start: Array
    """(R,) int64: the topmost, then leftmost corner, counted from the ring's first."""
    scratch: Scratch

    @property
    def rings(self) -> int:
        return len(self.polygon)

    def enter(self, rings: _Rings) -> None:
        """They come first."""
        for low, high in self.scratch.pieces(self.rings):
            rings.first[low:high] = self.coordinates[self.offsets[low:high] + self.start[low:high]]
            rings.place[low:high] = np.diff(self.offsets[low : high + 1])
            rings.polygon[low:high] = self.polygon[low:high]
            release(self.coordinates, self.offsets, self.polygon, self.start)
            rings.release()

    def copy(self, out: Array, rings: _Rings) -> None:
        """Put them in their places, each from its first corner on."""
        most = self.scratch.in_memory
        for low, high in ring_pieces(self.offsets, most):
            if high == low + 1:
                ring, place = range(self.offsets[low], self.offsets[high]), int(rings.place[low])
                _copy_one(self.coordinates, ring, int(self.start[low]), out[place : place + len(ring)], most)
                continue
            for a in range(low, high, JOIN_SCATTERED):
                here = slice(a, min(high, a + JOIN_SCATTERED))
                first, last = self.offsets[here], self.offsets[a + 1 : here.stop + 1]
                _copy_rings(self.coordinates, first, last, first + self.start[here], out, rings.place[here])
                release(self.coordinates, self.offsets, self.start, out)
                rings.release()


def _topmost(coordinates: Array, offsets: Array, scratch: Scratch) -> Array:
    """(R,) int64: the topmost, then leftmost corner of each ring, counted from its first."""
    start = scratch.table(np.int64, len(offsets) - 1)
    for low, high in ring_pieces(offsets, scratch.in_memory):
        if high == low + 1:
            start[low] = _topmost_of_one(coordinates, int(offsets[low]), int(offsets[high]), scratch.in_memory)
        else:
            _find_topmost(coordinates, offsets[low : high + 1], start[low:high])
        release(coordinates, offsets, start)
    return start


def _topmost_of_one(coordinates: Array, low: int, high: int, most: int) -> int:
    """As ``_find_topmost`` for a ring of any length, so many corners at a time."""
    best, start = (np.inf, np.inf), np.zeros(1, np.int64)
    found = 0
    for piece in range(low, high, most):
        _find_topmost(coordinates, np.array([piece, min(high, piece + most)]), start)
        x, y = coordinates[piece + start[0]].tolist()
        if (y, x) < best:
            best, found = (y, x), piece + int(start[0]) - low
        release(coordinates)
    return found


def _copy_one(coordinates: Array, ring: range, start: int, out: Array, most: int) -> None:
    """As ``_copy_rings`` for a ring of any length, so many corners at a time."""
    done = 0
    for source in (ring[start:], ring[:start]):
        for low in range(source.start, source.stop, most):
            high = min(source.stop, low + most)
            out[done : done + high - low] = coordinates[low:high]
            done += high - low
            release(coordinates, out)


@compiled
def _walk(
    entries: Array, ends: Array, following: Array, fragment: Array, place: Array,
    position: Array, offsets: Array, polygon: Array, state: Array, steps: int,
) -> None:  # fmt: skip
    """Go so many steps along the rings of polygons: where each entry begins, where each ring, and whose it is.

    ``entries`` are those of the polygons, ``ends`` (polygons + 1,) their offsets. What has been passed is followed by
    -2. ``state`` is where to go on: (next of the entries, entry within a ring or -1, corners, rings, polygon).
    """
    k, entry, corners, rings, owner = state[0], state[1], state[2], state[3], state[4]
    while steps > 0 and k < len(entries):
        if entry < 0:
            if following[entries[k]] == -2:
                k += 1
                continue
            entry = entries[k]
            while ends[owner + 1] <= k:
                owner += 1
        steps -= 1
        position[entry] = corners
        corners += 1 if fragment[entry] == -1 else place[entry, 1]
        after = following[entry]
        following[entry] = -2
        if after < 0:
            raise AssertionError("a ring does not close: the fragments do not belong together")
        if following[after] == -2:
            polygon[rings] = owner
            rings += 1
            offsets[rings] = corners
            after = -1
        entry = after
    state[0], state[1], state[2], state[3], state[4] = k, entry, corners, rings, owner


@compiled
def _place_arcs(out: Array, position: Array, coordinates: Array, offsets: Array, arcs: Array) -> None:
    for k in range(len(arcs)):
        source = offsets[arcs[k]]
        for i in range(offsets[arcs[k] + 1] - source):
            out[position[k] + i, 0] = coordinates[source + i, 0]
            out[position[k] + i, 1] = coordinates[source + i, 1]


@compiled
def _find_topmost(coordinates: Array, offsets: Array, start: Array) -> None:
    """The topmost, then leftmost corner of each ring, counted from its first."""
    for ring in range(len(offsets) - 1):
        low = offsets[ring]
        best = low
        for i in range(low + 1, offsets[ring + 1]):
            if coordinates[i, 1] < coordinates[best, 1] or (
                coordinates[i, 1] == coordinates[best, 1] and coordinates[i, 0] < coordinates[best, 0]
            ):
                best = i
        start[ring] = best - low


@compiled
def _copy_rings(coordinates: Array, first: Array, last: Array, start: Array, out: Array, place: Array) -> None:
    """Copy rings (corners ``first`` to ``last``) to their places, each from its corner ``start`` on, round to it."""
    for ring in range(len(first)):
        k = start[ring]
        for i in range(place[ring], place[ring] + last[ring] - first[ring]):
            if k == last[ring]:
                k = first[ring]
            out[i, 0] = coordinates[k, 0]
            out[i, 1] = coordinates[k, 1]
            k += 1
