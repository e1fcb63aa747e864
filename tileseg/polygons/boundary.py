"""Boundaries of a block's components: corners linked as a scan over the runs meets them, then rings and arcs."""

from __future__ import annotations

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import BOTTOM, LEFT, PINCH, RIGHT, SIDE_BITS, TOP
from tileseg.polygons.rings import OUTSIDE, Array, turn


@compiled
def link_corners(
    row_runs: Array, starts: Array, keys: Array, in_component: Array, width: int, inner: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Link the corners of all boundaries.

    Returns (following, corner (n, 2) as x, y in the block, component, stubs (m, 2), pinches (k, 2)). ``following`` is
    the next corner, or ``-2 - code`` where an arc ends on an inner border. A stub is an entry that stands for the
    beginning of an arc on an inner border: (entry, code).
    """
    height = len(row_runs) - 2
    outside = row_runs[height]
    vertices = 2 * (width + height) + 4
    for y in range(height + 1):
        above = row_runs[y] - row_runs[y - 1] if y > 0 else 1
        below = row_runs[y + 1] - row_runs[y] if y < height else 1
        vertices += min(width + 1, above + below)
    capacity = 4 * vertices
    following = np.empty(capacity, np.int32)
    corner = np.empty((capacity, 2), np.int32)
    component = np.empty(capacity, np.int32)
    pinches = np.empty((capacity // 2, 2), np.int32)
    stubs = np.empty((4 * (width + height) + 16, 2), np.int32)
    down = np.full(width + 1, -1, np.int32)
    up = np.full(width + 1, -1, np.int32)
    count = pinched = stubbed = 0

    if inner[TOP]:
        low, high = 0, row_runs[1]
        for run in range(low, high + 1):
            x = starts[run] if run < high else width
            if (x == 0 and inner[LEFT]) or (x == width and inner[RIGHT]):
                continue
            if run > low and in_component[run - 1] >= 0:
                component[count] = in_component[run - 1]
                stubs[stubbed, 0], stubs[stubbed, 1] = count, (TOP << SIDE_BITS) | x
                down[x] = count
                count += 1
                stubbed += 1
            if run < high and in_component[run] >= 0:
                up[x] = -2 - ((TOP << SIDE_BITS) | x)

    for y in range(1 if inner[TOP] else 0, height if inner[BOTTOM] else height + 1):
        i, i_end = (row_runs[y - 1], row_runs[y]) if y > 0 else (outside, outside + 1)
        j, j_end = (row_runs[y], row_runs[y + 1]) if y < height else (outside, outside + 1)
        east = west = -1
        b, d, in_b, in_d = keys[i], keys[j], in_component[i], in_component[j]
        if not inner[LEFT]:
            east, west, down[0], up[0], count, pinched = turn(
                OUTSIDE, b, OUTSIDE, d, -1, in_b, -1, in_d, east, west, down[0], up[0],
                0, y, following, corner, component, count, pinches, pinched,
            )  # fmt: skip
        elif b != d:
            if in_d >= 0:
                component[count] = in_d
                stubs[stubbed, 0], stubs[stubbed, 1] = count, (LEFT << SIDE_BITS) | y
                east = count
                count += 1
                stubbed += 1
            if in_b >= 0:
                west = -2 - ((LEFT << SIDE_BITS) | y)
        while True:
            next_i = starts[i + 1] if i + 1 < i_end else width
            next_j = starts[j + 1] if j + 1 < j_end else width
            x = min(next_i, next_j)
            if x == width:
                break
            a, c, in_a, in_c = b, d, in_b, in_d
            i += next_i == x
            j += next_j == x
            b, d, in_b, in_d = keys[i], keys[j], in_component[i], in_component[j]
            east, west, down[x], up[x], count, pinched = turn(
                a, b, c, d, in_a, in_b, in_c, in_d, east, west, down[x], up[x],
                x, y, following, corner, component, count, pinches, pinched,
            )  # fmt: skip
        if not inner[RIGHT]:
            east, west, down[width], up[width], count, pinched = turn(
                b, OUTSIDE, d, OUTSIDE, in_b, -1, in_d, -1, east, west, down[width], up[width],
                width, y, following, corner, component, count, pinches, pinched,
            )  # fmt: skip
        elif b != d:
            if in_d >= 0:
                following[east] = -2 - ((RIGHT << SIDE_BITS) | y)
            if in_b >= 0:
                component[count] = in_b
                following[count] = west
                stubs[stubbed, 0], stubs[stubbed, 1] = count, (RIGHT << SIDE_BITS) | y
                count += 1
                stubbed += 1

    if inner[BOTTOM]:
        low, high = row_runs[height - 1], row_runs[height]
        for run in range(low, high + 1):
            x = starts[run] if run < high else width
            if (x == 0 and inner[LEFT]) or (x == width and inner[RIGHT]):
                continue
            if run > low and in_component[run - 1] >= 0:
                following[down[x]] = -2 - ((BOTTOM << SIDE_BITS) | x)
            if run < high and in_component[run] >= 0:
                component[count] = in_component[run]
                following[count] = up[x]
                stubs[stubbed, 0], stubs[stubbed, 1] = count, (BOTTOM << SIDE_BITS) | x
                count += 1
                stubbed += 1
    return following[:count], corner[:count], component[:count], stubs[:stubbed].copy(), pinches[:pinched]


@compiled
def walk_corners(
    following: Array, corner: Array, component: Array, stubs: Array, pinches: Array, is_open: Array
) -> tuple[Array, Array, Array, int, Array, Array]:
    """Follow the corners: arcs first, then closed rings in the order of their first corner.

    Returns (corners in order (n, 2), offsets of arcs and rings, their components, number of arcs, their ends
    (arcs, 2), components of the pinches that joining must decide (k, 2)).
    """
    fresh, seen, broken = 0, 1, 2
    mark = np.zeros(len(following), np.uint8)
    slot = np.empty(len(following), np.int32)  # where a broken corner stands among the open pinches
    open_count = 0
    for k in range(len(pinches)):
        one, other = pinches[k, 0], pinches[k, 1]
        if component[one] == component[other]:
            following[one], following[other] = following[other], following[one]
        elif is_open[component[one]] and is_open[component[other]]:
            open_count += 1
    open_pinches = np.empty((open_count, 2), np.int32)
    starts = np.empty((len(stubs) + 2 * open_count, 2), np.int32)
    for k in range(len(stubs)):
        starts[k, 0], starts[k, 1] = stubs[k, 0], stubs[k, 1]
    open_count = 0
    for k in range(len(pinches)):
        one, other = pinches[k, 0], pinches[k, 1]
        if component[one] != component[other] and is_open[component[one]] and is_open[component[other]]:
            open_pinches[open_count, 0], open_pinches[open_count, 1] = component[one], component[other]
            for side in range(2):
                entry = pinches[k, side]
                mark[entry] = broken
                slot[entry] = 2 * open_count + side
                starts[len(stubs) + slot[entry], 0] = entry
                starts[len(stubs) + slot[entry], 1] = PINCH + slot[entry]
            open_count += 1

    arcs = len(starts)
    ends = np.empty((arcs, 2), np.int32)
    xy = np.empty((len(following), 2), np.int32)
    offsets = np.empty(len(following) + 2, np.int64)
    owner = np.empty(len(following) + 1, np.int32)
    offsets[0] = 0
    n = 0
    for arc in range(arcs):
        entry = starts[arc, 0]
        ends[arc, 0] = starts[arc, 1]
        owner[arc] = component[entry]
        if mark[entry] == broken:
            xy[n, 0], xy[n, 1] = corner[entry, 0], corner[entry, 1]
            n += 1
        else:
            mark[entry] = seen
        entry = following[entry]
        while entry >= 0 and mark[entry] == fresh:
            mark[entry] = seen
            xy[n, 0], xy[n, 1] = corner[entry, 0], corner[entry, 1]
            n += 1
            entry = following[entry]
        ends[arc, 1] = -2 - entry if entry < 0 else PINCH + slot[entry]
        offsets[arc + 1] = n
    pieces = arcs
    for first in range(len(following)):
        if mark[first] != fresh:
            continue
        owner[pieces] = component[first]
        entry = first
        while mark[entry] == fresh:
            mark[entry] = seen
            xy[n, 0], xy[n, 1] = corner[entry, 0], corner[entry, 1]
            n += 1
            entry = following[entry]
        pieces += 1
        offsets[pieces] = n
    return xy[:n], offsets[: pieces + 1].copy(), owner[:pieces].copy(), arcs, ends, open_pinches


@compiled
def group_rings(rank: Array, owner: Array, amount: int) -> tuple[Array, Array]:
    """Order of the rings by the rank of their component (stable), and the offsets of each rank's rings."""
    offsets = np.zeros(amount + 1, np.int64)
    for i in owner:
        offsets[rank[i] + 1] += 1
    for k in range(amount):
        offsets[k + 1] += offsets[k]
    position = offsets[:-1].copy()
    order = np.empty(len(owner), np.int64)
    for ring in range(len(owner)):
        group = rank[owner[ring]]
        order[position[group]] = ring
        position[group] += 1
    return order, offsets
