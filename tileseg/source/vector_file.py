"""Names by which pyogrio opens vector files, and what GDAL may do meanwhile."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import zipfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tileseg.errors import InputError, first_line
from tileseg.source.database import MAGIC, check_tables
from tileseg.source.formats import is_raster
from tileseg.source.others import unread
from tileseg.storage.local import is_file
from tileseg.storage.place import printable

_HEAD = 1 << 16
_STANDING_FOR_OTHERS = (
    b"<ogrvrtdatasource", b"<ogrvrtlayer", b"<ogrwfsdatasource", b"<ogrcswdatasource", b"<vrtdataset", b"<gdal_",
    b"gdal_streamed_alg", b"<gdaltileindex", b"<product_observational", b"pds_version_id", b"odl_version_id",
)  # fmt: skip
"""What begins a description of data elsewhere: GDAL recognises it in a file of any name."""
_TABLE = b"!table"
_TABLES_OF_OTHERS = (b"create view", b"open table", b"\\isseamless")
"""What a MapInfo table holds that stands for other tables."""
_SYSTEM_ELSEWHERE = re.compile(rb'"crs"\s*:\s*\{(?:[^{}]|\{[^{}]*\})*"type"\s*:\s*"(?:link|url)"', re.IGNORECASE)
"""A coordinate reference system of GeoJSON of 2008 or TopoJSON that is to be fetched."""
_CHUNK, _OVERLAP = 1 << 22, 1 << 12
_ZIPPED_FORMATS = (".gdb.zip", ".gpkg.zip", ".shp.zip")
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b")

_CLOSED = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # no /vsicurl/, /vsis3/ and so on
    "GDAL_HTTP_PROXY": "127.0.0.1:9",  # nothing listens there: other requests fail, such as for a schema of GML
    "GDAL_HTTP_TIMEOUT": "1",
    "GDAL_HTTP_MAX_RETRY": "0",
}
"""While a vector file is read: nothing is fetched, whatever it says."""

_SPLITTING = "!;\t\r\n"
"""pyogrio takes a path for an address: it looks for an archive before ``!``, and drops the others."""


@contextmanager
def name_to_read(path: Path) -> Iterator[str]:
    """The name by which pyogrio opens exactly this file, whatever characters its path has; nothing is fetched.

    Raises InputError where it would have GDAL open other files, or is not UTF-8.
    """
    check_vector(path)
    text = str(path.absolute())
    with gdal_options(_CLOSED):
        if is_file(path) and _begins_with_mark(path):
            # GDAL takes the first of several lines of JSON for no feature then, and leaves it out without a word.
            yield f"/vsisubfile/{len(BOM_UTF8)},{text}"
        elif not any(character in text for character in _SPLITTING):
            yield text
        elif path.is_dir():
            with _way_to(path) as way:
                yield str(way)
        elif text.endswith(".zip") and not text.endswith(_ZIPPED_FORMATS):
            yield f"/vsizip/{text}"
        else:
            # GDAL's name for a file from its byte 0 on, which pyogrio leaves as it is.
            yield f"/vsisubfile/0,{text}"


def _begins_with_mark(path: Path) -> bool:
    """Whether a file of JSON begins with a byte order mark."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    return head.startswith(BOM_UTF8) and _is_json(head)


def check_vector(path: Path) -> None:
    """Refuse a vector file that stands for others, whatever its name says: GDAL would open those. Raises InputError."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{printable(str(path))}: its name, or that of its folder, is not UTF-8; rename it") from None
    if not is_file(path):
        return
    try:
        _check_file(path, str(path))
        with path.open("rb") as stream:
            is_archive = stream.read(4) == _ARCHIVES[0]
        if is_archive:
            _check_archive(path)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error


def _check_archive(path: Path) -> None:
    """What is in a ZIP archive, one file after the other as it would lie on the disk."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        for name in archive.namelist():
            shown = f"{path}: {name}"
            with archive.open(name) as member:
                head = member.read(_HEAD)
                if head.startswith(_ARCHIVES):
                    raise InputError(f"{shown}: is an archive in an archive, which tileseg does not read; unpack it")
                if not head.startswith(MAGIC) and not _is_json(head):
                    _check_head(head, shown)
                    continue
                copy = Path(folder) / "member"
                with copy.open("wb") as stream:
                    stream.write(head)
                    shutil.copyfileobj(member, stream)
            _check_file(copy, shown)


