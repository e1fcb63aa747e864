"""From the labels of one block to polygons, and to what the neighbours need to finish the others.

One scan over the runs of equal labels does it: components by union-find of overlapping runs (two-pass labelling,
Rosenfeld & Pfaltz 1966), and boundaries by linking each corner to the next one as the scan meets them, so that
straight stretches cost nothing. All inner loops are compiled and release the GIL.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np

from tileseg.errors import InputError
from tileseg.polygons.fragment import BOTTOM, LEFT, PINCH, RIGHT, SIDE_BITS, TOP, Components, Fragment, PolygonBatch
from tileseg.polygons.rings import IGNORED, NODATA, OUTSIDE, Array, compiled, gather_rings, root, turn, unite, wide
from tileseg.window import Window

Connectivity = Literal[4, 8]


def trace_block(
    labels: Array,
    confidence: Array | None,
    core: Window,
    extent: Window,
    *,
    connectivity: Connectivity = 4,
    ignore: Collection[int] = (),
    nodata: int | None = None,
) -> Fragment:
    """Trace the labels of one block of a scene.

    Args:
        labels: (height, width) integers: the block's core. Types other than uint8 are cast to int32.
        confidence: (height, width) uint16: probability of the pixel's class in units of 1/65535, or None.
        core: where the block lies in the scene.
        extent: the whole scene. Sides of the core on its edge are not seams.
        connectivity: 4, or 8 where diagonal pixels are neighbours too.
        ignore: labels that are not made into polygons (background, say).
        nodata: the label of pixels without data: not made into polygons, but their neighbours are told.

    Raises:
        InputError: labels that are no integers or do not fit int32.
    """
    if labels.shape != (core.height, core.width) or (confidence is not None and confidence.shape != labels.shape):
        raise ValueError(f"labels {labels.shape} and confidence must have the core's shape: {core}")
    has_confidence = confidence is not None
    weights = np.ascontiguousarray(confidence, np.uint16) if confidence is not None else np.empty((0, 0), np.uint16)
    skipped = np.array(sorted({*ignore} - {nodata}), np.int64)
    missing = IGNORED if nodata is None else int(nodata)
    inner = np.array(
        [
            core.row_off > extent.row_off,
            core.row_stop < extent.row_stop,
            core.col_off > extent.col_off,
            core.col_stop < extent.col_stop,
        ]
    )
    row_runs, starts, keys, any_nodata = _runs(_narrow(labels), skipped, missing, nodata is not None)
    in_component, amount = _components(row_runs, starts, keys, core.width, connectivity == 8)
    label, first, pixels, total, least, edge, is_open = _measure(
        row_runs, starts, keys, in_component, core.width, inner, weights, amount
    )
    beside_nodata = np.zeros(amount, np.bool_)
    if any_nodata:
        _find_nodata(row_runs, starts, keys, in_component, core.width, beside_nodata)
    first = (first // core.width + core.row_off - extent.row_off) * extent.width + (
        first % core.width + core.col_off - extent.col_off
    )

    finished, waiting = np.flatnonzero(~is_open), np.flatnonzero(is_open)
    rank = np.empty(amount, np.int32)
    rank[finished] = np.arange(len(finished))
    rank[waiting] = np.arange(len(waiting)) + len(finished)

    following, corner, component, stubs, pinches = _corners(row_runs, starts, keys, in_component, core.width, inner)
    xy, offsets, owner, arcs, arc_ends, open_pinches = _walk(following, corner, component, stubs, pinches, is_open)
    order, polygon_offsets = _group(rank, owner[arcs:], amount)
    ring_xy, ring_offsets = gather_rings(xy, offsets[arcs:], order, core.col_off, core.row_off)
    arc_xy = xy[: offsets[arcs]] + np.array([core.col_off, core.row_off], np.int32)

    done = int(polygon_offsets[len(finished)])
    done_corners = int(ring_offsets[done])
    strip_offsets, strip_starts, strip_component = _strips(
        row_runs, starts, keys, in_component, core.width, inner, rank - np.int32(len(finished))
    )
    columns = {
        "label": label,
        "pixels": pixels,
        "confidence_sum": total,
        "confidence_min": least,
        "touches_edge": edge,
        "touches_nodata": beside_nodata,
        "first_pixel": first,
    }
    return Fragment(
        finished=PolygonBatch(
            coordinates=ring_xy[:done_corners],
            ring_offsets=ring_offsets[: done + 1],
            polygon_offsets=polygon_offsets[: len(finished) + 1],
            **{name: column[finished] for name, column in columns.items()},
        ),
        components=Components(**{name: column[waiting] for name, column in columns.items()}),
        ring_coordinates=ring_xy[done_corners:],
        ring_offsets=ring_offsets[done:] - done_corners,
        component_offsets=polygon_offsets[len(finished) :] - done,
        arc_coordinates=arc_xy,
        arc_offsets=offsets[: arcs + 1],
        arc_component=rank[owner[:arcs]] - np.int32(len(finished)),
        arc_start=arc_ends[:, 0].copy(),
        arc_end=arc_ends[:, 1].copy(),
        pinch_component=rank[open_pinches] - np.int32(len(finished)),
        strip_offsets=strip_offsets,
        strip_starts=strip_starts,
        strip_component=strip_component,
        has_confidence=has_confidence,
    )


def warm_up() -> None:
    """Compile what tracing needs, or load it from Numba's cache: some ten seconds once, then a third of one."""
    extent = Window(0, 0, 2, 4)
    core = Window(0, 0, 2, 2)
    for dtype in (np.uint8, np.int32):
        labels = np.array([[3, 1], [1, 0]], dtype)
        trace_block(labels, labels.astype(np.uint16), core, extent, ignore={0}, nodata=3)


