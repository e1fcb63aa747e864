"""Photographs that are to be turned before they are shown.

Source: Exif 2.32, 4.6.4 A, tag Orientation (274), also used by TIFF 6.0; the chunks eXIf of PNG and EXIF of WebP hold
the same.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tileseg.source.protocol import Pixels
from tileseg.source.tiff import first_tags
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

UPRIGHT = 1
_TURNS = {
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
"""Orientation -> whether rows and columns change places; whether rows, and columns, then count from the other end."""
_TAG = 274


def orientation_of(file: Path | None, dataset: DatasetReader) -> int:
    """How a picture is to be turned, 1 to 8; 1 (upright) where it does not say, or lies on the ground.

    ``file``: where the picture is, if on this machine.
    """
    if dataset.crs is not None or not dataset.transform.is_identity or dataset.gcps[0] or dataset.tags(ns="RPC"):
        return UPRIGHT
    try:
        if dataset.driver == "JPEG":
            found = int(dataset.tags().get("EXIF_Orientation", UPRIGHT))
        elif file is None or dataset.driver not in ("PNG", "WEBP", "GTiff"):
            return UPRIGHT
        else:
            with file.open("rb") as stream:
                found = _in_file(stream, dataset.driver)
    except (ValueError, struct.error, OSError):
        return UPRIGHT
    return found if found in _TURNS else UPRIGHT


def turned_size(orientation: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a picture as it is shown."""
    return (width, height) if _TURNS[orientation][0] else (height, width)


def stored_window(orientation: int, window: Window, height: int, width: int) -> Window:
    """Where a window of the picture as it is shown, of ``height`` x ``width``, lies in the picture as it is stored."""
    swap, rows, cols = _TURNS[orientation]
    top = height - window.row_stop if rows else window.row_off
    left = width - window.col_stop if cols else window.col_off
    if swap:
        return Window(left, top, window.width, window.height)
    return Window(top, left, window.height, window.width)


def turn(orientation: int, pixels: Pixels) -> Pixels:
    """Pixels (y, x, ...) as they are stored -> as they are shown, C-contiguous."""
    swap, rows, cols = _TURNS[orientation]
    shown = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(shown[:: -1 if rows else 1, :: -1 if cols else 1])


def _in_file(stream: BinaryIO, driver: str) -> int:
    if driver == "GTiff":
        return first_tags(stream).get(_TAG, UPRIGHT)
    if driver == "PNG":
        place = 8
        while True:
            stream.seek(place)
            length, kind = struct.unpack(">I4s", stream.read(8))
            if kind == b"eXIf":
                return first_tags(stream, place + 8).get(_TAG, UPRIGHT)
            place += length + 12
            if kind == b"IEND":
                return UPRIGHT
    place = 12
    while True:
        stream.seek(place)
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind == b"EXIF":
            start = stream.read(6)
            return first_tags(stream, place + 8 + (6 if start == b"Exif\0\0" else 0)).get(_TAG, UPRIGHT)
        place += 8 + length + length % 2
