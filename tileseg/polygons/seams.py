"""The seams of a scene: what the blocks show to each other, and the pieces that meet there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import BOTTOM, LEFT, PINCH, RIGHT, SIDE_BITS, TOP, Components, Fragment
from tileseg.polygons.rings import IGNORED, NODATA, OUTSIDE, Array, root, turn, unite, wide
from tileseg.polygons.scratch import GrowingArray, Scratch, release
from tileseg.window import Window


@dataclass(frozen=True, slots=True)
class BlockLattice:
    """Where the blocks lie."""

    rows: Array
    """Row offset of each row of blocks, and the row after the last."""
    cols: Array

    @staticmethod
    def of(blocks: Sequence[Window]) -> BlockLattice:
        """The lattice of blocks in row-major order. Raises ValueError where they are none."""
        rows = np.unique([*(b.row_off for b in blocks), max(b.row_stop for b in blocks)])
        cols = np.unique([*(b.col_off for b in blocks), max(b.col_stop for b in blocks)])
        lattice = BlockLattice(rows, cols)
        expected = [
            Window(int(r), int(c), int(r_stop - r), int(c_stop - c))
            for r, r_stop in itertools.pairwise(rows)
            for c, c_stop in itertools.pairwise(cols)
        ]
        if list(blocks) != expected:
            raise ValueError("the blocks do not cover a scene in row-major order")
        return lattice

    @property
    def width(self) -> int:
        """Columns of the scene."""
        return int(self.cols[-1] - self.cols[0])


@dataclass(frozen=True, slots=True)
class Seams:
    """Everything that touches a seam.

    Fragments, components and entries (arcs, corners on seams) are numbered over all blocks.
    """

    columns: dict[str, GrowingArray]
    """Attributes of components, as in fragments."""
    parent: GrowingArray
    """int32: another component of the same polygon, with a smaller number; or itself."""
    closed: GrowingArray
    """int32: number of a component's rings that are closed already ..."""
    corners: GrowingArray
    """... and int64: of their corners."""
    following: GrowingArray
    """int32: the entry after each entry."""
    component: GrowingArray
    """int32: of each entry."""
    fragment: GrowingArray
    """int32: the fragment of an arc, -1 for a corner on a seam, -2 for an arc without corners where a seam between the
    bands of a block meets the block's side."""
    place: GrowingArray
    """(..., 2) int32: a corner's (x, y), or an arc's (position in the fragment, number of corners)."""
    pinches: GrowingArray
    """(..., 2) int32: entries that are to swap what follows them if they are of one component."""
    first_component: GrowingArray
    """int64: of each fragment."""
    first_entry: GrowingArray
    """int64: of each fragment."""
    first_fragment: list[int]
    """Number of each block's first fragment; at the end, how many there are in all."""

    @staticmethod
    def empty(scratch: Scratch) -> Seams:
        """No block yet."""
        kinds = {
            "label": np.int32,
            "pixels": np.int64,
            "confidence_sum": np.int64,
            "confidence_min": np.int32,
            "disagreement_sum": np.int64,
            "touches_edge": np.bool_,
            "touches_nodata": np.bool_,
            "first_pixel": np.int64,
        }
        return Seams(
            columns={name: scratch.growing(kind) for name, kind in kinds.items()},
            parent=scratch.growing(np.int32),
            closed=scratch.growing(np.int32),
            corners=scratch.growing(np.int64),
            following=scratch.growing(np.int32),
            component=scratch.growing(np.int32),
            fragment=scratch.growing(np.int32),
            place=scratch.growing(np.int32, 2),
            pinches=scratch.growing(np.int32, 2),
            first_component=scratch.growing(np.int64),
            first_entry=scratch.growing(np.int64),
            first_fragment=[0],
        )

    def release(self) -> None:
        """Give back the memory behind tables that are in files."""
        for table in (
            *self.columns.values(), self.parent, self.closed, self.corners,
            self.following, self.component, self.fragment, self.place, self.pinches,
        ):  # fmt: skip
            table.release()


