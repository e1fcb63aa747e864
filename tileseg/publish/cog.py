"""Labels as a Cloud-Optimised GeoTIFF: with colours, class names and overviews, for any GIS."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as Frame

from tileseg.card import ClassInfo
from tileseg.errors import TilesegError, first_line, root_of
from tileseg.grid import Grid
from tileseg.labels import NODATA, Labels, halve
from tileseg.source.label_raster import BACKGROUND
from tileseg.window import Window, tile

_TILE = 512
_PIECE = 2048
"""Pixels on a side of what is halved at a time."""
_ENV = {"GDAL_CACHEMAX": 256 << 20, "GDAL_PAM_ENABLED": True}

# A scene without coordinates is not worth a warning from GDAL: the run has said so.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def write_label_cog(
    path: Path,
    grid: Grid,
    classes: Sequence[ClassInfo],
    read: Callable[[Window], Labels],
    blocks: Iterable[Window],
    *,
    threads: int = 1,
) -> None:
    """Write labels as a Cloud-Optimised GeoTIFF, and their class names beside it (``.aux.xml``).

    ``read`` is asked for the labels (y, x) of each of ``blocks`` once, in their order; pixels in none of them are
    nodata (255). Overviews hold the most frequent label of every 2 x 2 pixels, as the mosaic's pyramid does. Both
    files appear under their names when they are complete, and the same labels give the same bytes. Memory does not
    depend on the size; on disk, the labels lie there twice while it works. ``threads``: how many compress. Raises
    TilesegError if it cannot be written.
    """
    # Absolute: GDAL reads a colon in a relative path as its own notation for a part of a file.
    scratch = path.absolute().with_name(f".{path.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        with rasterio.Env(**_ENV):
            levels = [_stage(scratch / "0.tif", grid, read, blocks, threads)]
            while max(levels[-1].height, levels[-1].width) > _TILE:
                levels.append(_halve(scratch, len(levels), levels[-1], threads))
            (scratch / "labels.vrt").write_bytes(_describe(grid, classes, levels))
            done = scratch / path.name
            rasterio.shutil.copy(
                scratch / "labels.vrt",
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
        _limit_legend(Path(f"{done}.aux.xml"), classes)
        for suffix in (".aux.xml", ""):
            Path(f"{done}{suffix}").replace(f"{path}{suffix}")
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise TilesegError(f"{path}: cannot be written: {first_line(root_of(error))}; is the disk full?") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _stage(file: Path, grid: Grid, read: Callable[[Window], Labels], blocks: Iterable[Window], threads: int) -> Grid:
    """Write all labels into a plain tiled file."""
    with rasterio.open(file, "w", **_plain(grid, threads)) as raster:
        for block in blocks:
            raster.write(read(block), 1, window=Frame(block.col_off, block.row_off, block.width, block.height))
    return grid


def _halve(scratch: Path, level: int, finer: Grid, threads: int) -> Grid:
    """Write one overview from the level below it."""
    grid = finer.overview(2)
    with (
        rasterio.open(scratch / f"{level - 1}.tif") as source,
        rasterio.open(scratch / f"{level}.tif", "w", **_plain(grid, threads)) as target,
    ):
        for piece in tile(finer.extent, _PIECE, _PIECE):
            labels = source.read(1, window=Frame(piece.col_off, piece.row_off, piece.width, piece.height))
            half = halve(labels)
            target.write(half, 1, window=Frame(piece.col_off // 2, piece.row_off // 2, half.shape[1], half.shape[0]))
    return grid


def _plain(grid: Grid, threads: int) -> dict[str, object]:
    """How the files are stored that are only read again: fast, and small where labels are uniform."""
    return {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": 1, "dtype": "uint8", "nodata": NODATA,
        "tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "bigtiff": "IF_SAFER", "sparse_ok": True,
        "compress": "zstd", "zstd_level": 1, "num_threads": threads,
    }  # fmt: skip


def _describe(grid: Grid, classes: Sequence[ClassInfo], levels: Sequence[Grid]) -> bytes:
    """A virtual raster that ties the levels, the colours and the names together, to be copied in one go."""
    root = ET.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs_wkt is not None:
        ET.SubElement(root, "SRS").text = grid.crs_wkt
    if grid.transform != Affine.identity():
        ET.SubElement(root, "GeoTransform").text = ", ".join(repr(v) for v in grid.transform.to_gdal())
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    tags = ET.SubElement(band, "Metadata")
    for i, info in enumerate(classes):
        ET.SubElement(tags, "MDI", key=f"class_{i}").text = info.name
    # GDAL knows no background; who vectorises this file is to leave out what a run does.
    ET.SubElement(tags, "MDI", key=BACKGROUND).text = ",".join(str(i) for i, c in enumerate(classes) if c.background)
    ET.SubElement(band, "NoDataValue").text = str(NODATA)
    ET.SubElement(band, "ColorInterp").text = "Palette"
    names = ET.SubElement(band, "CategoryNames")
    for info in classes:
        ET.SubElement(names, "Category").text = info.name
    band.append(_color_table(classes))
    for level in range(len(levels)):
        source = ET.SubElement(band, "Overview" if level else "SimpleSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = f"{level}.tif"
        ET.SubElement(source, "SourceBand").text = "1"
    return ET.tostring(root)


def _limit_legend(sidecar: Path, classes: Sequence[ClassInfo]) -> None:
    """Put a colour table of the classes alone beside the file, where GDAL looks first.

    TIFF's own has an entry for each of 256 values, and QGIS would list them all in its legend.
    """
    tree = ET.parse(sidecar)  # noqa: S314 - GDAL has just written it
    band = tree.getroot().find("PAMRasterBand")
    assert band is not None
    ET.SubElement(band, "ColorInterp").text = "Palette"
    band.append(_color_table(classes))
    tree.write(sidecar, encoding="utf-8")


def _color_table(classes: Sequence[ClassInfo]) -> ET.Element:
    table = ET.Element("ColorTable")
    for info in classes:
        red, green, blue = bytes.fromhex(info.color.removeprefix("#"))
        ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    return table


def _check(file: Path, grid: Grid) -> None:
    """GDAL does not report what goes wrong when it closes a file, so look whether the ends are there."""
    with rasterio.open(file) as raster:
        for row, col in ((0, 0), (grid.height - 1, grid.width - 1)):
            raster.read(1, window=Frame(col, row, 1, 1))
