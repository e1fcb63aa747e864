"""Whole polygons from the pieces that meet on seams."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import Fragment, PolygonBatch
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch, release
from tileseg.polygons.seams import BlockLattice, Load, Seams


@dataclass(frozen=True, slots=True)
class JoinedPolygons:
    """The joined polygons, in the order in which they are given out: by block, then first pixel. P of them."""

    block: Array
    """(P,) int64: the block that holds the first pixel."""
    columns: dict[str, Array]
    """Their attributes, each (P,)."""
    members: Array
    """(C,) int64: components, polygon by polygon ..."""
    member_offsets: Array
    """... (P + 1,)."""
    entries: Array
    """(n,) int32: arcs and seam corners in the order of the rings."""
    ring_entries: Array
    """(R + 1,) int64: each ring's ``entries``."""
    ring_offsets: Array
    """(P + 1,) int64: each polygon's rings."""

    @staticmethod
    def of(lattice: BlockLattice, seams: Seams) -> JoinedPolygons:
        """Link the pieces on the seams into rings, and the rings into polygons."""
        parent = seams.parent.filled
        _flatten(parent)
        _swap_pinches(seams.pinches.filled, seams.following.filled, seams.component.filled, parent)
        roots = np.flatnonzero(parent == np.arange(len(parent)))
        number = np.empty(len(parent), np.int64)
        number[roots] = np.arange(len(roots))
        of_component = number[parent]
        parts = {name: column.filled for name, column in seams.columns.items()}
        whole = {
            "label": parts["label"][roots],
            "pixels": np.zeros(len(roots), np.int64),
            "confidence_sum": np.zeros(len(roots), np.int64),
            "confidence_min": np.full(len(roots), 65535, np.int32),
            "touches_edge": np.zeros(len(roots), np.bool_),
            "touches_nodata": np.zeros(len(roots), np.bool_),
            "first_pixel": np.full(len(roots), np.iinfo(np.int64).max),
        }
        for name in ("pixels", "confidence_sum"):
            np.add.at(whole[name], of_component, parts[name])
        for name in ("confidence_min", "first_pixel"):
            np.minimum.at(whole[name], of_component, parts[name])
        for name in ("touches_edge", "touches_nodata"):
            whole[name][of_component[parts[name]]] = True
        row, col = np.divmod(whole["first_pixel"], lattice.width)
        block = (np.searchsorted(lattice.rows, row + lattice.rows[0], "right") - 1) * (len(lattice.cols) - 1)
        block += np.searchsorted(lattice.cols, col + lattice.cols[0], "right") - 1
        order = np.lexsort((whole["first_pixel"], block))
        rank = np.empty(len(roots), np.int64)
        rank[order] = np.arange(len(roots))
        of_component = rank[of_component]

        entries, ring_entries, ring_polygon = _rings(seams.following.filled, seams.component.filled, of_component)
        ring_order = np.argsort(ring_polygon, kind="stable")
        return JoinedPolygons(
            block=block[order],
            columns={name: column[order] for name, column in whole.items()},
            members=np.argsort(of_component, kind="stable"),
            member_offsets=_offsets(of_component, len(roots)),
            entries=_pick(entries, ring_entries, ring_order),
            ring_entries=np.concatenate([[0], np.cumsum(np.diff(ring_entries)[ring_order])]),
            ring_offsets=_offsets(ring_polygon, len(roots)),
        )


def _offsets(group: Array, amount: int) -> Array:
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=amount))])


@compiled
def _flatten(parent: Array) -> None:
    for i in range(len(parent)):  # a representative is the smallest of its set, so it comes first
        parent[i] = parent[parent[i]]


@compiled
def _swap_pinches(pinches: Array, following: Array, component: Array, parent: Array) -> None:
    for k in range(len(pinches)):
        one, other = pinches[k, 0], pinches[k, 1]
        if parent[component[one]] == parent[component[other]]:
            following[one], following[other] = following[other], following[one]


