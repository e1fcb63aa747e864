"""Labels of rasters on another grid than the scene's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from tileseg.dataset.raster_truth import ValueRaster, ValueTable
from tileseg.dataset.spec import IGNORE
from tileseg.dataset.vector_truth import _LOCAL, outline_in
from tileseg.errors import InputError, first_line
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.window import Window

_TILE = 256
"""Pixels: side of the tiles that are warped one by one, so that a label does not depend on the window that is read."""


@dataclass(frozen=True, slots=True)
class WarpedTruth:
    """A raster on another grid: read as any raster is, then warped to the target grid tile by tile."""

    raster: ValueRaster
    values: ValueTable
    grid: Grid
    finer: bool
    """Whether its pixels are smaller than the target's: then the most frequent label is taken, else the nearest."""

    def read(self, window: Window) -> Labels:
        """Labels of a window of the target grid; IGNORE outside the raster, and where it has no data."""
        labels = np.full((window.height, window.width), IGNORE, np.uint8)
        for row in range(window.row_off // _TILE * _TILE, window.row_stop, _TILE):
            for col in range(window.col_off // _TILE * _TILE, window.col_stop, _TILE):
                whole = Window(row, col, _TILE, _TILE).intersection(self.grid.extent)
                assert whole is not None  # the window lies inside the grid
                part = whole.intersection(window)
                assert part is not None
                labels[part.relative_to(window).slices] = self._warp(whole)[part.relative_to(whole).slices]
        return labels

    def _warp(self, tile: Window) -> Labels:
        labels = np.full((tile.height, tile.width), IGNORE, np.uint8)
        target = self.grid[tile]
        source = self._source(target)
        if source is None:
            return labels
        found = self.values.labels(self.raster.read_labels(source), source)
        there = self.raster.grid[source]
        try:
            reproject(
                found,
                labels,
                src_transform=there.transform,
                src_crs=there.crs_wkt or target.crs_wkt or _LOCAL,
                dst_transform=target.transform,
                dst_crs=target.crs_wkt or there.crs_wkt or _LOCAL,
                resampling=Resampling.mode if self.finer else Resampling.nearest,
                init_dest_nodata=False,  # what the raster does not reach stays IGNORE
            )
        except RasterioError as error:
            raise InputError(
                f"{self.raster.path}: cannot be brought to the image's grid: {first_line(error)}"
            ) from error
        return labels

    def _source(self, target: Grid) -> Window | None:
        """The raster's pixels that a part of the target grid needs; None where it lies outside."""
        points = outline_in(target, self.raster.grid)
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            return None
        cols, rows = ~self.raster.grid.transform @ tuple(points.T)
        # What the nearest pixels are is decided with a tolerance of an eighth of one.
        top, left = (int(np.floor(values.min())) - 2 for values in (rows, cols))
        bottom, right = (int(np.ceil(values.max())) + 2 for values in (rows, cols))
        return Window(top, left, bottom - top, right - left).intersection(self.raster.grid.extent)
