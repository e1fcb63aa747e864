"""The one rule by which boundaries turn, shared by tracing (inside a block) and joining (on the seams).

Coordinates are lattice integers (x, y) = (column, row) of pixel corners in the scene. A boundary runs with its pixels
on the right hand (y grows downwards), so exteriors have a positive shoelace area in (x, y) and holes a negative one.
At a vertex the four pixels are called ::

    a | b
    --+--
    c | d

Where two diagonal pixels of one component meet and the other two are not of it (a pinch), the boundary keeps to the
*other* pixel: holes then touch the outer ring in a point, instead of the ring touching itself. GDAL's polygonize does
the same for both connectivities (checked on random rasters, see tests/test_polygons.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled, inlined

Array = npt.NDArray[Any]

wide = cast(Callable[[Any], int], np.int64)
"""In compiled code: make an integer 64 bits wide."""

OUTSIDE, NODATA, IGNORED = -(1 << 40), -(1 << 41), -(1 << 42)
"""Keys of pixels that belong to no component; those of all others are their labels (at least -2**31)."""


@inlined
def turn(
    a: int, b: int, c: int, d: int,
    in_a: int, in_b: int, in_c: int, in_d: int,
    east: int, west: int, south: int, north: int,
    x: int, y: int,
    following: Array, corner: Array, component: Array, count: int,
    pinches: Array, pinched: int,
) -> tuple[int, int, int, int, int, int]:  # fmt: skip
    """Process one lattice vertex: append at most four corners, return the edges that go on to the right and down.

    ``a`` to ``d`` are the keys of the four pixels, ``in_a`` to ``in_d`` their components (negative: none). An edge
    that runs right (``east``) or down (``south``) is named by what it comes *from*, one that runs left (``west``) or
    up (``north``) by what it goes *to*: so all are known when the scan, left to right and top to bottom, gets there.
    ``following[i]`` becomes what comes after corner i. Corners at a pinch first turn around their own pixel; such
    pairs are noted in ``pinches``, to be swapped once it is known that both belong to one component.

    Returns (east, west, south, north, count, pinched).
    """
    to_east, to_west, to_south, to_north = east, west, south, north
    at_a = at_b = at_c = at_d = -1
    if in_a >= 0 and a != b:  # comes from above, with a on its right hand
        if a != c:
            following[south] = count
            following[count] = west
            corner[count, 0], corner[count, 1], component[count] = x, y, in_a
            at_a = count
            count += 1
        elif c != d:
            to_south = south
        else:
            following[south] = count
            corner[count, 0], corner[count, 1], component[count] = x, y, in_a
            to_east = count
            count += 1
    if in_c >= 0 and a != c:  # comes from the left, with c on its right hand
        if c != d:
            following[east] = count
            corner[count, 0], corner[count, 1], component[count] = x, y, in_c
            to_south = count
            at_c = count
            count += 1
        elif b != d:
            to_east = east
        else:
            following[east] = count
            following[count] = north
            corner[count, 0], corner[count, 1], component[count] = x, y, in_c
            count += 1
    if in_d >= 0 and c != d:  # comes from below, with d on its right hand
        if b != d:
            corner[count, 0], corner[count, 1], component[count] = x, y, in_d
            to_north = count
            to_east = count
            at_d = count
            count += 1
        elif a != b:
            to_north = north
        else:
            following[count] = west
            corner[count, 0], corner[count, 1], component[count] = x, y, in_d
            to_north = count
            count += 1
    if in_b >= 0 and b != d:  # comes from the right, with b on its right hand
        if a != b:
            following[count] = north
            corner[count, 0], corner[count, 1], component[count] = x, y, in_b
            to_west = count
            at_b = count
            count += 1
        elif a != c:
            to_west = west
        else:
            corner[count, 0], corner[count, 1], component[count] = x, y, in_b
            to_west = count
            to_south = count
            count += 1
    if at_a >= 0 and at_d >= 0 and a == d:
        pinches[pinched, 0], pinches[pinched, 1] = at_a, at_d
        pinched += 1
    if at_b >= 0 and at_c >= 0 and b == c:
        pinches[pinched, 0], pinches[pinched, 1] = at_b, at_c
        pinched += 1
    return to_east, to_west, to_south, to_north, count, pinched


@inlined
def root(parent: Array, member: int) -> int:
    """The representative of a set in a union-find forest, halving the path on the way."""
    while parent[member] != member:
        parent[member] = parent[parent[member]]
        member = parent[member]
    return member


@inlined
def unite(parent: Array, one: int, other: int) -> int:
    """Make two representatives one: the smaller."""
    if one < other:
        parent[other] = one
        return one
    parent[one] = other
    return other


@compiled
def gather_rings(coordinates: Array, offsets: Array, order: Array, shift_x: int, shift_y: int) -> tuple[Array, Array]:
    """Rings ``order`` of (coordinates (n, 2), offsets (R + 1,)), one after the other, moved by a shift."""
    out_offsets = np.empty(len(order) + 1, np.int64)
    out_offsets[0] = 0
    for k in range(len(order)):
        out_offsets[k + 1] = out_offsets[k] + offsets[order[k] + 1] - offsets[order[k]]
    out = np.empty((out_offsets[-1], 2), np.int32)
    for k in range(len(order)):
        source, target = offsets[order[k]], out_offsets[k]
        for i in range(out_offsets[k + 1] - target):
            out[target + i, 0] = coordinates[source + i, 0] + shift_x
            out[target + i, 1] = coordinates[source + i, 1] + shift_y
    return out, out_offsets
