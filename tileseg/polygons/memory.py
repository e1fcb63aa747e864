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


JOIN_SCATTERED = 1 << 12
"""Pieces of rings that go to scattered places of a file, each on pages of its own, before those are given back."""

_TABLES = 32
"""Of components, of arcs and corners on seams, and of a batch's rings; each in a file once it is large."""

_PAGE = 4096

_BYTES_PER_SORTED = 48
"""A ring's corner, length, rank and place, as it is put in order."""


def table_bytes(corners: int = JOIN_CORNERS) -> int:
    """Bytes up to which a table of joining stays in memory."""
    return corners


def join_bytes(corners: int = JOIN_CORNERS) -> int:
    """Bytes that joining takes at most, where so many ``corners`` of a batch may be in memory.

    What the sides of one row of blocks show comes on top: some 100 bytes for each place where a boundary meets them.
    """
    terms = {
        "corners, as they are put together, in order, and those of a fragment": 3 * 8 * corners,
        "tables": _TABLES * table_bytes(corners),
        "pages of a table and of corners that are written here and there": 2 * _PAGE * JOIN_SCATTERED,
        "rings put in order at a time": _BYTES_PER_SORTED * corners // 4,
    }
    return sum(terms.values())
