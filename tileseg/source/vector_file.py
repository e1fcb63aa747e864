"""Names by which pyogrio opens vector files."""

from __future__ import annotations

from pathlib import Path

_SPLITTING = "!;\t\r\n"
"""pyogrio takes a path for an address: it looks for an archive before ``!``, and drops the others."""


def vector_name(path: Path) -> str:
    """The name by which pyogrio opens exactly this file, whatever characters its path has."""
    text = str(path.absolute())
    # GDAL's name for a file from its byte 0 on, which pyogrio leaves as it is.
    return f"/vsisubfile/0,{text}" if any(character in text for character in _SPLITTING) else text