def _narrow(labels: Array) -> Array:
    if labels.dtype == np.uint8:
        return np.ascontiguousarray(labels)
    if labels.dtype.kind not in "iub":
        raise InputError(f"labels of type {labels.dtype} cannot be made into polygons: expected whole numbers")
    if labels.dtype.itemsize >= 4 and labels.dtype != np.int32 and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < -(2**31) or high >= 2**31:
            raise InputError(f"labels from {low} to {high} do not fit 32 bits: renumber the classes")
    return np.ascontiguousarray(labels, np.int32)


@compiled
def _runs(labels: Array, ignore: Array, nodata: int, has_nodata: bool) -> tuple[Array, Array, Array, bool]:
    """Cut rows into runs of equal keys.

    Row y has the runs ``row_runs[y]:row_runs[y + 1]``; after the last row comes one run that stands for the outside.
    """
    height, width = labels.shape
    row_runs = np.empty(height + 2, np.int64)
    starts = np.empty(height * width + 1, np.int32)
    keys = np.empty(height * width + 1, np.int64)
    any_nodata = False
    count = 0
    for y in range(height):
        row = labels[y]
        row_runs[y] = count
        first = count
        starts[count] = 0
        count += 1
        for x in range(1, width):  # without a branch: noise would mispredict every other one
            starts[count] = x
            count += row[x] != row[x - 1]
        kept = first
        for run in range(first, count):
            label = wide(row[starts[run]])
            key = label
            if has_nodata and label == nodata:
                key = NODATA
                any_nodata = True
            else:
                for skipped in ignore:
                    if label == skipped:
                        key = IGNORED
            if kept == first or keys[kept - 1] != key:
                starts[kept] = starts[run]
                keys[kept] = key
                kept += 1
        count = kept
    row_runs[height] = count
    row_runs[height + 1] = count + 1
    starts[count] = 0
    keys[count] = OUTSIDE
    return row_runs, starts[: count + 1].copy(), keys[: count + 1].copy(), any_nodata


@compiled
def _components(row_runs: Array, starts: Array, keys: Array, width: int, diagonal: bool) -> tuple[Array, int]:
    """Component of each run (-1: none), numbered by first pixel; and how many there are."""
    height = len(row_runs) - 2
    reach = 1 if diagonal else 0
    label = np.empty(len(starts), np.int32)
    parent = np.empty(len(starts), np.int32)
    count = 0
    for y in range(height):
        low, high = row_runs[y], row_runs[y + 1]
        above = row_runs[y - 1] if y > 0 else low
        for run in range(low, high):
            key = keys[run]
            start = starts[run]
            end = starts[run + 1] if run + 1 < high else width
            if key < OUTSIDE:
                label[run] = -1
                continue
            mine = -1
            while above < low and (starts[above + 1] if above + 1 < low else width) + reach <= start:
                above += 1
            other = above
            while other < low and starts[other] < end + reach:
                if keys[other] == key:
                    theirs = root(parent, label[other])
                    if mine < 0 or mine == theirs:
                        mine = theirs
                    else:
                        mine = unite(parent, mine, theirs)
                other += 1
            if mine < 0:
                mine = count
                parent[count] = count
                count += 1
            label[run] = mine
    amount = 0
    for i in range(count):  # a representative is the smallest of its set, so it comes first
        if parent[i] == i:
            parent[i] = amount
            amount += 1
        else:
            parent[i] = parent[parent[i]]
    for run in range(row_runs[height]):
        if label[run] >= 0:
            label[run] = parent[label[run]]
    label[row_runs[height]] = -1
    return label, amount


