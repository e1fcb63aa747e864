"""The first directory of a TIFF structure, as TIFF and Exif have it, without libtiff.

Source: TIFF 6.0, section 2; BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_BIG = 43
_MOST_TAGS = 4096
_FARTHEST = (1 << 63) - 1
"""Place in a file: more cannot be looked for."""


def first_tags(stream: BinaryIO, start: int = 0) -> dict[int, int]:
    """Number of each tag of the first directory -> its value, if that is one short number.

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
        tag, _, _, value = struct.unpack(f"{order}HH{'Q8s' if big else 'I4s'}", stream.read(20 if big else 12))
        found[tag] = int(struct.unpack(f"{order}H", value[:2])[0])
    return found
