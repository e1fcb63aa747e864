"""Tile indexes: vector files whose features name the rasters that lie there, as gdaltindex writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from tileseg.errors import InputError, first_line
from tileseg.source.text_list import beside
from tileseg.source.vector_file import name_to_read
from tileseg.storage.local import is_file

_PARQUET = (".parquet", ".geoparquet")
_VECTORS = (".gpkg", ".fgb", ".shp", *_PARQUET)
"""Endings of vector files; of GeoPackages those without raster tiles."""
_LOCATIONS = ("location", "path", "filename", "file", "scene")
"""What an index may call its column of files."""
_MOMENTS = ("datetime", "date", "taken", "time", "timestamp", "acquired")
"""What it may call that of when they were taken."""
_GTI = b"<GDALTileIndexDataset"
_LARGEST = 1 << 20
"""Bytes of the XML that describes an index."""
_SERVERS = {"/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://", "/vsicurl/": ""}
"""GDAL's names for files on servers -> addresses."""


def is_tile_index(path: Path) -> bool:
    """Whether a file is a vector file, or a description of one that GDAL calls a tile index (GTI)."""
    from tileseg.source.search import is_index

    ending = path.suffix.lower()
    if ending in (".gti", ".xml"):
        with path.open("rb") as stream:
            return stream.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_GTI)
    return ending in _VECTORS and (ending != ".gpkg" or is_index(path))


def indexed_in(path: Path) -> Iterator[tuple[str, float | None]]:
    """Files that an index names, relative to it, in the order of its features, and when they were taken.

    Raises InputError where it is none that can be read.
    """
    if path.suffix.lower() in (".gti", ".xml"):
        path, layer, location = _described(path)
    else:
        layer, location = None, None
    columns = _parquet(path) if path.suffix.lower() in _PARQUET else _vector(path, layer)
    names = _LOCATIONS if location is None else (location,)
    places = _column(columns, names)
    if places is None:
        raise InputError(
            f"{path}: holds no pixels and names no rasters: expected a tile index, as gdaltindex writes it, with a "
            f"column {' or '.join(names)}; found {', '.join(columns) or 'no columns'}"
        )
    moments = _column(columns, _MOMENTS)
    for index, place in enumerate(places):
        if place is not None and str(place).strip():
            taken = None if moments is None else _seconds(moments[index])
            yield beside(path, _address(str(place).strip())), taken


def _address(name: str) -> str:
    start = next((start for start in _SERVERS if name.startswith(start)), None)
    return name if start is None else _SERVERS[start] + name.removeprefix(start)


def _described(path: Path) -> tuple[Path, str | None, str | None]:
    """Index, layer and column of GDAL's description of a tile index."""
    text = path.read_bytes()
    if len(text) > _LARGEST or b"<!" in text:
        raise InputError(f"{path}: is no description of a tile index that tileseg reads: it is too long, or has a DTD")
    try:
        root = ET.fromstring(text)  # noqa: S314 - without a DTD, and short
    except ET.ParseError as error:
        raise InputError(f"{path}: is no XML: {error}") from error
    known = {"IndexDataset", "IndexLayer", "LocationField"}
    if strange := [child.tag for child in root if child.tag not in known]:
        raise InputError(
            f"{path}: its <{strange[0]}> is not understood; expected {', '.join(sorted(known))}; grids and order are "
            "said with --crs, --resolution and --on-top"
        )
    index, layer, location = (root.findtext(name) for name in ("IndexDataset", "IndexLayer", "LocationField"))
    if not index or not is_file(target := path.parent / index):
        raise InputError(f"{path}: refers to {index!r}, which is no file beside it")
    return target, layer, location


def _vector(path: Path, layer: str | None) -> dict[str, Sequence[Any]]:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with name_to_read(path) as name:
            meta, _, _, values = pyogrio.raw.read(name, layer=layer, read_geometry=False)
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise InputError(f"{path}: holds no pixels, and is no tile index: {first_line(error)}") from error
    return dict(zip((str(field) for field in meta["fields"]), values, strict=True))


def _parquet(path: Path) -> dict[str, Sequence[Any]]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    wanted = {*_LOCATIONS, *_MOMENTS}
    try:
        with ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name.lower() in wanted]
            table = file.read(columns=names)
    except (ArrowInvalid, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as GeoParquet: {first_line(error)}") from error
    return {name: table.column(name).to_pylist() for name in names}


def _column(columns: dict[str, Sequence[Any]], names: Sequence[str]) -> Sequence[Any] | None:
    by_fold = {name.casefold(): values for name, values in columns.items()}
    return next((by_fold[name.casefold()] for name in names if name.casefold() in by_fold), None)


def _seconds(moment: Any) -> float | None:
    """Seconds since 1970 of a moment of any type that indexes have; None where it is none."""
    if isinstance(moment, np.datetime64):
        return None if np.isnat(moment) else float(moment.astype("datetime64[ms]").astype(np.int64)) / 1000
    try:
        found = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment).replace("/", "-"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