@dataclass(frozen=True, slots=True)
class _Side:
    """What a block shows to a neighbour."""

    starts: Array
    """First pixel of each run, on the scene's grid."""
    component: Array
    """(runs,) as numbered over all blocks; -1 ignored, -2 nodata."""
    begin: Array
    """(n, 2) int32: where arcs begin on this side (scene coordinate, ascending), and the entry of each."""
    end: Array
    """(n, 2) int32: where arcs end."""


Load = Callable[[int], Sequence[Fragment] | None]
"""The fragments of a block, by its position in the scene; None where it is wholly nodata."""


def link_seams(lattice: BlockLattice, load: Load, diagonal: bool, scratch: Scratch) -> Seams:
    """Register all blocks, row by row, and link what meets on the seams between them."""
    seams = Seams.empty(scratch)
    n_rows, n_cols = len(lattice.rows) - 1, len(lattice.cols) - 1
    down = np.full(n_cols + 1, -1, np.int32)
    up = np.full(n_cols + 1, -1, np.int32)
    above: list[list[_Side]] = []
    for r in range(n_rows):
        row = [_register_block(seams, lattice, r * n_cols + c, load(r * n_cols + c), diagonal) for c in range(n_cols)]
        if r > 0:
            seam = _Seam(False, int(lattice.rows[r]), int(lattice.cols[0]), int(lattice.cols[-1]), True, True)
            first, second = _along([s[BOTTOM] for s in above]), _along([s[TOP] for s in row])
            _scan(seams, first, second, diagonal, seam, lattice.cols[1:-1].astype(np.int32), down, up)
        for c in range(1, n_cols):
            start, stop = int(lattice.rows[r]), int(lattice.rows[r + 1])
            seam = _Seam(True, int(lattice.cols[c]), start, stop, r == 0, r == n_rows - 1)
            _scan(
                seams, row[c - 1][RIGHT], row[c][LEFT], diagonal, seam,
                _NO_CORNERS, down[c - 1 : c], up[c - 1 : c],
            )  # fmt: skip
        above = row
    return seams


_NO_CORNERS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class _Seam:
    """A straight line between blocks or bands, in scene coordinates."""

    vertical: bool
    at: int
    """Its column, or row."""
    start: int
    """Its first row, or column."""
    stop: int
    first: bool
    """Whether it begins at the scene's edge ..."""
    last: bool
    """... and ends there."""
    carried: bool = False
    """Whether the edges that come along it are given, although it is not vertical."""


def _register_block(
    seams: Seams, lattice: BlockLattice, block: int, fragments: Sequence[Fragment] | None, diagonal: bool
) -> list[_Side]:
    """Take a block's tables into those of the scene, link its bands; return its four sides."""
    r, c = divmod(block, len(lattice.cols) - 1)
    x_start, x_stop, y_start, y_stop = (
        int(v) for v in (lattice.cols[c], lattice.cols[c + 1], lattice.rows[r], lattice.rows[r + 1])
    )
    if not fragments:
        seams.first_fragment.append(seams.first_fragment[-1])
        nothing = np.empty((0, 2), np.int32)
        missing = np.array([-2], np.int32)
        offsets = {TOP: x_start, BOTTOM: x_start, LEFT: y_start, RIGHT: y_start}
        return [_Side(np.array([offsets[side]], np.int32), missing, nothing, nothing) for side in range(4)]
    if [f.row_off for f in fragments] + [y_stop] != [y_start, *(f.row_off + f.rows for f in fragments)]:
        raise ValueError(f"the fragments of block {block} do not cover its rows {y_start} to {y_stop}")
    bands = [_register(seams, seams.first_fragment[-1] + k, fragment, x_start) for k, fragment in enumerate(fragments)]
    seams.first_fragment.append(seams.first_fragment[-1] + len(bands))
    for fragment in fragments:
        release(fragment.strip_offsets)
    seams.release()
    if len(bands) == 1:
        return bands[0]
    left, right = [bands[0][LEFT]], [bands[0][RIGHT]]
    for above, below, fragment in zip(bands, bands[1:], fragments[1:], strict=False):
        seam = _Seam(False, fragment.row_off, x_start, x_stop, c == 0, c == len(lattice.cols) - 2)
        at_left, at_right = _link_bands(seams, above[BOTTOM], below[TOP], diagonal, seam)
        left += [at_left, below[LEFT]]
        right += [at_right, below[RIGHT]]
    return [bands[0][TOP], bands[-1][BOTTOM], _along(left), _along(right)]


