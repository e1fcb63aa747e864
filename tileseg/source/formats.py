"""Which raster files may be opened, and by which GDAL driver: decided from the file itself, before GDAL sees it.

GDAL picks a driver by trying them all, so a text file called ``.tif`` may be a virtual raster that reads any file
or address. Here the first bytes choose the one driver, and a virtual raster may only reach into its own folder. Of
files on a server, only those that need no other files beside them are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

from tileseg.errors import InputError, Unreachable
from tileseg.storage.place import SubDataset, Url, is_address
from tileseg.storage.protocol import Refused, Stamp
from tileseg.storage.store import at

DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "BMP", "WEBP", "HFA", "ENVI", "NITF", "GPKG", "VRT")
"""GDAL drivers that tileseg uses (a Cloud-Optimised GeoTIFF is a GTiff)."""
_OF_ONE_FILE = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "BMP", "WEBP", "HFA", "NITF")
"""Those that are used for files on a server."""
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
_LARGEST_VRT = 64 << 20
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

    @property
    def remote(self) -> bool:
        """Whether it lies on a server."""
        return isinstance(self.files[0], Url)

    def stamps(self) -> list[Stamp]:
        """What is different when a file is: size, time of change, ETag. Raises InputError where one is gone."""
        try:
            return [at(file).stamp() for file in self.files]
        except (Refused, Unreachable):
            raise
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read any more: {error.strerror}") from error


def identify(path: str | Path | Url) -> RasterFile:
    """Find the driver of a raster file, or of a sub-dataset such as ``GTIFF_DIR:2:scene.tif``.

    Raises InputError: missing, not a file, not readable, of another format, or a virtual raster that reaches outside
    its folder; Unreachable where a server fails.
    """
    text = str(path)
    if isinstance(path, Url) or is_address(text):
        return _on_server(path)
    if text.startswith(("/vsi", "\\vsi")) or "://" in text:
        raise InputError(f"{text}: not a path or an address that is read; expected s3://, gs://, az:// or https://")
    part = SubDataset.parse(text)
    if part is None or Path(text).exists():
        file = Path(text).absolute()
        driver, files = _inspect(file, text, ())
        return RasterFile(str(file), driver, files)
    file = Path(part.file).absolute()
    driver, files = _inspect(file, part.file, ())
    if {"GTIFF_DIR": "GTiff", "GPKG": "GPKG"}[part.kind] != driver:
        raise InputError(
            f"{text}: {part.file} is no {part.kind.removesuffix('_DIR')} file, so it has no such sub-dataset"
        )
    return RasterFile(str(replace(part, file=str(file))), driver, files)


def _on_server(path: str | Path | Url) -> RasterFile:
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


def _inspect(file: Path, shown: str, parents: tuple[Path, ...]) -> tuple[str, tuple[Path, ...]]:
    """The driver of a file, and the files behind it. ``parents`` are the virtual rasters that led here."""
    head = _head(file, shown)
    driver = _signature(file, head)
    if driver is None:
        raise InputError(f"{shown}: is not a raster that tileseg reads ({_FORMATS}); convert it with gdal_translate")
    # GDAL looks for overviews and masks in files beside, and opens them with any driver.
    for beside in (Path(f"{file}.ovr"), Path(f"{file}.msk")):
        if beside.is_file() and _signature(beside, _head(beside, str(beside))) not in ("GTiff", "HFA"):
            raise InputError(f"{beside}: is no GeoTIFF, so it cannot be the overviews or mask of {shown}; remove it")
    if driver != "VRT":
        return driver, (file,)
    return driver, (file, *_behind_vrt(file, shown, parents))


def _head(file: Path, shown: str) -> bytes:
    try:
        if file.is_dir():
            raise InputError(f"{shown}: is a folder; expected a raster file")
        if not file.is_file() and file.exists():
            raise InputError(f"{shown}: is not a regular file; expected a raster file")
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise InputError(f"{shown}: cannot be opened: {error.strerror or error}") from error
    if not head:
        raise InputError(f"{shown}: is empty (0 bytes); expected a raster file")
    return head


def _magic(head: bytes) -> str | None:
    for magic, driver in _SIGNATURES:
        if head.startswith(magic):
            return driver
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return "VRT" if b"<VRTDataset" in head else None


def _signature(file: Path, head: bytes) -> str | None:
    if (driver := _magic(head)) is not None:
        return driver
    if file.suffix != ".hdr" and any(_is_envi(h) for h in (Path(f"{file}.hdr"), file.with_suffix(".hdr"))):
        return "ENVI"
    return None


def _is_envi(header: Path) -> bool:
    if not header.is_file():
        return False
    with header.open("rb") as stream:
        return stream.read(4) == b"ENVI"


def _behind_vrt(file: Path, shown: str, parents: tuple[Path, ...]) -> tuple[Path, ...]:
    """Check every file that a virtual raster refers to, and the virtual rasters among them."""
    if file in parents or len(parents) >= _DEEPEST_VRT:
        raise InputError(f"{shown}: virtual rasters refer to each other more than {_DEEPEST_VRT} levels deep")
    if file.stat().st_size > _LARGEST_VRT:
        raise InputError(f"{shown}: a virtual raster of more than {_LARGEST_VRT >> 20} MiB of text is not read")
    text = file.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InputError(f"{shown}: a virtual raster with a document type is not read")
    try:
        root = ET.fromstring(text)  # noqa: S314 - entities are refused above
    except ET.ParseError as error:
        raise InputError(f"{shown}: is a damaged virtual raster: {error}") from error
    found: dict[Path, None] = {}
    for element in root.iter():
        name = _tag(element)
        if name in ("pixelfunctioncode", "pixelfunctionlanguage"):
            raise InputError(f"{shown}: a virtual raster that brings its own program code is not read")
        reference = (element.text or "").strip()
        is_file = name.endswith(("filename", "dataset", "ds")) or (
            name == "mdi" and (element.get("key") or "").upper().endswith(("_DATASET", "_FILE", "_FILENAME"))
        )
        if is_file and reference:
            found[_inside(file, shown, reference)] = None
    behind: dict[Path, None] = {}
    for target in found:
        if not target.is_file():
            raise InputError(f"{shown}: refers to {target.name}, which is not there")
        _, files = _inspect(target, f"{shown}: {target.name}", (*parents, file))
        behind.update(dict.fromkeys(files))
    return tuple(behind)


def _tag(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2].lower()


def _inside(file: Path, shown: str, reference: str) -> Path:
    """The file that a virtual raster refers to, if it lies in the folder of the virtual raster or below."""
    folder = file.parent.resolve()
    plain = not (reference.startswith(("/vsi", "<")) or "://" in reference or "\0" in reference)
    target = (file.parent / reference).resolve() if plain else folder
    if not plain or ".." in Path(reference).parts or not target.is_relative_to(folder) or target == folder:
        raise InputError(
            f"{shown}: refers to {reference[:200]!r}, which is outside its own folder; "
            "put the files beside the virtual raster, or convert it with gdal_translate"
        )
    return target