def _check_file(file: Path, shown: str) -> None:
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
        _check_head(head, shown)
        if _is_json(head):
            _check_system(head, stream, shown)
    if head.startswith(MAGIC):
        check_tables(file, shown)


def _is_json(head: bytes) -> bool:
    return head.removeprefix(BOM_UTF8).lstrip(b" \t\r\n\x1e").startswith(b"{")


def _check_system(head: bytes, stream: BinaryIO, shown: str) -> None:
    """Refuse JSON whose coordinate reference system is an address: without it the numbers mean nothing."""
    text = head
    while True:
        if _SYSTEM_ELSEWHERE.search(text):
            raise InputError(
                f"{shown}: its coordinate reference system is an address, which tileseg does not fetch; write it anew: "
                "ogr2ogr copy.gpkg IN"
            )
        more = stream.read(_CHUNK)
        if not more:
            return
        text = text[-_OVERLAP:] + more


def _check_head(head: bytes, shown: str) -> None:
    text = head.replace(b"\0", b"").lower()
    tables = _TABLES_OF_OTHERS if text.lstrip(b" \t\r\n").startswith(_TABLE) else ()
    for mark in (*_STANDING_FOR_OTHERS, *tables):
        if mark in text:
            raise InputError(
                f"{shown}: is a description of other data ({mark.decode()}), which tileseg does not follow; copy what "
                "you need of it: ogr2ogr copy.gpkg IN"
            )


_lock = threading.Lock()
_users: Counter[str] = Counter()


@contextmanager
def gdal_options(options: Mapping[str, str]) -> Iterator[None]:
    """Set options of pyogrio's GDAL, where they hold for all threads, as long as anyone needs them."""
    import pyogrio

    with _lock:
        _users.update(options.keys())
        pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        with _lock:
            _users.subtract(options.keys())
            pyogrio.set_gdal_config_options({name: None for name in options if not _users[name]})


def is_table(path: Path) -> bool:
    """Whether a file is columns of text by its name."""
    return path.suffix.lower() in (".csv", ".tsv")


def unreadable(path: Path, error: BaseException) -> InputError:
    """What is raised where pyogrio cannot read a file."""
    reason = first_line(error).partition(".; It might help")[0]
    if "not recognized" in reason:
        reason = "GDAL knows no such format"
        if is_file(path):
            with path.open("rb") as stream:
                what, _ = unread(stream.read(_HEAD), path.suffix)
            reason = "it is a raster" if is_raster(path) else f"it {what.rstrip(', ')}" if what != "is " else reason
    return InputError(
        f"{path}: cannot be read as a vector file: {reason}; expected polygons in GeoJSON, GeoPackage, GeoParquet, "
        "FlatGeobuf, a shapefile or another format of GDAL"
    )


@contextmanager
def name_to_write(path: Path) -> Iterator[str]:
    """The name by which pyogrio writes exactly this file, whatever characters its path has; there when it ends."""
    if not any(character in str(path.absolute()) for character in _SPLITTING):
        yield str(path.absolute())
        return
    # GDAL's names for parts of files are read only, so it is given a way to the folder without such characters.
    with _way_to(path.absolute().parent) as way:
        plain = f"{way.parent.name}{path.suffix}"
        try:
            yield str(way / plain)
            path.with_name(plain).replace(path)
        finally:
            path.with_name(plain).unlink(missing_ok=True)


@contextmanager
def _way_to(folder: Path) -> Iterator[Path]:
    """A link to a folder whose path has no such characters; its ending is that of the folder, which may matter."""
    with tempfile.TemporaryDirectory(prefix="tileseg-") as place:
        way = Path(place) / f"folder{folder.suffix}"
        way.symlink_to(folder.absolute(), target_is_directory=True)
        yield way