def _link_bands(seams: Seams, above: _Side, below: _Side, diagonal: bool, seam: _Seam) -> tuple[_Side, _Side]:
    """Link two bands of a block; what the seam between them shows on the block's left and right side.

    An edge on the seam goes on in the next block: so there it is the end, or the beginning, of an arc.
    """
    label = seams.columns["label"]

    def key(component: int) -> int:
        return int(label.array[component]) if component >= 0 else int(component) - (1 << 40)

    def arc(component: int) -> int:
        """An arc without corners."""
        entry = seams.following.size
        seams.following.extend(np.array([-1], np.int32))
        seams.component.extend(np.array([component], np.int32))
        seams.fragment.extend(np.array([-2], np.int32))
        seams.place.extend(np.zeros((1, 2), np.int32))
        return entry

    def shown(begin: int, end: int) -> _Side:
        ends = (np.array([[seam.at, entry]] if entry >= 0 else np.empty((0, 2)), np.int32) for entry in (begin, end))
        return _Side(np.empty(0, np.int32), np.empty(0, np.int32), *ends)

    forth = back = -1
    if not seam.first and key(above.component[0]) != key(below.component[0]):
        if below.component[0] >= 0:
            forth = arc(int(below.component[0]))
        if above.component[0] >= 0:
            back = arc(int(above.component[0]))
    at_left = shown(forth, back)
    down, up = np.array([forth], np.int32), np.array([back], np.int32)
    _scan(seams, above, below, diagonal, replace(seam, carried=True), _NO_CORNERS, down, up)
    forth = back = -1
    if not seam.last and key(above.component[-1]) != key(below.component[-1]):
        if below.component[-1] >= 0:
            forth = int(down[0])
        if above.component[-1] >= 0:
            back = int(up[0])
    return at_left, shown(back, forth)


def _register(seams: Seams, number: int, fragment: Fragment, col_off: int) -> list[_Side]:
    """Take a fragment's tables into those of the scene; return its four sides."""
    offsets = {TOP: col_off, BOTTOM: col_off, LEFT: fragment.row_off, RIGHT: fragment.row_off}
    first_component, first_entry = seams.parent.size, seams.following.size
    amount, arcs = len(fragment.components.label), len(fragment.arc_component)
    if first_component + amount >= 2**31 - 2**20 or first_entry + arcs >= 2**31 - 2**28:
        raise OverflowError("more than two thousand million pieces of polygons on the seams: use larger blocks")
    seams.first_component.extend(np.array([first_component]))
    seams.first_entry.extend(np.array([first_entry]))
    for column in fields(Components):
        seams.columns[column.name].extend(getattr(fragment.components, column.name))
    seams.parent.extend(np.arange(first_component, first_component + amount, dtype=np.int32))
    seams.closed.extend(np.diff(fragment.component_offsets))
    seams.corners.extend(np.diff(fragment.ring_offsets[fragment.component_offsets]))
    seams.following.extend(np.full(arcs, -1, np.int32))
    seams.component.extend(fragment.arc_component + np.int32(first_component))
    seams.fragment.extend(np.full(arcs, number, np.int32))
    seams.place.extend(np.column_stack([np.arange(arcs), np.diff(fragment.arc_offsets)]))

    starts_open, ends_open = np.asarray(fragment.arc_start), np.asarray(fragment.arc_end)
    if len(fragment.pinch_component):
        slots = 2 * len(fragment.pinch_component)
        beginning, ending = np.empty(slots, np.int32), np.empty(slots, np.int32)
        from_pinch, to_pinch = np.flatnonzero(starts_open >= PINCH), np.flatnonzero(ends_open >= PINCH)
        beginning[starts_open[from_pinch] - PINCH] = from_pinch + first_entry
        ending[ends_open[to_pinch] - PINCH] = to_pinch + first_entry
        seams.following.array[ending] = beginning
        seams.pinches.extend(ending.reshape(-1, 2))

    sides = []
    for side in range(4):
        low, high = fragment.strip_offsets[side : side + 2]
        component = fragment.strip_component[low:high]
        sides.append(
            _Side(
                (fragment.strip_starts[low:high] + offsets[side]).astype(np.int32),
                np.where(component >= 0, component + np.int32(first_component), component),
                _ends(starts_open, side, offsets[side], first_entry),
                _ends(ends_open, side, offsets[side], first_entry),
            )
        )
    return sides


