"""What a raster's header must say before its pixels are read: sizes that can be, types, a place on the ground."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import rasterio.windows
from affine import Affine
from rasterio.crs import CRS

from tileseg.errors import InputError
from tileseg.source.formats import RasterFile

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


LARGEST_BLOCK = 256 << 20
"""Bytes of one decoded tile or strip: GDAL holds a whole one in memory to give a single pixel of it."""

MOST_PIXELS = 10**12
"""More in one scene are taken for a damaged header."""

_PIXELS_PER_BYTE = 1 << 20
"""More in a file are taken for a damaged header: a sparse tile of 2048 x 2048 still costs 16 bytes of index."""

_SAMPLES, _SAMPLE = 6, 32
"""Windows along rows and columns in which alpha is looked at, and their side in pixels."""

READ_AS_THEY_ARE = ("uint8", "int8", "uint16", "int16", "float32")
"""Types of pixels that are not converted as they are read."""

_OTHER_TYPES = ("uint32", "int32", "uint64", "int64", "float16", "float64")


def check_header(text: str, source: RasterFile, dataset: DatasetReader) -> None:
    """Refuse what would fail, or take all memory, as soon as a pixel is read."""
    if dataset.subdatasets and not source.name.startswith(("GTIFF_DIR:", "GPKG:")):
        # rasterio prefixes nothing; the names can be given to tileseg as they are.
        choice = ", ".join(dataset.subdatasets[:6]) + (", ..." if len(dataset.subdatasets) > 6 else "")
        raise InputError(f"{text}: holds {len(dataset.subdatasets)} rasters; name one of them instead: {choice}")
    if dataset.count == 0 or dataset.width < 1 or dataset.height < 1:
        raise InputError(
            f"{text}: has no pixels ({dataset.count} bands of {dataset.width} x {dataset.height}); expected an image"
        )
    if any(np.dtype(numpy_name(dtype)).kind == "c" for dtype in dataset.dtypes):
        raise InputError(
            f"{text}: its pixels are complex numbers ({dataset.dtypes[0]}); convert them to an intensity first"
        )
    unknown = {numpy_name(dtype) for dtype in dataset.dtypes} - {*READ_AS_THEY_ARE, *_OTHER_TYPES}
    if unknown:
        raise InputError(f"{text}: its pixels are {', '.join(sorted(unknown))}, which tileseg does not read")
    pixels = dataset.width * dataset.height
    size = sum(stamp[0] for stamp in source.stamps().values())
    if pixels > MOST_PIXELS or (source.driver != "VRT" and pixels > max(256, size) * _PIXELS_PER_BYTE):
        raise InputError(
            f"{text}: claims {dataset.width} x {dataset.height} pixels in {size:,} bytes; its header must be damaged"
        )
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL" else 1
    held = rows * cols * together * np.dtype(dataset.dtypes[0]).itemsize
    if held > LARGEST_BLOCK:
        raise InputError(
            f"{text}: is stored in pieces of {cols} x {rows} pixels x {together} bands, {held >> 20} MiB each; "
            f"expected at most {LARGEST_BLOCK >> 20} MiB; rewrite it: gdal_translate -co TILED=YES {text} tiled.tif"
        )


def numpy_name(dtype: str) -> str:
    """The name of a pixel type in NumPy: rasterio knows complex ones that NumPy does not."""
    return "complex64" if dtype.startswith("complex") else dtype


def georeference(text: str, dataset: DatasetReader, warp: bool, option: str | None) -> str | None:
    """Check that pixels lie on a regular grid; otherwise say how to get one, or the system to warp into.

    ``option``: what the user can say to have it warped, if anything.
    """
    points, points_crs = dataset.gcps
    has_grid = dataset.transform != Affine.identity()
    rpcs = dataset.tags(ns="RPC")
    geolocation = bool(dataset.tags(ns="GEOLOCATION"))
    if not has_grid and (points or rpcs or geolocation):
        kind, way = ("RPCs", "-rpc") if not points and rpcs else ("ground control points", "-tps")
        if geolocation and not points:
            kind, way = "a geolocation array", "-geoloc"
        if not warp or way == "-geoloc":
            here = f"{option} reads it through a warp into UTM, or " if option and way != "-geoloc" else ""
            raise InputError(
                f"{text}: is tied to the ground by {kind} only, so its pixels lie on no grid; "
                f"{here}warp it first: gdalwarp {way} -r bilinear -t_srs EPSG:<code> {text} warped.tif"
            )
        if points and points_crs is not None and points_crs.is_projected:
            return str(points_crs.to_wkt())
        if points:
            lon, lat = np.mean([(p.x, p.y) for p in points], axis=0)
        else:
            lon, lat = (_number_of(text, rpcs, name) for name in ("LONG_OFF", "LAT_OFF"))
        if not (math.isfinite(lon) and abs(lat) <= 90):
            raise InputError(f"{text}: its {kind} are damaged: they lie at longitude {lon}, latitude {lat}")
        zone = int((lon + 180) // 6) % 60 + 1
        return str(CRS.from_epsg((32600 if lat >= 0 else 32700) + zone).to_wkt())
    numbers = tuple(dataset.transform)[:6]
    if not all(map(math.isfinite, numbers)) or dataset.transform.is_degenerate:
        raise InputError(f"{text}: its georeference maps all pixels onto a line or nowhere: {numbers}")
    return None


def _number_of(text: str, rpcs: Mapping[str, str], name: str) -> float:
    """One of the RPCs. rasterio would read all of them as numbers; some files have words among them, such as paths."""
    try:
        return float(rpcs[name].split()[0])
    except (KeyError, ValueError, IndexError):
        found = f"is {rpcs[name]!r}" if name in rpcs else "is missing"
        raise InputError(f"{text}: its RPCs are damaged: {name} {found}; expected a number of degrees") from None


def probe(text: str, source: RasterFile, dataset: DatasetReader, bands: tuple[int, ...]) -> None:
    """See that the file is as long as its last tile needs, and read one pixel: a truncated one is refused at once."""
    if dataset.driver == "GTiff":
        _check_length(text, source, dataset, bands[-1])
    dataset.read(list(bands), window=rasterio.windows.Window(0, 0, 1, 1))


def _check_length(text: str, source: RasterFile, dataset: DatasetReader, band: int) -> None:
    rows, cols = dataset.block_shapes[0]
    last = f"{(dataset.width - 1) // cols}_{(dataset.height - 1) // rows}"
    start, length = (dataset.get_tag_item(f"BLOCK_{what}_{last}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE"))
    size = source.stamps()[source.files[0]][0]
    if start and length and int(start) + int(length) > size:
        raise InputError(
            f"{text}: is truncated: its last pixels should end at byte {int(start) + int(length):,}, but the file has "
            f"{size:,} bytes; copy or download it again"
        )


def hidden_share(dataset: DatasetReader, alpha: int) -> float:
    """Share of pixels that a band hides, by being 0 there: about, from windows that are spread evenly."""
    hidden = total = 0
    for row in range(_SAMPLES):
        for col in range(_SAMPLES):
            top, left = (
                max(0, min((2 * i + 1) * size // (2 * _SAMPLES) - _SAMPLE // 2, size - _SAMPLE))
                for i, size in ((row, dataset.height), (col, dataset.width))
            )
            frame = rasterio.windows.Window(
                left, top, min(_SAMPLE, dataset.width - left), min(_SAMPLE, dataset.height - top)
            )
            values = dataset.read(alpha, window=frame)
            hidden, total = hidden + int((values == 0).sum()), total + values.size
    return hidden / total
