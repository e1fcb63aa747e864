"""What tracing and joining hold in memory at most, as arithmetic: the plan of a run adds it up.

tests/polygons/test_memory.py measures it on noise, checkerboards and a class that hangs together over the scene.
"""

from __future__ import annotations

MIB = 1 << 20

BAND_CHANGES = 1 << 19
"""Places in two neighbouring rows where a label changes, at most in a band of a block (or the band is one row)."""

_BYTES_PER_CHANGE = 230
"""A run and its component (24 and 70 bytes), four corners while they are linked (64), put in order (32) and sorted
into rings (32), and offsets."""

JOIN_CORNERS = 1 << 20
"""Corners of a batch up to which memory will do; more wait in a file, and are worked on so many at a time."""


def trace_bytes(rows: int, cols: int, itemsize: int = 1) -> int:
    """Bytes that tracing a block takes, beside its labels (of ``itemsize`` bytes) and their confidence."""
    widened = 0 if itemsize == 1 else 4 * rows * cols
    return widened + _BYTES_PER_CHANGE * min(rows * cols, max(BAND_CHANGES, 2 * cols))


_BYTES_PER_RING = 72
"""Where a ring begins, before and after sorting, and by what it is sorted."""


def join_bytes(corners: int = JOIN_CORNERS, rings: int = JOIN_CORNERS // 4) -> int:
    """Bytes that joining takes at most for the batch of the most ``corners`` and ``rings``.

    Coordinates are held as they are put together, and as they are put in order. Tables come on top, of some 100 bytes
    for each place where a boundary meets a side of a block or of a band.
    """
    return 3 * 8 * min(corners, JOIN_CORNERS) + _BYTES_PER_RING * rings
