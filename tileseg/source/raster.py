"""Scenes that GDAL reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from rasterio.enums import MaskFlags

from tileseg.errors import UsageError
from tileseg.grid import Grid
from tileseg.source.bands import alpha_bands, choose_bands
from tileseg.source.formats import RasterFile, identify
from tileseg.source.gdal import grid_of, identity_of, open_dataset, read_pixels, reading, warped
from tileseg.source.header import READ_AS_THEY_ARE, check_header, georeference, hidden_share, numpy_name, probe
from tileseg.source.orientation import UPRIGHT, orientation_of, turned_size
from tileseg.source.protocol import Mask, Pixels, ReadRequest
from tileseg.storage.patience import patiently
from tileseg.storage.place import Named
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MUCH = 0.25
"""Share of a scene that is worth a note when an alpha band hides it."""


@dataclass(frozen=True, slots=True)
class RasterScene:
    """A raster that GDAL reads: a :class:`tileseg.source.protocol.PixelSource`.

    Every thread opens the file for itself when it first reads.
    """

    path: str
    """The file as the user named it."""
    file: RasterFile
    """What is opened, and by which driver."""
    grid: Grid
    """Where its pixels lie."""
    bands: tuple[int, ...]
    """Bands to be read, in the order of the network's input; the first is 1. (1, 1, 1) if colours are expanded."""
    dtype: str
    """NumPy type of the pixels that are read: the file's own, or float32 for types of 32 bits and more."""
    nodata: tuple[float | None, ...]
    """Value of pixels without data, for each of ``bands``."""
    alpha: int | None
    """Band that says where there is data (not 0)."""
    masks: tuple[int, ...]
    """Bands whose mask is kept beside the pixels; one of them stands for all when they share it."""
    palette: bool
    """The file stores numbers of colours; they are read as red, green, blue."""
    block: tuple[int, int]
    """(rows, columns) of a stored tile or strip: windows along it are read fastest."""
    identity: str
    """Digest of size, time of change, dimensions, type and georeference: another one means that the file changed."""
    warp_to: str | None = None
    """Coordinate reference system into which a scene with ground control points is warped as it is read."""
    orientation: int = UPRIGHT
    """How the stored picture is turned as it is read: Exif's numbers, 1 for not at all."""
    scales: tuple[float, ...] = ()
    """What the file says that numbers of each of ``bands`` are to be multiplied by; none: nothing."""
    offsets: tuple[float, ...] = ()
    """And what is to be added then."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read, one line each."""

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x).

        Pixels without data get ``fill``, one value per band, if given. Raises InputError, naming the window, where
        the file cannot be read.
        """
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")
        pixels, valid = read_pixels(self, window, (window.height, window.width))
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""
        # Every stored tile is looked at once: none is worth keeping, but for the row of them at hand.
        return read_pixels(self, window, shape, cache=64 << 20)

    @property
    def storage(self) -> str:
        """What GDAL is asked to open."""
        return self.file.name

    @property
    def has_gaps(self) -> bool:
        """Whether pixels without data may occur; False: never."""
        marked = any(value is not None for value in self.nodata) or bool(self.masks) or self.alpha is not None
        return marked or self.palette or np.dtype(self.dtype).kind == "f" or self.warp_to is not None


def open_raster(path: Named, wanted: ReadRequest) -> RasterScene:
    """Describe a raster that GDAL reads. Raises InputError or UsageError in one line for whatever cannot be used."""
    file = identify(path, trust_vrt=wanted.trust_vrt)
    text = str(file.files[0]) if file.remote else str(path)

    def look() -> RasterScene:
        with reading(text, file, None), open_dataset(file) as dataset:
            check_header(text, file, dataset)
            target = georeference(text, dataset, wanted.warp, wanted.words.warp)
            if target is None:
                return describe(text, file, dataset, wanted)
            hiding = set(choose_bands(text, dataset, wanted).bands) & set(alpha_bands(dataset))
            if hiding:
                raise UsageError(
                    f"{text}: its band {min(hiding)} is called alpha, so it cannot be warped as data; first: "
                    f"gdal_translate -colorinterp_{min(hiding)} undefined {text} copy.tif"
                )
            with warped(dataset, target) as on_grid:
                return describe(text, file, on_grid, wanted, target)

    return patiently(look)


def describe(
    text: str, file: RasterFile, dataset: DatasetReader, wanted: ReadRequest, warp_to: str | None = None
) -> RasterScene:
    """What is to be known of an open raster. Raises InputError or UsageError in one line."""
    choice = choose_bands(text, dataset, wanted)
    bands, notes = choice.bands, choice.notes
    if warp_to is not None:
        notes = (*notes, f"warped into {dataset.crs.to_string()[:40]} as it is read")
    # A band that is read as data hides nothing, whatever the file calls it.
    alpha = next((band for band in alpha_bands(dataset) if band not in bands), None)
    flags = [dataset.mask_flag_enums[band - 1] for band in bands]
    masks: tuple[int, ...] = ()
    if alpha is None:
        if any(MaskFlags.per_dataset in flag and MaskFlags.alpha not in flag for flag in flags):
            masks = (bands[0],)
        else:
            masks = tuple(sorted({band for band, flag in zip(bands, flags, strict=True) if not flag}))
    # A mask kept beside the pixels is the better witness: lossy compression changes nodata values.
    nodata = tuple(None if masks else dataset.nodatavals[band - 1] for band in bands)
    native = {numpy_name(dataset.dtypes[band - 1]) for band in bands}
    dtype = native.pop() if len(native) == 1 and native <= {*READ_AS_THEY_ARE} else "float32"
    probe(text, file, dataset, bands)
    if alpha is not None and warp_to is None and (share := hidden_share(dataset, alpha)) >= _MUCH:
        data = f"; if it is data, choose it with {wanted.words.option}" if dataset.count > 2 else ""
        notes = (*notes, f"its band {alpha}, which it calls alpha, hides about {round(share * 20) * 5} % of it{data}")
    if dataset.crs is None and grid_of(file, dataset).crs_wkt is not None:
        notes = (*notes, "its coordinate reference system is that of the .prj beside it")
    on_disk = file.files[0] if isinstance(file.files[0], Path) else None
    orientation = UPRIGHT if warp_to else orientation_of(on_disk, dataset)
    grid = grid_of(file, dataset)
    if orientation != UPRIGHT:
        notes = (*notes, f"turned as it is to be shown (its orientation is {orientation})")
        grid = Grid(*turned_size(orientation, grid.height, grid.width), Affine.identity())
    return RasterScene(
        path=text,
        file=file,
        grid=grid,
        bands=bands,
        dtype="uint8" if choice.palette else dtype,
        nodata=nodata,
        alpha=alpha,
        masks=masks,
        palette=choice.palette,
        block=tuple(dataset.block_shapes[bands[0] - 1]),
        identity=identity_of(file, dataset),
        warp_to=warp_to,
        orientation=orientation,
        scales=tuple(dataset.scales[band - 1] for band in bands),
        offsets=tuple(dataset.offsets[band - 1] for band in bands),
        notes=notes,
    )
