"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tileseg.errors import InputError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