def _ends(codes: Array, side: int, offset: int, first_entry: int) -> Array:
    """Arcs whose end lies on a side: (scene coordinate, entry), by coordinate."""
    arcs = np.flatnonzero(codes >> SIDE_BITS == side)
    position = (codes[arcs] & ((1 << SIDE_BITS) - 1)) + offset
    order = np.argsort(position, kind="stable")
    return np.column_stack([position[order], arcs[order] + first_entry]).astype(np.int32)


def _along(sides: Sequence[_Side]) -> _Side:
    """The sides of a row of blocks, one after the other."""
    return _Side(
        np.concatenate([s.starts for s in sides]),
        np.concatenate([s.component for s in sides]),
        np.concatenate([s.begin for s in sides]),
        np.concatenate([s.end for s in sides]),
    )


def _scan(
    seams: Seams, one: _Side, other: _Side, diagonal: bool, seam: _Seam, corners: Array, down: Array, up: Array
) -> None:  # fmt: skip
    """Unite components across one seam and add the corners that lie on it.

    ``down`` and ``up`` hold the edges that come along the seam itself where it is vertical or ``carried``; else those
    that meet it at its corners.
    """
    label = seams.columns["label"].filled
    _unite_across(
        one.starts, one.component, other.starts, other.component, seam.stop, diagonal, label, seams.parent.filled,
        seams.columns["touches_nodata"].filled,
    )  # fmt: skip
    room = 4 * (len(one.starts) + len(other.starts) + 2)
    size = seams.following.size
    following, component = seams.following.reserve(room), seams.component.reserve(room)
    place, pinches = seams.place.reserve(room), seams.pinches.reserve(room)
    count, pinched = _scan_seam(
        one.starts, one.component, one.begin, one.end, other.starts, other.component, other.begin, other.end,
        seam.vertical, seam.carried or seam.vertical, seam.at, seam.start, seam.stop, seam.first, seam.last,
        corners, down, up, label, following, place, component, size, pinches, seams.pinches.size,
    )  # fmt: skip
    seams.fragment.extend(np.full(count - size, -1, np.int32))
    seams.following.size = seams.component.size = seams.place.size = count
    seams.pinches.size = pinched


@compiled
def _unite_across(
    starts: Array, component: Array, other_starts: Array, other_component: Array, stop: int, diagonal: bool,
    label: Array, parent: Array, touches_nodata: Array,
) -> None:  # fmt: skip
    reach = 1 if diagonal else 0
    low = 0
    for i in range(len(starts)):
        start = starts[i]
        end = starts[i + 1] if i + 1 < len(starts) else stop
        while low < len(other_starts) and (
            (other_starts[low + 1] if low + 1 < len(other_starts) else stop) + reach <= start
        ):
            low += 1
        j = low
        while j < len(other_starts) and other_starts[j] < end + reach:
            one, two = component[i], other_component[j]
            if one >= 0 and two >= 0:
                if label[one] == label[two]:
                    left, right = root(parent, one), root(parent, two)
                    if left != right:
                        unite(parent, left, right)
            elif one == -2 or two == -2:
                other_end = other_starts[j + 1] if j + 1 < len(other_starts) else stop
                if other_starts[j] < end and other_end > start:  # side by side, not only by a corner
                    if one >= 0:
                        touches_nodata[one] = True
                    if two >= 0:
                        touches_nodata[two] = True
            j += 1


