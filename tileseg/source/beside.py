"""What GDAL would read besides a raster file: overviews, masks and tables next to it, and files that its tags name."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import rasterio

from tileseg.errors import InputError
from tileseg.source import erdas
from tileseg.source.database import check_rasters
from tileseg.source.gdal import complaints
from tileseg.source.tiff import first_tags
from tileseg.storage.local import is_file

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ERDAS = b"EHFA_HEADER_TAG"
_GDAL_METADATA = 42112
"""Tag of a TIFF in which GDAL keeps metadata of all kinds, as XML."""
_OVERVIEWS = (".ovr", ".OVR", ".msk", ".MSK")
"""Endings of overviews and masks, which GDAL opens with any driver."""
_TABLES = (".aux", ".AUX")
"""Endings of Erdas files, which GDAL looks for georeference and overviews in; TeX calls other files so."""


def check_beside(file: Path, shown: str) -> None:
    """Refuse files beside a raster that GDAL would open, unless they are what they should be. Raises InputError."""
    for beside in _existing(Path(f"{file}{ending}") for ending in _OVERVIEWS):
        _check_lies_beside(beside, file, shown)
        if _first(beside)[:4] not in _TIFF:
            raise InputError(f"{beside}: is no GeoTIFF, so it cannot be the overviews or mask of {shown}; remove it")
        check_beside(beside, str(beside))
        check_references(beside, "GTiff", str(beside))
    places = {Path(f"{file}{ending}") for ending in _TABLES} | {file.with_suffix(ending) for ending in _TABLES}
    for beside in _existing(sorted(places - {file})):
        head = _first(beside)
        if not head.startswith(_ERDAS):
            continue
        _check_lies_beside(beside, file, shown)
        if head[: len(_ERDAS) + 1] != _ERDAS + b"\0":
            raise InputError(f"{beside}: is no Erdas file, though it begins like one beside {shown}; remove it")
        check_references(beside, "HFA", str(beside))


def check_references(file: Path, driver: str, shown: str) -> None:
    """Refuse a raster whose own tags, or those in the ``.aux.xml`` beside it, name other files to read pixels from.

    Raises InputError.
    """
    if driver == "HFA":
        erdas.check_names(file, shown)
    if driver == "GPKG":
        check_rasters(file, shown)
    if driver == "GTiff" and not _has_metadata(file):
        return
    with complaints(shown), rasterio.open(file, driver=driver) as dataset:
        named = dataset.tags(ns="OVERVIEWS")
    if named:
        other = next(iter(named.values()))[:100]
        raise InputError(
            f"{shown}: its tags (OVERVIEWS) name another file to read pixels from, {other!r}; "
            f"write it anew: gdal_translate -of COG {shown} copy.tif"
        )


def _has_metadata(file: Path) -> bool:
    """Whether a TIFF may hold metadata of GDAL, in its tag or beside it. Opening it to see takes ten times as long."""
    if is_file(Path(f"{file}.aux.xml")):
        return True
    try:
        with file.open("rb") as stream:
            return _GDAL_METADATA in first_tags(stream)
    except (OSError, struct.error):
        return True


def _existing(places: Iterator[Path] | list[Path]) -> list[Path]:
    return [place for place in places if is_file(place)]


def _first(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(64)
    except OSError as error:
        raise InputError(f"{file}: cannot be opened: {error.strerror or error}") from error


def _check_lies_beside(beside: Path, file: Path, shown: str) -> None:
    """A link may lead anywhere."""
    if beside.resolve().parent not in (file.parent.resolve(), file.resolve().parent):
        raise InputError(f"{beside}: is a link out of the folder of {shown}, which GDAL would read; remove it")