@compiled
def _rings(following: Array, component: Array, of_component: Array) -> tuple[Array, Array, Array]:
    """Cycles of entries: (entries in order, offsets of the rings, polygon of each ring)."""
    entries = np.empty(len(following), np.int32)
    offsets = np.empty(len(following) + 1, np.int64)
    polygon = np.empty(len(following), np.int64)
    seen = np.zeros(len(following), np.bool_)
    offsets[0] = 0
    n = rings = 0
    for first in range(len(following)):
        if seen[first]:
            continue
        entry = first
        while not seen[entry]:
            seen[entry] = True
            entries[n] = entry
            n += 1
            entry = following[entry]
            if entry < 0:
                raise AssertionError("a ring does not close: the fragments do not belong together")
        polygon[rings] = of_component[component[first]]
        rings += 1
        offsets[rings] = n
    return entries, offsets[: rings + 1].copy(), polygon[:rings].copy()


@compiled
def _pick(values: Array, offsets: Array, order: Array) -> Array:
    """Groups ``order`` of a flat array with offsets, one after the other."""
    total = 0
    for k in order:
        total += offsets[k + 1] - offsets[k]
    out = np.empty(total, values.dtype)
    n = 0
    for k in order:
        for i in range(offsets[k], offsets[k + 1]):
            out[n] = values[i]
            n += 1
    return out


def assemble(seams: Seams, joined: JoinedPolygons, low: int, high: int, load: Load, scratch: Scratch) -> PolygonBatch:
    """Joined polygons ``low`` to ``high``, with the coordinates read from the fragments."""
    ring_low, ring_high = joined.ring_offsets[low], joined.ring_offsets[high]
    ring_entries = joined.ring_entries[ring_low : ring_high + 1]
    linked = _LinkedRings.of(seams, joined.entries[ring_entries[0] : ring_entries[-1]], ring_entries)
    polygon_of_linked = np.repeat(np.arange(high - low), np.diff(joined.ring_offsets[low : high + 1]))

    members = joined.members[joined.member_offsets[low] : joined.member_offsets[high]]
    of_polygon = np.repeat(np.arange(high - low), np.diff(joined.member_offsets[low : high + 1]))
    with_rings = seams.closed.filled[members] > 0
    members, of_polygon = members[with_rings], of_polygon[with_rings]
    home = seams.home.filled[members]

    corners = linked.corners + int(seams.closed_corners.filled[members].sum())
    rings = len(linked.offsets) - 1 + int(seams.closed.filled[members].sum())
    coordinates = scratch.corners(corners)
    offsets, polygon = np.empty(rings + 1, np.int64), np.empty(rings, np.int32)
    offsets[: len(linked.offsets)] = linked.offsets
    polygon[: len(polygon_of_linked)] = polygon_of_linked
    linked.place_seam_corners(coordinates, scratch.in_memory)
    ring, entries_by_fragment, members_by_fragment = len(polygon_of_linked), linked.by_fragment, _by(home[:, 0])
    for number in sorted({*entries_by_fragment, *members_by_fragment}):
        fragment = _fragment(seams, load, number)
        if number in entries_by_fragment:
            linked.place_arcs(coordinates, entries_by_fragment[number], fragment)
        if number in members_by_fragment:
            mine = members_by_fragment[number]
            chosen, counts = _closed_rings(fragment, home[mine, 1])
            stop = ring + len(chosen)
            polygon[ring:stop] = np.repeat(of_polygon[mine], counts)
            lengths = np.diff(fragment.ring_offsets)[chosen]
            offsets[ring + 1 : stop + 1] = offsets[ring] + np.cumsum(lengths)
            _copy_rings(
                fragment.ring_coordinates, fragment.ring_offsets[chosen], np.zeros(len(chosen), np.int64),
                coordinates, offsets[ring : stop + 1],
            )  # fmt: skip
            ring = stop
        release(coordinates)
        release(fragment.strip_offsets)
    coordinates, offsets, order = _sorted_rings(coordinates, offsets, polygon, scratch)
    return PolygonBatch(
        coordinates=coordinates,
        ring_offsets=offsets,
        polygon_offsets=_offsets(polygon[order], high - low),
        **{name: column[low:high] for name, column in joined.columns.items()},
    )


def _fragment(seams: Seams, load: Load, number: int) -> Fragment:
    block = bisect.bisect_right(seams.first_fragment, number) - 1
    fragments = load(block)
    if fragments is None:
        raise AssertionError(f"the fragments of block {block} have gone")
    return fragments[number - seams.first_fragment[block]]


def _by(key: Array) -> dict[int, Array]:
    """Positions of each value."""
    order = np.argsort(key, kind="stable")
    values, starts = np.unique(key[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=False))


