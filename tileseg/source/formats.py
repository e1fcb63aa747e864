"""Which raster files may be opened, and by which GDAL driver: decided from the file itself, before GDAL sees it.

GDAL picks a driver by trying them all, so a text file called ``.tif`` may be a virtual raster that reads any file
or address. Here the first bytes choose the one driver; a virtual raster may only reach into its own folder, and what
GDAL gets of it is written anew (:mod:`tileseg.source.vrt`). Files beside a raster, and what its tags say of other
files, are checked too. Of files on a server, only those that need no other files beside them are read.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tileseg.errors import InputError, Unreachable
from tileseg.source.others import unread
from tileseg.source.vrt import rebuild
from tileseg.storage.local import is_file
from tileseg.storage.place import Named, SubDataset, Url, is_address, printable
from tileseg.storage.protocol import AccessDenied, Stamp
from tileseg.storage.store import at
from tileseg.window import Window

DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "BMP", "WEBP", "HFA", "ENVI", "NITF", "GPKG", "VRT")
"""GDAL drivers that tileseg uses (a Cloud-Optimised GeoTIFF is a GTiff)."""
_OF_ONE_FILE = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "BMP", "WEBP", "HFA", "NITF")
"""Drivers for files on a server."""
_GDAL_NAMES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
"""Scheme -> GDAL's file system; web servers are /vsicurl/."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),
    (b"MM\0+", "GTiff"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (b"BM", "BMP"),
    (b"EHFA_HEADER_TAG", "HFA"),
    (b"NITF", "NITF"),
    (b"NSIF", "NITF"),
    (b"SQLite format 3\0", "GPKG"),
)
_FORMATS = "GeoTIFF, JPEG, PNG, JPEG 2000, BMP, WebP, Erdas Imagine, ENVI, NITF, GeoPackage or VRT"
_HEAD = 4096
_DEEPEST_VRT = 8


@dataclass(frozen=True, slots=True)
class RasterFile:
    """A raster file that may be opened."""

    name: str
    """What GDAL is asked to open: an absolute path, or a sub-dataset of one."""
    driver: str
    """The one driver that may open it."""
    files: tuple[Path | Url, ...]
    """The files that it consists of: itself first, then what a virtual raster refers to."""
    text: str | None = field(default=None, repr=False)
    """A virtual raster, written anew: GDAL opens this text, and never the file."""
    places: tuple[Window | None, ...] = field(default=(), repr=False)
    """Where the pixels of each of ``files`` may appear in a virtual raster; None: anywhere."""

    @property
    def remote(self) -> bool:
        """Whether it lies on a server."""
        return isinstance(self.files[0], Url)

    def stamps(self, window: Window | None = None) -> dict[Path | Url, Stamp]:
        """What is different when a file is, by file: size, time of change, ETag. Raises InputError where one is gone.

        With a ``window``, of those files alone whose pixels may appear in it: a virtual raster has thousands.
        """
        try:
            return {file: at(file).stamp() for file in self._within(window)}
        except (AccessDenied, Unreachable):
            raise
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read any more: {error.strerror}") from error

    def _within(self, window: Window | None) -> list[Path | Url]:
        """The files whose pixels may appear in a window; without one, all of them."""
        if window is None or not self.places:
            return list(self.files)
        pairs = zip(self.files, self.places, strict=True)
        return [file for file, place in pairs if place is None or place.intersection(window) is not None]


def identify(path: Named, *, trust_vrt: bool = False) -> RasterFile:
    """Find the driver of a raster file, or of a sub-dataset such as ``GTIFF_DIR:2:scene.tif``.

    ``trust_vrt``: a virtual raster may refer to files outside its own folder. Raises InputError: missing, not a file,
    not readable, of another format, or a virtual raster that reaches outside its folder; Unreachable where a server
    fails.
    """
    text = str(path)
    if isinstance(path, Url) or is_address(text):
        return _on_server(path)
    if text.startswith(("/vsi", "\\vsi")) or "://" in text:
        raise InputError(f"{text}: not a path or an address that is read; expected s3://, gs://, az:// or https://")
    part = SubDataset.parse(text)
    if part is None or Path(text).exists():
        file = Path(text).absolute()
        found = _inspect(file, printable(text), (), trust_vrt)
        places = tuple(found.files.values()) if found.text else ()
        return RasterFile(str(file), found.driver, tuple(found.files), found.text, places)
    file = Path(part.file).absolute()
    driver = _inspect(file, printable(part.file), (), trust_vrt).driver
    if {"GTIFF_DIR": "GTiff", "GPKG": "GPKG"}[part.kind] != driver:
        raise InputError(
            f"{text}: {part.file} is no {part.kind.removesuffix('_DIR')} file, so it has no such sub-dataset"
        )
    return RasterFile(str(replace(part, file=str(file))), driver, (file,))


def _on_server(path: Named) -> RasterFile:
    """A file on an object store or a web server."""
    url = path if isinstance(path, Url) else Url.parse(str(path))
    try:
        head = at(url).read(_HEAD)
    except FileNotFoundError as error:
        raise InputError(f"{url}: {error.strerror}; check the address") from None
    if not head:
        raise InputError(f"{url}: is empty (0 bytes); expected a raster file")
    driver = _magic(head)
    if driver is None or driver not in _OF_ONE_FILE:
        raise InputError(
            f"{url}: is no raster that is read from a server; expected a Cloud-Optimised GeoTIFF, or JPEG, PNG, "
            "JPEG 2000, BMP, WebP, Erdas Imagine or NITF; download or convert it"
        )
    if url.scheme in _GDAL_NAMES:
        return RasterFile(f"{_GDAL_NAMES[url.scheme]}{url.bucket}/{url.key}", driver, (url,))
    return RasterFile(f"/vsicurl/{url}{'?' if url.query else ''}{url.query}", driver, (url,))


