"""The first directory of a TIFF structure, as TIFF and Exif have it, without libtiff.

Source: TIFF 6.0, section 2; BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_BIG = 43
_MOST_TAGS = 4096
_FARTHEST = (1 << 63) - 1
"""Place in a file: more cannot be looked for."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 16: 8}
"""Kind of value -> bytes of one: bytes, text, short and long numbers, fractions, 64 bits."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tag of a directory."""

    order: str
    """Of bytes, as struct writes it."""
    kind: int
    """What its values are."""
    count: int
    """How many."""
    here: bytes
    """The values, if they fit, or else where they are."""

    def data(self, stream: BinaryIO, most: int) -> bytes:
        """The first bytes of its values. Raises struct.error where they are none that are known."""
        size = _SIZES.get(self.kind, 0) * self.count
        if size <= len(self.here):
            return self.here[:size]
        (place,) = struct.unpack(f"{self.order}{'Q' if len(self.here) == 8 else 'I'}", self.here)
        if place > _FARTHEST:
            raise struct.error(f"values at byte {place:,}")
        stream.seek(place)
        return stream.read(min(size, most))


def first_entries(stream: BinaryIO, start: int = 0) -> dict[int, Entry]:
    """Number of each tag of the first directory -> the tag.

    ``start``: where in the file the structure begins. Raises struct.error where it is none.
    """
    stream.seek(start)
    head = stream.read(8)
    order = "<" if head[:2] == b"II" else ">"
    version, first = struct.unpack(f"{order}HI", head[2:])
    big = version == _BIG
    if big:
        (first,) = struct.unpack(f"{order}Q", stream.read(8))
    if start + first > _FARTHEST:
        raise struct.error(f"the first directory is at byte {first:,}")
    stream.seek(start + first)
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(8 if big else 2))
    if count > _MOST_TAGS:
        raise struct.error(f"{count} tags")
    found = {}
    for _ in range(count):
        tag, kind, values, here = struct.unpack(f"{order}HH{'Q8s' if big else 'I4s'}", stream.read(20 if big else 12))
        found[tag] = Entry(order, kind, values, here)
    return found


def first_tags(stream: BinaryIO, start: int = 0) -> dict[int, int]:
    """Number of each tag of the first directory -> its value, if that is one short number.

    ``start``: where in the file the structure begins. Raises struct.error where it is none.
    """
    entries = first_entries(stream, start)
    return {tag: int(struct.unpack(f"{entry.order}H", entry.here[:2])[0]) for tag, entry in entries.items()}
