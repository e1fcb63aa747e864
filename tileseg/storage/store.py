"""Files and objects alike: a place is a path or an address, and what is done there is the same."""

from __future__ import annotations

from pathlib import Path

from tileseg.storage.local import Local
from tileseg.storage.place import Url
from tileseg.storage.protocol import StoredFile
from tileseg.storage.remote import Remote


def at(place: Path | Url) -> StoredFile:
    """What lies at a place. Raises UsageError where obstore is missing."""
    return Local(place) if isinstance(place, Path) else Remote(place)


def write_atomic(place: Path | Url, text: str) -> None:
    """Write a small text file: readers see all of it, or what was there before."""
    at(place).write(text.encode())
