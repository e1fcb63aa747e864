"""Names by which pyogrio opens vector files."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tileseg.errors import InputError, first_line
from tileseg.source.database import MAGIC, check_tables
from tileseg.storage.local import is_file
from tileseg.storage.place import printable

_HEAD = 1 << 16
_STANDING_FOR_OTHERS = (
    b"<ogrvrtdatasource", b"<ogrvrtlayer", b"<ogrwfsdatasource", b"<ogrcswdatasource", b"<vrtdataset", b"<gdal_",
    b"gdal_streamed_alg", b"<gdaltileindex",
)  # fmt: skip
"""What begins a description of data elsewhere: GDAL recognises it in a file of any name."""

_SPLITTING = "!;\t\r\n"
"""pyogrio takes a path for an address: it looks for an archive before ``!``, and drops the others."""


def vector_name(path: Path) -> str:
    """The name by which pyogrio opens exactly this file, whatever characters its path has.

    Raises InputError where it would have GDAL open other files, or is not UTF-8.
    """
    check_vector(path)
    text = str(path.absolute())
    # GDAL's name for a file from its byte 0 on, which pyogrio leaves as it is.
    return f"/vsisubfile/0,{text}" if any(character in text for character in _SPLITTING) else text


def check_vector(path: Path) -> None:
    """Refuse a vector file that stands for others, whatever its name says: GDAL would open those. Raises InputError."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{printable(str(path))}: its name, or that of its folder, is not UTF-8; rename it") from None
    if not is_file(path):
        return
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        _check_head(head, str(path))
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as member:
                        _check_head(member.read(_HEAD), f"{path}: {name}")
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error
    if head.startswith(MAGIC):
        check_tables(path, str(path))


def _check_head(head: bytes, shown: str) -> None:
    text = head.replace(b"\0", b"").lower()
    for mark in _STANDING_FOR_OTHERS:
        if mark in text:
            raise InputError(
                f"{shown}: is a description of other data ({mark.decode()}), which tileseg does not follow; copy what "
                "you need of it: ogr2ogr copy.gpkg IN"
            )


@contextmanager
def name_to_write(path: Path) -> Iterator[str]:
    """The name by which pyogrio writes exactly this file, whatever characters its path has; there when it ends."""
    if not any(character in str(path.absolute()) for character in _SPLITTING):
        yield str(path.absolute())
        return
    # GDAL's names for parts of files are read only, so it is given a way to the folder without such characters.
    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        way = Path(folder) / "folder"
        way.symlink_to(path.absolute().parent, target_is_directory=True)
        plain = f"{Path(folder).name}{path.suffix}"
        try:
            yield str(way / plain)
            path.with_name(plain).replace(path)
        finally:
            path.with_name(plain).unlink(missing_ok=True)
