"""Runs of equal labels in the rows of a block, the components they form, and what is known of these.

Two-pass labelling of runs with union-find (Rosenfeld & Pfaltz 1966). All loops are compiled and release the GIL.
"""

from __future__ import annotations

import numpy as np

from tileseg.compiled import compiled
from tileseg.polygons.fragment import BOTTOM, LEFT, RIGHT, TOP
from tileseg.polygons.rings import IGNORED, NODATA, OUTSIDE, Array, root, unite, wide


@compiled
def band_edges(labels: Array, most: int) -> tuple[Array, Array]:
    """Rows at which to cut a block, from 0 to its height, so that a band has few changes; and the runs of each band.

    What counts is what the tracer visits: the places in two neighbouring rows where a label changes. A band has at
    most ``most`` of them, or is one row.
    """
    height, width = labels.shape
    edges, runs = np.empty(height + 1, np.int64), np.empty(height, np.int64)
    edges[0] = 0
    bands = changes = found = before = 0
    for y in range(height):
        row = labels[y]
        here = 1
        for x in range(1, width):
            here += row[x] != row[x - 1]
        more = min(width, before + here)
        if found > 0 and changes + more > most:
            runs[bands] = found
            bands += 1
            edges[bands] = y
            changes = found = 0
        changes += more
        found += here
        before = here
    if height > 0:
        runs[bands] = found
        bands += 1
        edges[bands] = height
    return edges[: bands + 1].copy(), runs[:bands].copy()


@compiled
def runs_of(labels: Array, most: int, ignore: Array, nodata: int, has_nodata: bool) -> tuple[Array, Array, Array, bool]:
    """Cut rows into runs of equal keys.

    Row y has the runs ``row_runs[y]:row_runs[y + 1]``; after the last row comes one run that stands for the outside.
    ``most``: at least as many as there are runs of equal labels.
    """
    height, width = labels.shape
    row_runs = np.empty(height + 2, np.int64)
    starts = np.empty(most + 2, np.int32)  # the loop without a branch writes one place ahead
    keys = np.empty(most + 2, np.int64)
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
    return row_runs, starts[: count + 1], keys[: count + 1], any_nodata


@compiled
def components_of(row_runs: Array, starts: Array, keys: Array, width: int, diagonal: bool) -> tuple[Array, int]:
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
def measure_components(
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
def add_up(row_runs: Array, starts: Array, in_component: Array, width: int, values: Array, amount: int) -> Array:
    """Sums (components,) of bytes (rows, columns); of an empty array 0."""
    total = np.zeros(amount, np.int64)
    if values.size == 0:
        return total
    for y in range(len(row_runs) - 2):
        low, high = row_runs[y], row_runs[y + 1]
        for run in range(low, high):
            component = in_component[run]
            if component < 0:
                continue
            part = wide(0)
            for x in range(starts[run], starts[run + 1] if run + 1 < high else width):
                part += values[y, x]
            total[component] += part
    return total


@compiled
def mark_beside_nodata(
    row_runs: Array, starts: Array, keys: Array, in_component: Array, width: int, touches: Array
) -> None:
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
def strips_of(
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
