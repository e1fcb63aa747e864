"""An area of interest: polygons from any vector file, on a scene's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from tileseg.errors import InputError, first_line
from tileseg.grid import Grid
from tileseg.source.on_grid import on_grid, parts_of
from tileseg.source.others import POLYGONS_OF_A_TABLE
from tileseg.source.vector_file import is_table, name_to_read, unreadable
from tileseg.window import Window

if TYPE_CHECKING:
    from pyproj import CRS

_PARQUET = {".parquet", ".geoparquet"}


@dataclass(frozen=True, eq=False)
class Aoi:
    """Where to compute, in pixels of a scene; picklable."""

    area: shapely.MultiPolygon
    """In (column, row) of the grid, where (0, 0) is the outer corner of the first pixel; valid."""

    @classmethod
    def from_file(cls, path: str | Path, grid: Grid) -> Aoi:
        """Read the polygons of a vector file (of all layers), as far as they lie on the grid.

        They are reprojected to the grid's coordinate reference system. A file that names none, or names degrees but
        holds other numbers, is taken to be in the grid's; on a grid without one, the numbers are x and y of its
        transform. Raises InputError in one line: unreadable, no polygon in it, or all of them outside the scene.
        """
        crs, found = _read(Path(path))
        parts, _ = parts_of(np.array(found, dtype=object))
        if not len(parts):
            remedy = f"; {POLYGONS_OF_A_TABLE}" if is_table(Path(path)) else ""
            raise InputError(f"{path}: holds no polygon; expected an area of interest as polygons{remedy}")
        bounds = tuple(shapely.total_bounds(parts).tolist())
        theirs = None if crs is None or grid.crs is None or _are_wrong_degrees(crs, bounds) else crs
        placed, _ = on_grid(parts, theirs, grid)
        area = _only_polygons(placed)
        frame = shapely.box(0, 0, grid.width, grid.height)
        if not area.intersects(frame):
            doubt = "is its coordinate reference system right?"
            if crs is None and grid.crs is not None:
                doubt = "it names no system, so that of the scene is assumed; write it anew with one: ogr2ogr -a_srs "
                doubt += "EPSG:<code> copy.gpkg IN"
            raise InputError(
                f"{path}: none of its polygons lies on the scene: they span {_span(bounds, theirs)}, the scene "
                f"{_span(grid.bounds, grid.crs)}; {doubt}"
            )
        return cls(_only_polygons(np.array([area.intersection(shapely.buffer(frame, 1, join_style="mitre"))])))

    def touches(self, window: Window) -> bool:
        """Whether any part of the window may lie in the area: True wherever ``mask`` has a pixel."""
        return bool(self._prepared.intersects(_box(window)))

    def mask(self, window: Window) -> npt.NDArray[np.bool_]:
        """Which pixels of a window (y, x) have their centre in the area.

        A pixel's answer is the same in every window: where each row of centres crosses the border is computed in
        coordinates of the whole grid, and a pixel is inside where an odd number of crossings lies left of its centre
        (on it counts as left).
        """
        if self._prepared.contains_properly(_box(window)):
            return np.ones((window.height, window.width), np.bool_)
        low, high = self._edges[:, 0], self._edges[:, 2]
        near = self._edges[(high > window.row_off + 0.5) & (low <= window.row_stop - 0.5)]
        y0, x0, y1, x1 = near.T
        # The first and the last row of centres with low <= centre < high, inside the window.
        first = np.maximum(np.ceil(y0 - 0.5), window.row_off).astype(np.int64)
        last = np.minimum(np.ceil(y1 - 0.5), window.row_stop).astype(np.int64)
        counts = np.maximum(last - first, 0)
        edge = np.repeat(np.arange(len(near)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0) / (y1 - y0))[edge]
        column = np.clip(np.ceil(crossing - 0.5) - window.col_off, 0, window.width).astype(np.int64)
        flips = np.zeros((window.height, window.width + 1), np.bool_)
        np.logical_xor.at(flips, (row - window.row_off, column), True)
        return np.logical_xor.accumulate(flips[:, :-1], axis=1)

    @cached_property
    def _prepared(self) -> shapely.MultiPolygon:
        shapely.prepare(self.area)
        return self.area

    @cached_property
    def _edges(self) -> npt.NDArray[np.float64]:
        """Edges that are not level, (n, 4): row and column of the upper end, row and column of the lower one."""
        rings = shapely.get_rings(shapely.get_parts(self.area))
        points, ring = shapely.get_coordinates(rings, return_index=True)
        inside = ring[:-1] == ring[1:]
        all_edges = np.hstack([points[:-1, ::-1], points[1:, ::-1]])[inside]
        upward = all_edges[:, 0] > all_edges[:, 2]
        all_edges[upward] = all_edges[upward][:, [2, 3, 0, 1]]
        return np.asarray(all_edges[all_edges[:, 0] < all_edges[:, 2]])


def _box(window: Window) -> shapely.Polygon:
    return shapely.box(window.col_off, window.row_off, window.col_stop, window.row_stop)


def _read(path: Path) -> tuple[CRS | None, list[Any]]:
    """Coordinate reference system and geometries of a vector file, or a folder that is one (FileGDB)."""
    if not path.is_file() and not path.is_dir():
        what = "is no regular file" if path.exists() else "is not there"
        raise InputError(f"{path}: {what}; expected a vector file with the area of interest")
    with np.errstate(invalid="ignore"):  # GEOS meets numbers that are none; they are reported below
        crs, found = _read_parquet(path) if path.suffix.lower() in _PARQUET else _read_ogr(path)
        numbers = np.isfinite([shapely.get_coordinates(shape).sum() for shape in found])
    if not numbers.all():
        raise InputError(
            f"{path}: {np.count_nonzero(~numbers)} of its {len(found)} features have coordinates that are no numbers "
            f"(the first is number {int(np.argmin(numbers)) + 1}); repair or remove them"
        )
    return crs, found


def _read_parquet(path: Path) -> tuple[CRS | None, list[Any]]:
    import geopandas
    from pyarrow import ArrowInvalid

    try:
        frame = geopandas.read_parquet(path)
    except (ArrowInvalid, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as GeoParquet: {first_line(error)}") from error
    return frame.crs, [shape for shape in frame.geometry if shape is not None]


def _read_ogr(path: Path) -> tuple[CRS | None, list[Any]]:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyproj import CRS

    crs: CRS | None = None
    found: list[Any] = []
    try:
        with name_to_read(path) as name:
            for layer, kind in pyogrio.list_layers(name):
                if kind is None:
                    continue
                meta, _, geometries, _ = pyogrio.raw.read(name, layer=layer, columns=[], force_2d=True)
                here = None if meta["crs"] is None else CRS.from_user_input(meta["crs"])
                parts = [part for part in shapely.from_wkb(geometries, on_invalid="fix") if part is not None]
                if found and parts and here != crs:
                    raise InputError(
                        f"{path}: its layers have different coordinate reference systems; keep one of them"
                    )
                crs, found = (here, found + parts) if parts else (crs, found)
    except (DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError) as error:
        raise unreadable(path, error) from error
    return crs, found


def _only_polygons(geometries: npt.NDArray[Any]) -> shapely.MultiPolygon:
    """The union of what is polygonal among them."""
    parts, _ = parts_of(geometries)
    if not len(parts):
        return shapely.MultiPolygon()
    return shapely.MultiPolygon(parts_of(np.array([shapely.union_all(parts)]))[0].tolist())


def _are_wrong_degrees(crs: CRS, bounds: tuple[float, ...]) -> bool:
    """GeoJSON that does not say otherwise is in degrees, and is often written in metres."""
    left, bottom, right, top = bounds
    return bool(crs.is_geographic and (max(-left, right) > 720 or max(-bottom, top) > 100))


def _span(bounds: tuple[float, float, float, float], crs: CRS | None) -> str:
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    where = "the scene's own coordinates" if crs is None else crs.name
    return f"x {left} to {right}, y {bottom} to {top} ({where})"
