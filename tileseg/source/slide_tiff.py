"""Which TIFF files are slides, told by their first directory alone: no library looks at the others for it."""

from __future__ import annotations

import struct
from typing import BinaryIO

from tileseg.source.tiff import Entry, first_entries

MICROSCOPIC = 25.0
"""Micrometres per pixel below which a TIFF is taken for a slide."""

_PLACED = {33550, 33922, 34264, 34735}
"""Tags of GeoTIFF: it lies on the ground."""
_TILED, _DESCRIPTION, _MAKE, _SOFTWARE = 322, 270, 271, 305
_ACROSS, _UNIT = 282, 296
_METRES = {2: 0.0254, 3: 0.01}
"""Unit of the resolution -> metres."""
_SAID = 4096
_WORDS = (b"aperio", b"philips", b"hamamatsu", b"ventana", b"leica scn", b"/leica", b"<ome")


def is_slide_tiff(stream: BinaryIO) -> bool:
    """Whether a TIFF is tiled, lies nowhere on the ground, and names a scanner or has microscopic pixels."""
    try:
        tags = first_entries(stream)
        if _PLACED & set(tags) or _TILED not in tags:
            return False
        said = b"".join(
            tags[tag].data(stream, _SAID).lower() for tag in (_DESCRIPTION, _MAKE, _SOFTWARE) if tag in tags
        )
        return any(word in said for word in _WORDS) or microns_of(stream, tags) < MICROSCOPIC
    except (struct.error, OSError):
        return False


def microns_of(stream: BinaryIO, tags: dict[int, Entry]) -> float:
    """Micrometres per pixel, as the resolution says; infinite where it says none."""
    if _ACROSS not in tags or _UNIT not in tags:
        return float("inf")
    pixels, units = struct.unpack(f"{tags[_ACROSS].order}II", tags[_ACROSS].data(stream, 8))
    unit = struct.unpack(f"{tags[_UNIT].order}H", tags[_UNIT].here[:2])[0]
    return 1e6 * _METRES.get(unit, float("inf")) * units / pixels if pixels and units else float("inf")
