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
from tileseg.source.vector_file import vector_name
from tileseg.window import Window

if TYPE_CHECKING:
    from pyproj import CRS

_PARQUET = {".parquet", ".geoparquet"}
_STEPS = 512
"""Points along the diagonal of what is reprojected: a straight line in one system is bent in another."""
_MARGIN = 0.05
"""Of the scene's size: polygons are cut this far outside the scene before they are reprojected."""


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
        polygons = _only_polygons(found)
        if polygons.is_empty:
            raise InputError(f"{path}: holds no polygon; expected an area of interest as polygons")
        bounds = polygons.bounds
        theirs = None if crs is None or grid.crs is None or _are_wrong_degrees(crs, polygons) else crs
        if theirs is not None:
            polygons = _reproject(polygons, theirs, grid)
        inverse = ~grid.transform
        matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        area = shapely.transform(polygons, lambda xy: xy @ matrix.T + (inverse.c, inverse.f))
        frame = shapely.box(0, 0, grid.width, grid.height)
        area = _only_polygons([area])
        if not area.intersects(frame):
            raise InputError(
                f"{path}: none of its polygons lies on the scene: they span {_span(bounds, theirs)}, the scene "
                f"{_span(grid.bounds, grid.crs)}; is its coordinate reference system right?"
            )
        return cls(_only_polygons([area.intersection(shapely.buffer(frame, 1, join_style="mitre"))]))

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
    """Coordinate reference system and geometries of a vector file."""
    from pyproj import CRS

    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: is not there; expected a vector file with the area of interest")
    if path.suffix.lower() in _PARQUET:
        import geopandas
        from pyarrow import ArrowInvalid

        try:
            frame = geopandas.read_parquet(path)
        except (ArrowInvalid, ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read as GeoParquet: {first_line(error)}") from error
        return frame.crs, list(frame.geometry)

    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    crs: CRS | None = None
    found: list[Any] = []
    try:
        name = vector_name(path)
        for layer, kind in pyogrio.list_layers(name):
            if kind is None:
                continue
            meta, _, geometries, _ = pyogrio.raw.read(name, layer=layer, columns=[], force_2d=True)
            here = None if meta["crs"] is None else CRS.from_user_input(meta["crs"])
            parts = [part for part in shapely.from_wkb(geometries, on_invalid="fix") if part is not None]
            if found and parts and here != crs:
                raise InputError(f"{path}: its layers have different coordinate reference systems; keep one of them")
            crs, found = (here, found + parts) if parts else (crs, found)
    except (DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {first_line(error)}") from error
    return crs, found


def _only_polygons(geometries: list[Any]) -> shapely.MultiPolygon:
    """The union of what is polygonal among them, repaired."""
    parts = shapely.get_parts(shapely.get_parts(np.array(geometries, dtype=object)))
    flat = [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]
    flat = [part for part in flat if np.isfinite(shapely.get_coordinates(part)).all()]
    if not flat:
        return shapely.MultiPolygon()
    whole = shapely.union_all(shapely.make_valid(np.array(flat), method="structure", keep_collapsed=False))
    return shapely.MultiPolygon([part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"])


def _are_wrong_degrees(crs: CRS, polygons: shapely.MultiPolygon) -> bool:
    """GeoJSON that does not say otherwise is in degrees, and is often written in metres."""
    left, bottom, right, top = polygons.bounds
    return bool(crs.is_geographic and (max(-left, right) > 720 or max(-bottom, top) > 100))


def _reproject(polygons: shapely.MultiPolygon, crs: CRS, grid: Grid) -> shapely.MultiPolygon:
    """Bring polygons into the grid's system: cut around the scene first, then with points along their edges."""
    from pyproj import Transformer

    assert grid.crs is not None
    if crs == grid.crs:
        return polygons
    frame = shapely.box(0, 0, grid.width, grid.height)
    margin = _MARGIN * max(grid.width, grid.height) + 16
    outline = shapely.segmentize(shapely.buffer(frame, margin, join_style="mitre"), max(frame.length / _STEPS, 1))
    corners = np.array(grid.transform @ tuple(shapely.get_coordinates(outline).T)).T
    backward = Transformer.from_crs(grid.crs, crs, always_xy=True)
    around = np.stack(backward.transform(*corners.T), axis=1)
    if np.isfinite(around).all():
        polygons = _only_polygons([polygons.intersection(shapely.box(*around.min(axis=0), *around.max(axis=0)))])
    if polygons.is_empty:
        return polygons
    left, bottom, right, top = polygons.bounds
    dense = shapely.segmentize(polygons, max(float(np.hypot(right - left, top - bottom)) / _STEPS, 1e-9))
    forward = Transformer.from_crs(crs, grid.crs, always_xy=True)
    return _only_polygons([shapely.transform(dense, forward.transform, interleaved=False)])


def _span(bounds: tuple[float, float, float, float], crs: CRS | None) -> str:
    left, bottom, right, top = (f"{value:.10g}" for value in bounds)
    where = "the scene's own coordinates" if crs is None else crs.name
    return f"x {left} to {right}, y {bottom} to {top} ({where})"