@dataclass(frozen=True, slots=True)
class _Inspected:
    """What a file turned out to be."""

    driver: str
    files: Mapping[Path, Window | None]
    """Itself, and the files behind a virtual raster with where their pixels may appear in it."""
    text: str | None = None
    """A virtual raster, written anew."""


def _inspect(file: Path, shown: str, parents: tuple[Path, ...], trust: bool) -> _Inspected:
    """The driver of a file, and the files behind it. ``parents`` are the virtual rasters that led here."""
    _check_name(file, shown)
    head = _head(file, shown)
    driver = _signature(file, head)
    if driver is None:
        what, remedy = unread(head, file.suffix)
        raise InputError(f"{shown}: {what}not a raster that tileseg reads ({_FORMATS}); {remedy}")
    if driver != "VRT":
        from tileseg.source.beside import check_beside, check_references

        check_beside(file, shown)
        check_references(file, driver, shown)
        return _Inspected(driver, {file: None})
    if file in parents or len(parents) >= _DEEPEST_VRT:
        raise InputError(f"{shown}: virtual rasters refer to each other more than {_DEEPEST_VRT} levels deep")

    def refer(reference: str) -> tuple[str, Mapping[Path, Window | None]]:
        target = _target(file, shown, reference, trust)
        if not is_file(target):
            raise InputError(f"{shown}: refers to {target.name}, which is not there ({target})")
        found = _inspect(target, f"{shown}: {target.name}", (*parents, file), trust)
        return found.text or _gdal_name(target, found.driver, shown), found.files

    made = rebuild(file, shown, refer)
    return _Inspected(driver, {file: None, **made.files}, made.text)


def _gdal_name(file: Path, driver: str, shown: str) -> str:
    """What makes GDAL open a file behind a virtual raster with one driver.

    GDAL tries drivers in an order in which only those of virtual rasters, which look for text before the first zero
    byte, come before the one of GeoTIFF, whose third or fourth byte is zero. All others are named.
    """
    if driver == "GTiff":
        return str(file)
    if "?" in str(file):
        raise InputError(f"{shown}: refers to {file.name}, which has a question mark in its name or folder; rename it")
    return f"vrt://{file}?if={driver}"


def _check_name(file: Path, shown: str) -> None:
    """GDAL takes names in UTF-8."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{shown}: its name, or that of its folder, is not UTF-8; rename it (convmv does many)"
        ) from None


def _head(file: Path, shown: str) -> bytes:
    try:
        if file.is_dir():
            raise InputError(f"{shown}: is a folder; expected a raster file")
        if not is_file(file) and file.exists():
            raise InputError(f"{shown}: is not a regular file; expected a raster file")
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise InputError(f"{shown}: cannot be opened: {error.strerror or error}") from error
    if not head:
        raise InputError(f"{shown}: is empty (0 bytes); expected a raster file")
    return head


def is_raster(file: Path) -> bool:
    """Whether a file begins as a raster does."""
    with file.open("rb") as stream:
        return _magic(stream.read(_HEAD)) is not None


def _magic(head: bytes) -> str | None:
    for magic, driver in _SIGNATURES:
        if head.startswith(magic):
            return driver
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # An archive may hold the text of one.
    is_text = head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<")
    return "VRT" if is_text and b"<VRTDataset" in head else None


def _signature(file: Path, head: bytes) -> str | None:
    if (driver := _magic(head)) is not None:
        return driver
    if file.suffix != ".hdr" and any(_is_envi(h) for h in (Path(f"{file}.hdr"), file.with_suffix(".hdr"))):
        return "ENVI"
    return None


def _is_envi(header: Path) -> bool:
    if not is_file(header):
        return False
    with header.open("rb") as stream:
        return stream.read(4) == b"ENVI"


def _target(file: Path, shown: str, reference: str, trust: bool) -> Path:
    """The file that a virtual raster refers to, if it lies in the folder of the virtual raster or below.

    Taken from that folder, also where ``relativeToVRT`` is missing: GDAL would look in the working directory. With
    ``trust`` it may be any file of this machine.
    """
    folder = file.parent.resolve()
    plain = bool(reference) and not (reference.startswith(("/vsi", "\\vsi", "<")) or "://" in reference)
    if not plain or "\0" in reference:
        raise InputError(
            f"{shown}: refers to {reference[:200]!r}, which is outside its own folder and no file of this machine; "
            "download or convert it with gdal_translate"
        )
    target = (file.parent / reference).resolve()
    if trust:
        return target
    if ".." in Path(reference).parts or not target.is_relative_to(folder) or target == folder:
        raise InputError(
            f"{shown}: refers to {reference[:200]!r}, which is outside its own folder; if you know where it comes "
            "from, allow that with --trust-vrt (in a dataset: trust_vrt = true), or put the files beside the virtual "
            "raster"
        )
    return target
