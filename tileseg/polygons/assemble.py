"""Whole polygons from the pieces that meet on seams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import Fragment, PolygonBatch
from tileseg.polygons.rings import Array, gather_rings
from tileseg.polygons.seams import BlockLattice, Seams


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


def assemble(
    seams: Seams, plan: JoinedPolygons, low: int, high: int, load: Callable[[int], Fragment | None]
) -> PolygonBatch:
    """Polygons ``low`` to ``high`` of the plan, with the coordinates read from the fragments."""
    ring_low, ring_high = plan.ring_offsets[low], plan.ring_offsets[high]
    ring_entries = plan.ring_entries[ring_low : ring_high + 1]
    entries = plan.entries[ring_entries[0] : ring_entries[-1]]
    block, place = seams.block.filled[entries], seams.place.filled[entries]
    position = np.concatenate([[0], np.cumsum(np.where(block >= 0, place[:, 1], 1))])
    joined = np.empty((position[-1], 2), np.int32)
    on_seam = block < 0
    joined[position[:-1][on_seam]] = place[on_seam]

    members = plan.members[plan.member_offsets[low] : plan.member_offsets[high]]
    member_polygon = np.repeat(np.arange(low, high), np.diff(plan.member_offsets[low : high + 1]))
    with_rings = seams.closed.filled[members] > 0
    members, member_polygon = members[with_rings], member_polygon[with_rings]
    home = seams.home.filled[members]

    coordinates = [joined]
    lengths = [np.diff(position[ring_entries - ring_entries[0]])]
    polygon = [np.repeat(np.arange(low, high), np.diff(plan.ring_offsets[low : high + 1]))]
    for source in np.union1d(block[place[:, 1] * ~on_seam > 0], home[:, 0]):
        fragment = load(int(source))
        if fragment is None:
            raise AssertionError(f"the fragment of block {source} has gone")
        here = np.flatnonzero(block == source)
        _place_arcs(joined, position[here], fragment.arc_coordinates, fragment.arc_offsets, place[here, 0])
        mine = home[:, 0] == source
        if mine.any():
            local = home[mine, 1].astype(np.int64)
            counts = fragment.component_offsets[local + 1] - fragment.component_offsets[local]
            total = int(counts.sum())
            rings = np.repeat(fragment.component_offsets[local] - np.cumsum(counts) + counts, counts)
            rings += np.arange(total)
            closed, offsets = gather_rings(fragment.ring_coordinates, fragment.ring_offsets, rings, 0, 0)
            coordinates.append(closed)
            lengths.append(np.diff(offsets))
            polygon.append(np.repeat(member_polygon[mine], counts))
    _start_topmost(joined, position[ring_entries - ring_entries[0]])

    xy = np.concatenate(coordinates)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    of_polygon = np.concatenate(polygon)
    first = xy[offsets[:-1]]
    order = np.lexsort((first[:, 0], first[:, 1], of_polygon))
    xy, offsets = gather_rings(xy, offsets, order, 0, 0)
    return PolygonBatch(
        coordinates=xy,
        ring_offsets=offsets,
        polygon_offsets=_offsets(of_polygon - low, high - low),
        **{name: column[low:high] for name, column in plan.columns.items()},
    )


@compiled
def _place_arcs(out: Array, position: Array, coordinates: Array, offsets: Array, arcs: Array) -> None:
    for k in range(len(arcs)):
        source = offsets[arcs[k]]
        for i in range(offsets[arcs[k] + 1] - source):
            out[position[k] + i, 0] = coordinates[source + i, 0]
            out[position[k] + i, 1] = coordinates[source + i, 1]


@compiled
def _start_topmost(coordinates: Array, offsets: Array) -> None:
    """Turn each ring so that it starts at its topmost, then leftmost corner."""
    for ring in range(len(offsets) - 1):
        low, high = offsets[ring], offsets[ring + 1]
        best = low
        for i in range(low + 1, high):
            if coordinates[i, 1] < coordinates[best, 1] or (
                coordinates[i, 1] == coordinates[best, 1] and coordinates[i, 0] < coordinates[best, 0]
            ):
                best = i
        if best > low:
            turned = coordinates[low:high].copy()
            for i in range(high - low):
                k = best - low + i
                if k >= high - low:
                    k -= high - low
                coordinates[low + i, 0] = turned[k, 0]
                coordinates[low + i, 1] = turned[k, 1]
