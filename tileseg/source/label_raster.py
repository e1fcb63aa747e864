"""Rasters of class ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.formats import RasterFile, identify
from tileseg.source.gdal import open_dataset, reading
from tileseg.source.header import check_header, georeference
from tileseg.source.scene import Scene, _describe
from tileseg.storage.patience import patiently
from tileseg.storage.place import Url
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


BACKGROUND = "class_background"
"""Tag of a label band: ids of the classes that are background, with commas."""


@dataclass(frozen=True, slots=True)
class LabelRaster:
    """A raster of class ids to be vectorised; picklable."""

    scene: Scene
    """The raster as a scene of one band."""
    dtype: str
    """NumPy type of the labels that are read."""
    nodata: int | None
    """Label of pixels without data, or None where all have some."""
    colors: dict[int, str]
    """Colour (``#rrggbb``) of each class, if the raster has a colour table."""
    names: dict[int, str]
    """Name of each class, if the raster has category names."""
    background: frozenset[int] = frozenset()
    """Ids of the classes that a model's card calls background, if `tileseg run` wrote the raster."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""
        return self.scene.grid

    @property
    def path(self) -> str:
        """The file as the user named it."""
        return self.scene.path

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        """Labels (y, x) of a window inside the raster; ``nodata`` where there is no data.

        Raises InputError where an id does not fit 32 bits with a sign.
        """
        pixels, valid = self.scene.read(window)
        found = pixels[..., 0]
        most = np.iinfo(np.int32).max
        if found.dtype == np.uint32 and (found[valid] > most).any():
            raise InputError(f"{self.path}: a class id at {window} is {found[valid].max()}; expected at most {most}")
        labels = found.astype(self.dtype, copy=False)
        if self.nodata is not None and not valid.all():
            labels[~valid] = self.nodata
        return labels

    def read_confidence(self, window: Window) -> None:  # noqa: ARG002 - the same call as on a mosaic
        """A label raster knows no probabilities."""
        return


def open_labels(path: str | Path | Url, *, trust_vrt: bool = False) -> LabelRaster:
    """Describe a raster of integer class ids. Raises InputError in one line if it is none.

    A virtual raster may refer to files outside its own folder with ``trust_vrt``.
    """
    source = identify(path, trust_vrt=trust_vrt)
    return patiently(partial(_describe_labels, str(source.files[0]) if source.remote else str(path), source))


def _describe_labels(text: str, source: RasterFile) -> LabelRaster:
    with reading(text, source, None), open_dataset(source) as dataset:
        check_header(text, source, dataset)
        georeference(text, dataset, warp=False)
        native = dataset.dtypes[0]
        if np.dtype(native).kind not in "iu" or native in ("int64", "uint64"):
            raise InputError(f"{text}: its pixels are {native}; expected class ids as integers of at most 32 bits")
        data = [i for i in dataset.indexes if dataset.colorinterp[i - 1] != ColorInterp.alpha]
        if len(data) != 1:
            raise InputError(f"{text}: has {len(data)} bands; expected one band of class ids")
        colors = _colors(dataset, data[0])
        names = _category_names(dataset, data[0])
        background = dataset.tags(data[0]).get(BACKGROUND, "").split(",")
        scene = replace(
            _describe(text, source, dataset, (1, (data[0],), ()), None),
            palette=False,
            bands=(data[0],),
            dtype=native,
            notes=(),
        )
        masked = scene.alpha is not None or bool(scene.masks)
        value = dataset.nodatavals[data[0] - 1]
    limits = np.iinfo(native)
    declared = value is not None and float(value).is_integer() and limits.min <= value <= limits.max
    dtype, nodata = "int32" if native == "uint32" else native, None
    if declared and native != "uint32":
        nodata = int(value)
    elif declared or masked:
        # Every id may be in use, so the one for nodata lies outside the type (or where no class is).
        dtype = "int16" if limits.bits == 8 else "int32"
        nodata = int(np.iinfo(dtype).min)
    return LabelRaster(scene, dtype, nodata, colors, names, frozenset(int(i) for i in background if i.isdecimal()))


def _colors(dataset: DatasetReader, band: int) -> dict[int, str]:
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return {}
    return {i: f"#{r:02x}{g:02x}{b:02x}" for i, (r, g, b, _) in sorted(dataset.colormap(band).items())}


def _category_names(dataset: DatasetReader, band: int) -> dict[int, str]:
    """Names that `tileseg run` keeps in the band's tags as ``class_<id>``."""
    tags = dataset.tags(band)
    pairs = ((key.removeprefix("class_"), value) for key, value in tags.items() if key.startswith("class_"))
    return {int(key): value for key, value in pairs if key.isdecimal()}
