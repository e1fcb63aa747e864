"""A polygon too large for memory as one value: well-known binary, in a file that is mapped."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

from tileseg.compiled import compiled
from tileseg.errors import TilesegError
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch, release

_MOST = (1 << 31) - 1
"""Bytes of a value in Arrow, GeoParquet and FlatGeobuf."""


def large_polygon(xy: Array, offsets: Array, scratch: Scratch) -> pa.BinaryArray:
    """The closed rings (n, 2) of one polygon as an array of one value, little-endian.

    Raises TilesegError where no format could hold it; OSError where the disk has no room.
    """
    rings = len(offsets) - 1
    size = 9 + 4 * rings + 16 * int(offsets[-1])
    if size > _MOST:
        raise TilesegError(
            f"a polygon of {int(offsets[-1]):,} corners is too large for GeoPackage, GeoParquet and FlatGeobuf, which "
            "hold 2 GiB in a geometry at most; write geojson or geojsonseq (--format), leave its class out "
            "(--classes), or drop its crumbs (--fill-holes)"
        )
    pile = scratch.pile(int(offsets[-1]))
    pile.add(np.frombuffer(struct.pack("<BII", 1, 3, rings), np.uint8))
    for low, high in ring_pieces(offsets, scratch.in_memory):
        first, last = int(offsets[low]), int(offsets[high])
        if last - first <= scratch.in_memory:
            points = np.ascontiguousarray(xy[first:last], "<f8").view(np.uint8).reshape(-1, 16)
            counts = np.diff(offsets[low : high + 1]).astype("<u4").view(np.uint8).reshape(-1, 4)
            pile.add(_interleaved(points, offsets[low : high + 1] - first, counts))
        else:
            pile.add(np.frombuffer(struct.pack("<I", last - first), np.uint8))
            for start in range(first, last, scratch.in_memory):
                part = xy[start : min(last, start + scratch.in_memory)]
                pile.add(np.ascontiguousarray(part, "<f8").view(np.uint8).ravel())
        release(xy)
    value = pa.py_buffer(pile.whole())
    return pa.BinaryArray.from_buffers(pa.binary(), 1, [None, pa.py_buffer(np.array([0, size], np.int32)), value])


@compiled
def _interleaved(points: Array, offsets: Array, counts: Array) -> Array:
    """The points (n, 16) of each ring behind their number (R, 4), as bytes."""
    out = np.empty(points.size + counts.size, np.uint8)
    n = 0
    for ring in range(len(counts)):
        for k in range(4):
            out[n + k] = counts[ring, k]
        n += 4
        for i in range(offsets[ring], offsets[ring + 1]):
            for k in range(16):
                out[n + k] = points[i, k]
            n += 16
    return out
