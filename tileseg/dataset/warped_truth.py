"""Labels of rasters on another grid than the scene's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import rasterio.windows
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from tileseg.dataset.raster_truth import Values
from tileseg.dataset.spec import IGNORE
from tileseg.dataset.vector_truth import _LOCAL
from tileseg.errors import InputError, first_line
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.source.label_raster import LabelRaster
from tileseg.window import Window

_OPEN_FILES = 32


@dataclass(frozen=True, slots=True)
class WarpedTruth:
    """A raster on another grid: warped to the target grid as it is read."""

    raster: LabelRaster
    values: Values
    grid: Grid
    finer: bool
    """Whether its pixels are smaller than the target's: then the most frequent label is taken, else the nearest."""

    def read(self, window: Window) -> Labels:
        """Labels of a window of the target grid; IGNORE outside the raster."""
        frame = rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height)
        with _reading(self.raster.path):
            values, alpha = _warped(self).read(window=frame)
        labels = np.full(values.shape, IGNORE, np.uint8)
        inside = alpha > 0
        if inside.any():
            labels[inside] = self.values.labels(values[inside][None], window)[0]
        return labels


_local = threading.local()


def _warped(truth: WarpedTruth) -> WarpedVRT:
    """This thread's view of the raster on the target grid; the least recently used of several is closed."""
    views: OrderedDict[tuple[object, ...], tuple[Any, WarpedVRT]] = getattr(_local, "views", None) or OrderedDict()
    _local.views = views
    source, grid = truth.raster.scene.source, truth.grid
    key = (source.name, truth.raster.scene.identity, grid, truth.finer)
    if key not in views:
        base = rasterio.open(source.name, driver=source.driver)
        view = WarpedVRT(
            base,
            src_crs=truth.raster.grid.crs_wkt or grid.crs_wkt or _LOCAL,
            src_nodata=None,  # what the nodata value means is said in `values`
            crs=grid.crs_wkt or truth.raster.grid.crs_wkt or _LOCAL,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=Resampling.mode if truth.finer else Resampling.nearest,
            add_alpha=True,
        )
        views[key] = base, view
        while len(views) > _OPEN_FILES:
            for file in reversed(views.popitem(last=False)[1]):
                file.close()
    views.move_to_end(key)
    return views[key][1]


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=True, GDAL_NUM_THREADS=1):
            yield
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
