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


_COMPANIONS = {
    ".shp": (".shx", ".dbf", ".prj", ".cpg"),
    ".csv": (".csvt", ".prj"),
    ".tab": (".dat", ".map", ".id", ".ind"),
    ".mif": (".mid",),
    ".gml": (".gfs", ".xsd"),
}
"""Suffix of a vector file -> those of the files beside it that belong to it."""


def vector_sha256(path: Path) -> str:
    """SHA-256 of all files of a vector file: of a single one its own, of a shapefile or a folder of them all.

    Raises InputError where one cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() != ".lock")
        names = [str(file.relative_to(path)) for file in files]
    else:
        belonging = _COMPANIONS.get(path.suffix.lower(), ())
        beside = [path.with_suffix(spelt) for suffix in belonging for spelt in dict.fromkeys((suffix, suffix.upper()))]
        files = [path, *(file for file in beside if file.is_file())]
        names = [file.suffix.lower() for file in files]
    if len(files) == 1 and not path.is_dir():
        return file_sha256(path)
    total = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        total.update(f"{name}\0{file_sha256(file)}\n".encode())
    return total.hexdigest()