@compiled
def _scan_seam(
    starts: Array, component: Array, begin: Array, end: Array,
    other_starts: Array, other_component: Array, other_begin: Array, other_end: Array,
    vertical: bool, carried: bool, at: int, start: int, stop: int, first: bool, last: bool,
    corners: Array, down: Array, up: Array,
    label: Array, following: Array, place: Array, owner: Array, count: int, pinches: Array, pinched: int,
) -> tuple[int, int]:  # fmt: skip
    """Walk along a seam, with one block (or row of blocks) above or to the left and the other below or to the right.

    Where four blocks meet (``corners``, on horizontal seams), the vertical seam's edges are in ``down`` and ``up``.
    """
    i = j = -1
    p = p_begin = p_end = q_begin = q_end = 0
    in_p = in_q = -1
    key_p = key_q = OUTSIDE
    forth, back = wide(-1), wide(-1)
    if carried:
        forth, back = wide(down[0]), wide(up[0])
    while True:
        next_i = starts[i + 1] if i + 1 < len(starts) else stop
        next_j = other_starts[j + 1] if j + 1 < len(other_starts) else stop
        x = min(next_i, next_j)
        before_p, before_q, before_key_p, before_key_q = in_p, in_q, key_p, key_q
        if x == stop and i + 1 >= len(starts) and j + 1 >= len(other_starts):
            if not last:
                break
            in_p = in_q = -1
            key_p = key_q = OUTSIDE
        else:
            if next_i == x:
                i += 1
                in_p = component[i]
                key_p = wide(label[in_p]) if in_p >= 0 else (NODATA if in_p == -2 else IGNORED)
            if next_j == x:
                j += 1
                in_q = other_component[j]
                key_q = wide(label[in_q]) if in_q >= 0 else (NODATA if in_q == -2 else IGNORED)
            if x == start and not first:
                continue
        while p < len(corners) and corners[p] < x:
            p += 1
        crossing = p < len(corners) and corners[p] == x
        to_one, from_one = wide(-1), wide(-1)
        if crossing:
            from_one, to_one = wide(down[p]), wide(up[p])
        else:
            if p_end < len(end) and end[p_end, 0] == x:
                from_one = wide(end[p_end, 1])
                p_end += 1
            if p_begin < len(begin) and begin[p_begin, 0] == x:
                to_one = wide(begin[p_begin, 1])
                p_begin += 1
        if vertical:
            to_other, from_other, forth, back, count, pinched = turn(
                before_key_p, before_key_q, key_p, key_q, before_p, before_q, in_p, in_q,
                from_one, to_one, forth, back, at, x, following, place, owner, count, pinches, pinched,
            )  # fmt: skip
        else:
            forth, back, to_other, from_other, count, pinched = turn(
                before_key_p, key_p, before_key_q, key_q, before_p, in_p, before_q, in_q,
                forth, back, from_one, to_one, x, at, following, place, owner, count, pinches, pinched,
            )  # fmt: skip
        if crossing:
            down[p], up[p] = to_other, from_other
        else:
            if q_begin < len(other_begin) and other_begin[q_begin, 0] == x:
                following[to_other] = other_begin[q_begin, 1]
                q_begin += 1
            if q_end < len(other_end) and other_end[q_end, 0] == x:
                following[other_end[q_end, 1]] = from_other
                q_end += 1
        if x == stop and key_p == OUTSIDE:
            break
    if carried:
        down[0], up[0] = forth, back
    return count, pinched
