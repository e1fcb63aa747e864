"""Bands of bytes as Cloud-Optimised GeoTIFFs with overviews, for any GIS, out of core."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as Frame

from tileseg.errors import TilesegError, first_line, root_of
from tileseg.grid import Grid
from tileseg.labels import NODATA
from tileseg.publish.qgis import write_style
from tileseg.window import Window, tile

_TILE = 512
_PIECE = 2048
"""Pixels on a side of what is halved at a time."""
_ENV = {"GDAL_CACHEMAX": 256 << 20, "GDAL_PAM_ENABLED": True}

Bytes = npt.NDArray[np.uint8]

# A scene without coordinates is not worth a warning from GDAL: the run has said so.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


class Meaning(Protocol):
    """What the bytes of a band mean: how they are described, and how four pixels become one of an overview."""

    def describe(self, band: ET.Element) -> None:
        """Add to the band of a virtual raster what it says of its values, beside nodata (255)."""

    def halve(self, values: Bytes) -> Bytes:
        """Bytes (y, x) at half the size, (ceil(y / 2), ceil(x / 2)), 255 where there are none."""

    def finish(self, file: Path) -> None:
        """Put beside the finished file what GDAL does not."""

    def style(self) -> str:
        """How QGIS is to show it: what it looks for beside the file (``.qml``)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file that is wanted."""

    path: Path
    meaning: Meaning


def write_cogs(
    layers: Sequence[Layer],
    grid: Grid,
    read: Callable[[Window], Sequence[Bytes]],
    blocks: Iterable[Window],
    *,
    threads: int = 1,
) -> None:
    """Write layers on one grid as Cloud-Optimised GeoTIFFs of bytes, a file each.

    ``read`` is asked for the bytes (y, x) of all layers for each of ``blocks`` once, in their order; pixels in none of
    them are nodata (255). A file, and what GDAL and QGIS look for beside it (``.aux.xml``, ``.qml``), appears under its
    name when it is complete, and the same bytes give the same file. Memory does not depend on the size; on disk, the
    layers lie there twice while it works. ``threads``: how many compress. Raises TilesegError if one cannot be written.
    """
    # Absolute: GDAL reads a colon in a relative path as its own notation for a part of a file.
    scratches = [layer.path.absolute().with_name(f".{layer.path.name}.partial") for layer in layers]
    path = layers[0].path
    try:
        for scratch in scratches:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        with rasterio.Env(**_ENV):
            _stage(scratches, grid, read, blocks, threads)
            for layer, scratch in zip(layers, scratches, strict=True):
                path = layer.path
                _finish(layer, scratch, grid, threads)
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise TilesegError(f"{path}: cannot be written: {first_line(root_of(error))}; is the disk full?") from error
    finally:
        for scratch in scratches:
            shutil.rmtree(scratch, ignore_errors=True)


def _stage(
    scratches: Sequence[Path],
    grid: Grid,
    read: Callable[[Window], Sequence[Bytes]],
    blocks: Iterable[Window],
    threads: int,
) -> None:
    """Write each layer into a plain tiled file."""
    with ExitStack() as stack:
        rasters = [
            stack.enter_context(rasterio.open(scratch / "0.tif", "w", **_plain(grid, threads))) for scratch in scratches
        ]
        for block in blocks:
            frame = Frame(block.col_off, block.row_off, block.width, block.height)
            for raster, values in zip(rasters, read(block), strict=True):
                raster.write(values, 1, window=frame)


def _finish(layer: Layer, scratch: Path, grid: Grid, threads: int) -> None:
    """Make the file of what was staged, and move it to its name."""
    levels = [grid]
    while max(levels[-1].height, levels[-1].width) > _TILE:
        levels.append(_halve(scratch, len(levels), levels[-1], layer.meaning, threads))
    (scratch / "levels.vrt").write_bytes(_describe(layer.meaning, levels))
    done = scratch / layer.path.name
    rasterio.shutil.copy(
        scratch / "levels.vrt",
        done,
        driver="COG",
        COMPRESS="DEFLATE",  # every GIS opens it; ZSTD is smaller and faster, but not everywhere
        LEVEL=3,  # half the time of the default, for a fifth more bytes
        BLOCKSIZE=_TILE,
        BIGTIFF="IF_SAFER",
        NUM_THREADS=threads,
        OVERVIEWS="FORCE_USE_EXISTING" if len(levels) > 1 else "NONE",
    )
    _check(done, grid)
    layer.meaning.finish(done)
    write_style(layer.path, layer.meaning.style())
    for suffix in (".aux.xml", ""):
        if (written := Path(f"{done}{suffix}")).exists():
            written.replace(f"{layer.path}{suffix}")


def _halve(scratch: Path, level: int, finer: Grid, meaning: Meaning, threads: int) -> Grid:
    """Write one overview from the level below it."""
    grid = finer.overview(2)
    with (
        rasterio.open(scratch / f"{level - 1}.tif") as source,
        rasterio.open(scratch / f"{level}.tif", "w", **_plain(grid, threads)) as target,
    ):
        for piece in tile(finer.extent, _PIECE, _PIECE):
            values = source.read(1, window=Frame(piece.col_off, piece.row_off, piece.width, piece.height))
            half = meaning.halve(values)
            target.write(half, 1, window=Frame(piece.col_off // 2, piece.row_off // 2, half.shape[1], half.shape[0]))
    return grid


def _plain(grid: Grid, threads: int) -> dict[str, object]:
    """How the files are stored that are only read again: fast, and small where values are uniform."""
    return {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": 1, "dtype": "uint8", "nodata": NODATA,
        "tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "bigtiff": "IF_SAFER", "sparse_ok": True,
        "compress": "zstd", "zstd_level": 1, "num_threads": threads,
    }  # fmt: skip


def _describe(meaning: Meaning, levels: Sequence[Grid]) -> bytes:
    """A virtual raster that ties the levels and what they mean together, to be copied in one go."""
    grid = levels[0]
    root = ET.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs_wkt is not None:
        ET.SubElement(root, "SRS").text = grid.crs_wkt
    if grid.transform != Affine.identity():
        ET.SubElement(root, "GeoTransform").text = ", ".join(repr(v) for v in grid.transform.to_gdal())
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    ET.SubElement(band, "NoDataValue").text = str(NODATA)
    meaning.describe(band)
    for level in range(len(levels)):
        source = ET.SubElement(band, "Overview" if level else "SimpleSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = f"{level}.tif"
        ET.SubElement(source, "SourceBand").text = "1"
    return ET.tostring(root)


def _check(file: Path, grid: Grid) -> None:
    """GDAL does not report what goes wrong when it closes a file, so look whether the ends are there."""
    with rasterio.open(file) as raster:
        for row, col in ((0, 0), (grid.height - 1, grid.width - 1)):
            raster.read(1, window=Frame(col, row, 1, 1))
