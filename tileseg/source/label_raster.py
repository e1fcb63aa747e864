"""Rasters of class ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.bands import alpha_bands
from tileseg.source.formats import RasterFile, identify
from tileseg.source.gdal import open_dataset, reading
from tileseg.source.header import check_header, georeference
from tileseg.source.protocol import PixelSource, ReadRequest, Words
from tileseg.source.raster import RasterScene, describe
from tileseg.source.scene import RASTERS, opener_of
from tileseg.storage.patience import patiently
from tileseg.storage.place import Url
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


BACKGROUND = "class_background"
"""Tag of a label band: ids of the classes that are background, with commas."""


_OF_LABELS = Words(taker="labels have", remedy="expected one band of class ids", warp=None)

_FITTING = ("uint8", "int8", "uint16", "int16", "int32")
"""Types whose values are all class ids."""


@dataclass(frozen=True, slots=True)
class LabelRaster:
    """A raster of class ids to be vectorised; picklable."""

    scene: PixelSource
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

        Raises InputError where an id does not fit 32 bits with a sign, or is no whole number.
        """
        pixels, valid = self.scene.read(window)
        found = pixels[..., 0]
        if found.dtype not in _FITTING:
            self._check(found[valid], window)
            found = np.where(valid, found, 0)
        labels = found.astype(self.dtype, copy=False)
        if self.nodata is not None and not valid.all():
            labels[~valid] = self.nodata
        return labels

    def with_nodata_as_label(self) -> LabelRaster:
        """The same with the value that the file calls nodata as a label like any other.

        What alpha or a mask hides, and NaN, stay without data, and get a label that is none of the raster's own.
        """
        if not isinstance(self.scene, RasterScene):
            return self
        scene = replace(self.scene, nodata=(None,))
        if scene.alpha is None and not scene.masks and np.dtype(scene.dtype).kind != "f":
            return replace(self, scene=scene, nodata=None)
        dtype, nodata = _outside(self.dtype)
        return replace(self, scene=scene, dtype=dtype, nodata=nodata)

    def _check(self, values: npt.NDArray[Any], window: Window) -> None:
        """Refuse values that are no class ids: with a fraction, or too large."""
        if values.dtype.kind == "f" and (broken := values[np.floor(values) != values]).size:
            raise InputError(
                f"{self.path}: a pixel at {window} is {broken[0]:g}; expected class ids as whole numbers; if these are "
                'probabilities or heights, make classes of them first: gdal_calc -A in.tif --calc="A>0.5" '
                "--type=Byte --outfile=labels.tif"
            )
        limits = np.iinfo(np.int32)
        if (outside := values[(values < limits.min) | (values > limits.max)]).size:
            raise InputError(
                f"{self.path}: a class id at {window} is {outside.max():.0f}; expected at most {limits.max}; if it "
                f"stands for no data, say so: gdal_translate -a_nodata {outside.max():.0f} {self.path} copy.tif"
            )

    def read_disagreement(self, window: Window) -> None:
        """Nothing: nobody knows how often the scene was looked at."""

    def read_confidence(self, window: Window) -> None:  # noqa: ARG002 - the same call as on a mosaic
        """A label raster knows no probabilities."""
        return


def open_labels(path: str | Path | Url, *, trust_vrt: bool = False) -> LabelRaster:
    """Describe a raster of integer class ids, of any kind of source. Raises InputError in one line if it is none.

    A virtual raster may refer to files outside its own folder with ``trust_vrt``.
    """
    opener = opener_of(path)
    if opener is not RASTERS:
        scene = opener.open(path, ReadRequest(1, trust_vrt=trust_vrt, words=_OF_LABELS))
        dtype, nodata = _type_of(scene.dtype, None, masked=scene.has_gaps)
        return LabelRaster(scene, dtype, nodata, {}, {})
    source = identify(path, trust_vrt=trust_vrt)
    return patiently(partial(_describe_labels, str(source.files[0]) if source.remote else str(path), source))


def _describe_labels(text: str, source: RasterFile) -> LabelRaster:
    with reading(text, source, None), open_dataset(source) as dataset:
        check_header(text, source, dataset)
        georeference(text, dataset, warp=False, option=None)
        data = [i for i in dataset.indexes if i not in alpha_bands(dataset)]
        if len(data) != 1:
            raise InputError(
                f"{text}: has {len(data)} bands; expected one band of class ids; take out the one that holds them: "
                "gdal_translate -b 1 in.tif labels.tif"
            )
        native = dataset.dtypes[data[0] - 1]
        colors = _colors(dataset, data[0])
        names = _category_names(dataset, data[0])
        background = dataset.tags(data[0]).get(BACKGROUND, "").split(",")
        scene = replace(
            describe(text, source, dataset, ReadRequest(1, (data[0],))), palette=False, bands=(data[0],), dtype=native
        )
        masked = scene.alpha is not None or bool(scene.masks)
        value = dataset.nodatavals[data[0] - 1]
    dtype, nodata = _type_of(native, value, masked=masked)
    return LabelRaster(scene, dtype, nodata, colors, names, frozenset(int(i) for i in background if i.isdecimal()))


def _type_of(native: str, value: float | None, *, masked: bool) -> tuple[str, int | None]:
    """The type that labels are read as, and the label of pixels without data. ``value``: what the file declares."""
    read = native if native in _FITTING else "int32"
    limits = np.iinfo(read)
    if value is not None and float(value).is_integer() and limits.min <= value <= limits.max:
        return read, int(value)
    if not masked and np.dtype(native).kind != "f" and (read == native or value is None):
        return read, None
    return _outside(read)


def _outside(native: str) -> tuple[str, int]:
    """A type and a label for pixels without data. Every id may be in use, so that lies outside the type of the ids.

    (Of 32 bits: where no class is.)
    """
    dtype = "int16" if np.iinfo(native).bits == 8 else "int32"
    return dtype, int(np.iinfo(dtype).min)


def _colors(dataset: DatasetReader, band: int) -> dict[int, str]:
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return {}
    return {i: f"#{r:02x}{g:02x}{b:02x}" for i, (r, g, b, _) in sorted(dataset.colormap(band).items())}


def _category_names(dataset: DatasetReader, band: int) -> dict[int, str]:
    """Names that `tileseg run` keeps in the band's tags as ``class_<id>``."""
    tags = dataset.tags(band)
    pairs = ((key.removeprefix("class_"), value) for key, value in tags.items() if key.startswith("class_"))
    return {int(key): value for key, value in pairs if key.isdecimal()}
