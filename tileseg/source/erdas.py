"""Which other files an Erdas Imagine file names: those of large rasters and of overviews.

Source: the HFA format as described by GDAL (frmts/hfa/hfa.h, hfaentry.cpp): a tree of entries, each with a type.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tileseg.errors import InputError

_TAG = b"EHFA_HEADER_TAG\0"
_NAMES = {b"ImgExternalRaster", b"Eimg_RRDNamesList", b"Eimg_DependentFile"}
"""Types of the entries in which names of files stand."""
_MOST_ENTRIES = 100_000
_MOST_BYTES = 1 << 20
"""Most bytes of an entry with names: a larger one is damaged."""


def check_names(file: Path, shown: str) -> None:
    """Refuse an Erdas Imagine file that names files anywhere but in its own folder. Raises InputError."""
    folder = file.parent.resolve()
    try:
        links = [link for link in folder.iterdir() if link.is_symlink() and link.resolve().parent != folder]
        with file.open("rb") as stream:
            for data in _data(stream):
                led_out = any(bytes(link.name, "utf-8", "surrogateescape") in data for link in links)
                if led_out or b"/" in data or b"\\" in data or b".." in data:
                    raise InputError(
                        f"{shown}: names another file outside its own folder; convert it with gdal_translate where you "
                        "trust it"
                    )
    except (OSError, struct.error) as error:
        raise InputError(f"{shown}: is a damaged Erdas Imagine file: {error}") from error


def _data(stream: BinaryIO) -> Iterator[bytes]:
    """The content of all entries in which names stand."""
    if stream.read(len(_TAG)) != _TAG:
        raise struct.error("it does not begin as one")
    (header,) = struct.unpack("<I", stream.read(4))
    stream.seek(header)
    _, _, root = struct.unpack("<iII", stream.read(12))
    waiting, seen = [root], set[int]()
    while waiting:
        place = waiting.pop()
        if place == 0 or place in seen:
            continue
        seen.add(place)
        if len(seen) > _MOST_ENTRIES:
            raise struct.error("it has too many entries")
        stream.seek(place)
        following, _, _, child, data, size, _, kind = struct.unpack("<IIIIII64s32s", stream.read(120))
        waiting += [following, child]
        if kind.partition(b"\0")[0] in _NAMES:
            stream.seek(data)
            yield stream.read(min(size, _MOST_BYTES))