@compiled
def _measure(
    row_runs: Array,
    starts: Array,
    keys: Array,
    in_component: Array,
    width: int,
    inner: Array,
    weights: Array,
    amount: int,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Attributes of the components.

    Returns (label, first pixel in the block, pixels, confidence sum, confidence minimum, whether on the scene's edge,
    whether on an inner border).
    """
    height = len(row_runs) - 2
    label, first = np.empty(amount, np.int32), np.empty(amount, np.int64)
    pixels, total = np.zeros(amount, np.int64), np.zeros(amount, np.int64)
    least = np.full(amount, 65535, np.int32)
    edge, border = np.zeros(amount, np.bool_), np.zeros(amount, np.bool_)
    weighted = weights.size > 0
    for y in range(height):
        low, high = row_runs[y], row_runs[y + 1]
        for run in range(low, high):
            component = in_component[run]
            if component < 0:
                continue
            start = starts[run]
            end = starts[run + 1] if run + 1 < high else width
            if pixels[component] == 0:
                first[component] = y * width + start
                label[component] = keys[run]
            pixels[component] += end - start
            if weighted:
                part = wide(0)
                lowest = wide(65535)
                for x in range(start, end):
                    part += weights[y, x]
                    lowest = min(lowest, wide(weights[y, x]))
                total[component] += part
                least[component] = min(wide(least[component]), lowest)
            on_top, on_bottom, on_left, on_right = y == 0, y == height - 1, start == 0, end == width
            if on_top or on_bottom or on_left or on_right:
                if (
                    (on_top and inner[TOP])
                    or (on_bottom and inner[BOTTOM])
                    or (on_left and inner[LEFT])
                    or (on_right and inner[RIGHT])
                ):
                    border[component] = True
                if (
                    (on_top and not inner[TOP])
                    or (on_bottom and not inner[BOTTOM])
                    or (on_left and not inner[LEFT])
                    or (on_right and not inner[RIGHT])
                ):
                    edge[component] = True
    return label, first, pixels, total, least, edge, border


@compiled
def _find_nodata(row_runs: Array, starts: Array, keys: Array, in_component: Array, width: int, touches: Array) -> None:
    """Mark the components that have a nodata pixel above, below, left or right."""
    for y in range(len(row_runs) - 2):
        low, high = row_runs[y], row_runs[y + 1]
        other = row_runs[y - 1] if y > 0 else low
        for run in range(low, high):
            if run > low and keys[run - 1] == NODATA and in_component[run] >= 0:
                touches[in_component[run]] = True
            if run + 1 < high and keys[run + 1] == NODATA and in_component[run] >= 0:
                touches[in_component[run]] = True
            end = starts[run + 1] if run + 1 < high else width
            while other < low:
                other_end = starts[other + 1] if other + 1 < low else width
                if keys[other] == NODATA and in_component[run] >= 0:
                    touches[in_component[run]] = True
                if keys[run] == NODATA and in_component[other] >= 0:
                    touches[in_component[other]] = True
                if other_end > end:
                    break
                other += 1
                if other_end == end:
                    break


@compiled
def _corners(
    row_runs: Array, starts: Array, keys: Array, in_component: Array, width: int, inner: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Link the corners of all boundaries.

    Returns (following, corner (n, 2) as x, y in the block, component, stubs (m, 2), pinches (k, 2)). ``following`` is
    the next corner, or ``-2 - code`` where an arc ends on an inner border. A stub is an entry that stands for the
    beginning of an arc on an inner border: (entry, code).
    """
    height = len(row_runs) - 2
    outside = row_runs[height]
    capacity = 8 * len(starts) + 4 * (width + height) + 16
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
def _walk(
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
def _group(rank: Array, owner: Array, amount: int) -> tuple[Array, Array]:
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


@compiled
def _strips(
    row_runs: Array, starts: Array, keys: Array, in_component: Array, width: int, inner: Array, number: Array
) -> tuple[Array, Array, Array]:
    """Runs along the inner borders: offsets (5,), starts, components (``number`` of ours; -1 ignored, -2 nodata)."""
    height = len(row_runs) - 2
    offsets = np.zeros(5, np.int64)
    out_starts = np.empty(2 * (width + height), np.int32)
    out_component = np.empty(2 * (width + height), np.int32)
    n = 0
    for side in range(4):
        if inner[side]:
            if side in (TOP, BOTTOM):
                y = 0 if side == TOP else height - 1
                low, high = row_runs[y], row_runs[y + 1]
            else:
                low, high = 0, height
            before = -3
            for k in range(low, high):
                run = k if side in (TOP, BOTTOM) else (row_runs[k] if side == LEFT else row_runs[k + 1] - 1)
                name = in_component[run]
                name = number[name] if name >= 0 else (-2 if keys[run] == NODATA else -1)
                if name != before:
                    out_starts[n] = starts[run] if side in (TOP, BOTTOM) else k
                    out_component[n] = name
                    n += 1
                    before = name
        offsets[side + 1] = n
    return offsets, out_starts[:n].copy(), out_component[:n].copy()