def _closed_rings(fragment: Fragment, components: Array) -> tuple[Array, Array]:
    """The rings of a fragment's components, one component after the other, and how many each has."""
    first = fragment.component_offsets[components]
    counts = fragment.component_offsets[components + 1] - first
    rings = np.repeat(first - np.cumsum(counts) + counts, counts)
    return rings + np.arange(len(rings)), counts


@dataclass(frozen=True, slots=True)
class _LinkedRings:
    """Rings made of arcs and corners on seams."""

    fragment: Array
    """(n,) int32: of each entry, as in Seams."""
    place: Array
    """(n, 2) int32, as in Seams."""
    position: Array
    """(n + 1,) int64: the corner at which each entry begins."""
    offsets: Array
    """(rings + 1,) int64: the corner at which each ring begins."""

    @staticmethod
    def of(seams: Seams, entries: Array, ring_entries: Array) -> _LinkedRings:
        fragment, place = seams.fragment.filled[entries], seams.place.filled[entries]
        position = np.concatenate([[0], np.cumsum(np.where(fragment == -1, 1, place[:, 1]))])
        return _LinkedRings(fragment, place, position, position[ring_entries - ring_entries[0]])

    @property
    def corners(self) -> int:
        return int(self.position[-1])

    @property
    def by_fragment(self) -> dict[int, Array]:
        """The arcs of each fragment that have corners."""
        arcs = np.flatnonzero((self.fragment >= 0) & (self.place[:, 1] > 0))
        return {number: arcs[mine] for number, mine in _by(self.fragment[arcs]).items()}

    def place_seam_corners(self, coordinates: Array, most: int) -> None:
        on_seam = np.flatnonzero(self.fragment == -1)
        position = self.position[on_seam]
        for low in range(0, self.corners, most):
            here = slice(*np.searchsorted(position, (low, low + most)))
            coordinates[position[here]] = self.place[on_seam[here]]
            release(coordinates)

    def place_arcs(self, coordinates: Array, arcs: Array, fragment: Fragment) -> None:
        _place_arcs(
            coordinates, self.position[arcs], fragment.arc_coordinates, fragment.arc_offsets, self.place[arcs, 0]
        )


def _sorted_rings(coordinates: Array, offsets: Array, polygon: Array, scratch: Scratch) -> tuple[Array, Array, Array]:
    """Rings by polygon, then first corner, each from its topmost, then leftmost corner on; and their order before."""
    most = scratch.in_memory
    start, first = np.zeros(len(polygon), np.int64), np.empty((len(polygon), 2), np.int32)
    for low, high in ring_pieces(offsets, most):
        if high == low + 1:
            start[low] = _topmost_of_one(coordinates, int(offsets[low]), int(offsets[high]), most)
        else:
            _find_topmost(coordinates, offsets[low : high + 1], start[low:high])
        first[low:high] = coordinates[offsets[low:high] + start[low:high]]
        release(coordinates)
    order = np.lexsort((first[:, 0], first[:, 1], polygon))
    del first
    sorted_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(np.diff(offsets)[order], out=sorted_offsets[1:])
    out = scratch.corners(len(coordinates))
    for low, high in ring_pieces(sorted_offsets, most):
        rings, to = order[low:high], sorted_offsets[low : high + 1]
        if high == low + 1:
            ring = int(rings[0])
            _copy_one(coordinates, range(offsets[ring], offsets[ring + 1]), int(start[ring]), out[to[0] : to[1]], most)
        else:
            _copy_rings(coordinates, offsets[rings], start[rings], out, to)
        release(coordinates)
        release(out)
    return out, sorted_offsets, order


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
            release(coordinates)
            release(out)


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
def _copy_rings(coordinates: Array, first: Array, start: Array, out: Array, offsets: Array) -> None:
    """Copy rings that begin at corners ``first`` to ``offsets``, each from its corner ``start`` on, round to it."""
    for ring in range(len(first)):
        low, length = offsets[ring], offsets[ring + 1] - offsets[ring]
        k = first[ring] + start[ring]
        for i in range(length):
            if i == length - start[ring]:
                k = first[ring]
            out[low + i, 0] = coordinates[k, 0]
            out[low + i, 1] = coordinates[k, 1]
            k += 1
