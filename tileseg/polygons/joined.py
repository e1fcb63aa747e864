"""Which pieces on the seams make a polygon: tables of the whole scene, in files where they are large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch, release
from tileseg.polygons.seams import BlockLattice, Seams


@dataclass(frozen=True, slots=True)
class JoinedPolygons:
    """The joined polygons, in the order in which they are given out: by block, then first pixel. P of them."""

    root: Array
    """(P,) int32: the component that holds the attributes of each, in the columns of the seams."""
    block_offsets: Array
    """(blocks + 1,) int64: the polygons of each block, which holds their first pixel."""
    members: Array
    """(m,) int64: components with rings that are closed already; polygon by polygon, of each in ascending order ..."""
    member_offsets: Array
    """... (P + 1,) int64."""
    entries: Array
    """(n,) int64: arcs and corners on seams; polygon by polygon, of each in ascending order ..."""
    entry_offsets: Array
    """... (P + 1,) int64."""

    @staticmethod
    def of(lattice: BlockLattice, seams: Seams, scratch: Scratch) -> JoinedPolygons:
        """Bring together what belongs to a polygon. Its attributes are summed up in the columns of the seams."""
        columns = {name: column.filled for name, column in seams.columns.items()}
        parent, corners, closed = seams.parent.filled, seams.corners.filled, seams.closed.filled
        component = seams.component.filled
        for low, high in scratch.pieces(len(parent)):
            _sum_up(
                parent, low, high, columns["pixels"], columns["confidence_sum"], columns["confidence_min"],
                columns["disagreement_sum"], columns["touches_edge"], columns["touches_nodata"],
                columns["first_pixel"], corners,
            )  # fmt: skip
            seams.release()
        for low, high in scratch.pieces(len(seams.pinches.filled)):
            _swap_pinches(seams.pinches.filled[low:high], seams.following.filled, component, parent)
            seams.release()
        for low, high in scratch.pieces(len(component)):
            _count_corners(component, seams.fragment.filled, seams.place.filled, low, high, parent, corners)
            seams.release()
        root, rank, block_offsets = _ranked(lattice, seams, scratch)

        def of_members(low: int, high: int) -> Array:
            found = np.where(closed[low:high] > 0, rank[parent[low:high]], np.int32(-1))
            release(closed, rank, parent)
            return found

        def of_entries(low: int, high: int) -> Array:
            found: Array = rank[parent[component[low:high]]]
            release(component, rank, parent)
            return found

        members, member_offsets = grouped(of_members, len(parent), len(root), scratch)
        entries, entry_offsets = grouped(of_entries, len(component), len(root), scratch)
        return JoinedPolygons(root, block_offsets, members, member_offsets, entries, entry_offsets)

    def batches(self, block: int, seams: Seams, most: int) -> Iterator[tuple[int, int]]:
        """Ranges of a block's polygons of so many corners and entries at most, or of one polygon."""
        low, high = self.block_offsets[block : block + 2].tolist()
        sizes = seams.corners.filled[self.root[low:high]] + np.diff(self.entry_offsets[low : high + 1])
        for first, last in ring_pieces(np.concatenate([[0], np.cumsum(sizes)]), most):
            yield low + first, low + last


def _ranked(lattice: BlockLattice, seams: Seams, scratch: Scratch) -> tuple[Array, Array, Array]:
    """(roots in order, the rank of each component that is one, offsets of each block's).

    A root is the first component of its polygon, so it lies in the row of blocks that holds the first pixel.
    """
    parent, first_pixel = seams.parent.filled, seams.columns["first_pixel"].filled
    rank, root = scratch.table(np.int32, len(parent)), scratch.growing(np.int32)
    blocks, n_cols = len(seams.first_fragment) - 1, len(lattice.cols) - 1
    first_component = np.append(seams.first_component.filled, len(parent))
    counts = np.zeros(blocks + 1, np.int64)
    for row in range(0, blocks, n_cols):
        low, high = (int(first_component[seams.first_fragment[block]]) for block in (row, row + n_cols))
        roots = low + np.flatnonzero(parent[low:high] == np.arange(low, high))
        first = first_pixel[roots]
        block = np.searchsorted(lattice.cols, first % lattice.width + lattice.cols[0], "right") - 1
        order = np.lexsort((first, block))
        rank[roots[order]] = root.size + np.arange(len(roots))
        root.extend(roots[order])
        counts[row + 1 : row + 1 + n_cols] = np.bincount(block, minlength=n_cols)
        root.release()
        release(rank)
        seams.release()
    return root.filled, rank, np.cumsum(counts)


def grouped(group_of: Callable[[int, int], Array], items: int, groups: int, scratch: Scratch) -> tuple[Array, Array]:
    """Sort by counting: the items (n,) of each group in ascending order, int64, and the groups' offsets.

    ``group_of``: the groups of the items of a range, int32; items of groups below 0 are left out.
    """
    offsets = scratch.table(np.int64, groups + 2)
    for low, high in scratch.pieces(items):
        _count(group_of(low, high), offsets)
        release(offsets)
    amount = 0
    for low, high in scratch.pieces(len(offsets)):
        offsets[low:high] = amount + np.cumsum(offsets[low:high])
        amount = int(offsets[high - 1])
        release(offsets)
    order = scratch.table(np.int64, amount)
    for low, high in scratch.pieces(items):
        _put(group_of(low, high), low, offsets, order)
        release(offsets, order)
    return order, offsets[:-1]


@compiled
def _count(groups: Array, offsets: Array) -> None:
    for group in groups:
        if group >= 0:
            offsets[group + 2] += 1


@compiled
def _put(groups: Array, first: int, offsets: Array, order: Array) -> None:
    """``offsets[group + 1]``: where the group's next item goes; in the end, where the next group begins."""
    for i in range(len(groups)):
        group = groups[i]
        if group >= 0:
            order[offsets[group + 1]] = first + i
            offsets[group + 1] += 1


@compiled
def _sum_up(
    parent: Array, low: int, high: int, pixels: Array, confidence_sum: Array, confidence_min: Array,
    disagreement_sum: Array, touches_edge: Array, touches_nodata: Array, first_pixel: Array, corners: Array,
) -> None:  # fmt: skip
    """Add components to the representative of their set, and make that their parent."""
    for i in range(low, high):  # a representative is the smallest of its set, so it comes first
        root = parent[parent[i]]
        if root != i:
            parent[i] = root
            pixels[root] += pixels[i]
            confidence_sum[root] += confidence_sum[i]
            confidence_min[root] = min(confidence_min[root], confidence_min[i])
            disagreement_sum[root] += disagreement_sum[i]
            touches_edge[root] |= touches_edge[i]
            touches_nodata[root] |= touches_nodata[i]
            first_pixel[root] = min(first_pixel[root], first_pixel[i])
            corners[root] += corners[i]


@compiled
def _swap_pinches(pinches: Array, following: Array, component: Array, parent: Array) -> None:
    for k in range(len(pinches)):
        one, other = pinches[k, 0], pinches[k, 1]
        if parent[component[one]] == parent[component[other]]:
            following[one], following[other] = following[other], following[one]


@compiled
def _count_corners(
    component: Array, fragment: Array, place: Array, low: int, high: int, parent: Array, corners: Array
) -> None:
    for i in range(low, high):
        corners[parent[component[i]]] += 1 if fragment[i] == -1 else place[i, 1]
