"""What a compressed picture says of its own size, found without a decoder: those allocate what a header claims."""

from __future__ import annotations

from dataclasses import dataclass

_JP2_SEARCHED = 4096
"""Bytes in which the codestream of a JPEG 2000 file begins, after its boxes."""

_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Second bytes of JPEG's markers that begin a frame; 0xF7 is that of JPEG-LS."""

_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What a picture is when it is decoded."""

    rows: int
    columns: int
    samples: int
    """Values of a pixel."""


def size_of(data: bytes) -> PictureSize | None:
    """Size of a picture in JPEG, JPEG-LS or JPEG 2000; None where the bytes are none, or end before they say it."""
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    start = data[:_JP2_SEARCHED].find(b"\xff\x4f\xff\x51")
    return None if start < 0 else _jpeg_2000(data, start + 4)


def _jpeg(data: bytes) -> PictureSize | None:
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF:  # a filler
            place += 1
        elif kind in _ALONE:
            place += 2
        elif kind in _FRAMES:
            if place + 10 > len(data):
                return None
            return PictureSize(
                int.from_bytes(data[place + 5 : place + 7]),
                int.from_bytes(data[place + 7 : place + 9]),
                data[place + 9],
            )
        else:
            place += 2 + max(2, int.from_bytes(data[place + 2 : place + 4]))
    return None


def _jpeg_2000(data: bytes, place: int) -> PictureSize | None:
    """``place``: behind the marker SIZ. ISO/IEC 15444-1, A.5.1."""
    if place + 38 > len(data):
        return None
    right, bottom, left, top = (int.from_bytes(data[place + i : place + i + 4]) for i in (4, 8, 12, 16))
    return PictureSize(bottom - top, right - left, int.from_bytes(data[place + 36 : place + 38]))
