"""Labels of polygons, drawn on the scene's grid."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import rasterio.features
import rasterio.windows
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError

from tileseg.dataset.annotations import is_annotations, read_annotations
from tileseg.dataset.raster_truth import _STEPS
from tileseg.dataset.spec import IGNORE
from tileseg.errors import InputError, first_line
from tileseg.grid import Grid
from tileseg.labels import Labels
from tileseg.source.on_grid import on_grid
from tileseg.source.vector_file import name_to_read, unreadable
from tileseg.window import Window

if TYPE_CHECKING:
    from pyproj import CRS


System = Literal["named", "pixels", "unnamed", "not degrees"]
"""What a file says of its coordinates: a reference system, those of the image's pixels, none, or degrees where its
numbers cannot be any."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_PARQUET = (".parquet", ".geoparquet")

_BLOCK = 1024
"""Pixels: side of what is read at once of a whole label raster."""

_LOCAL = "EPSG:3857"
"""Stands for a coordinate reference system that neither image nor labels name; any that is flat will do."""


@dataclass(frozen=True, slots=True)
class VectorTruth:
    """Polygons, drawn for each window: a pixel is that of the polygon that covers its centre."""

    path: Path
    grid: Grid
    """The target grid."""
    layer: str | None
    attribute: str | None
    meaning: tuple[tuple[str, int], ...]
    """(value of the attribute, label); without an attribute (("", label),)."""
    ignore_where: tuple[tuple[str, tuple[str, ...]], ...]
    """Columns, and values (as text) for which a polygon's class is not known."""
    background: int
    """Label of what no polygon covers."""
    identity: tuple[int, int]
    """Size and time of change of the file."""
    name: str = "the scene"
    """Name of the image's file, by which files of several images know it; and for messages."""
    image: Grid | None = None
    """The image's own grid, for files of annotation tools, which are in its pixels."""

    def read(self, window: Window) -> Labels:
        """Labels of a window; of overlapping polygons the later one in the file counts, IGNORE over all."""
        drawn = _polygons(self)
        frame = (window.col_off - 2, window.row_off - 2, window.col_stop + 2, window.row_stop + 2)
        near = np.sort(drawn.tree.query(shapely.box(*frame)))
        labels = np.full((window.height, window.width), self.background, np.uint8)
        if not len(near):
            return labels
        # Only what is near, or a coastline would be drawn whole for every window along it.
        parts = shapely.clip_by_rect(drawn.areas[near], *frame)
        shapes = [
            (part, int(label)) for part, label in zip(parts, drawn.labels[near], strict=True) if not part.is_empty
        ]
        if shapes:
            shift = Affine.translation(window.col_off, window.row_off)
            rasterio.features.rasterize(shapes, out=labels, transform=shift)
        return labels

    @property
    def count(self) -> int:
        """Polygons on the scene."""
        return len(_polygons(self).areas)

    @property
    def system(self) -> System:
        """What the file says about its coordinate reference system."""
        return _polygons(self).system

    @property
    def apart(self) -> bool:
        """Whether the file has features, all of them in another place; a scene without any is a fair example."""
        return _polygons(self).apart

    @property
    def areas(self) -> tuple[npt.NDArray[Any], Labels]:
        """Polygons (n,) in (column, row) of the target grid, as far as they touch it, and their labels (n,)."""
        drawn = _polygons(self)
        return drawn.areas, drawn.labels


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    system: System
    crs: CRS | None
    """Coordinate reference system of the shapes; None: they are taken to be in the image's coordinates."""
    shapes: npt.NDArray[Any]
    """Geometries near the scene, in the file's coordinates."""
    columns: Mapping[str, Any]
    apart: bool
    """Whether there are features, all of them in another place."""


@dataclass(frozen=True, slots=True, eq=False)
class _DrawnPolygons:
    areas: npt.NDArray[Any]
    """Polygons in (column, row) of the target grid, in the order in which they are drawn."""
    labels: Labels
    tree: shapely.STRtree
    system: System
    apart: bool


_loading = threading.Lock()

_loaded: OrderedDict[VectorTruth, _DrawnPolygons] = OrderedDict()

_MOST_FILES = 256


def _polygons(truth: VectorTruth) -> _DrawnPolygons:
    """The polygons of a scene, read once per process."""
    with _loading:
        if truth not in _loaded:
            _loaded[truth] = _load(truth)
            while len(_loaded) > _MOST_FILES:
                _loaded.popitem(last=False)
        _loaded.move_to_end(truth)
        return _loaded[truth]


def _load(truth: VectorTruth) -> _DrawnPolygons:
    columns = [name for name in (truth.attribute, *(name for name, _ in truth.ignore_where)) if name is not None]
    found = _read_vectors(truth, list(dict.fromkeys(columns)))
    fields, labels = found.columns, np.zeros(len(found.shapes), np.uint8)
    meaning = dict(truth.meaning)
    if truth.attribute is None:
        labels[:] = meaning[""]
    else:
        values = [_text(value) for value in fields[truth.attribute]]
        unknown = sorted({value for value in values if value not in meaning})
        if unknown:
            raise InputError(
                f"{truth.path}: {truth.attribute} = {unknown[0]!r} is no class"
                f"{f' (nor are {len(unknown) - 1} other values)' if len(unknown) > 1 else ''}; "
                f"say what it means in label_map ({', '.join(sorted(meaning)[:8])} are known)"
            )
        labels[:] = [meaning[value] for value in values]
    for name, wanted in truth.ignore_where:
        labels[[_text(value) in wanted for value in fields[name]]] = IGNORE
    areas, owner = _on_grid(truth, found.crs, found.shapes)
    order = np.argsort(labels[owner] == IGNORE, kind="stable")
    areas, owner = areas[order], owner[order]
    tree = shapely.STRtree(areas)
    tree.query(shapely.box(0, 0, 1, 1))  # it is built by the first query, which must be one thread's alone
    return _DrawnPolygons(areas, labels[owner], tree, found.system, found.apart)


def _read_vectors(truth: VectorTruth, columns: list[str]) -> _Features:
    path = truth.path
    with np.errstate(invalid="ignore"):  # GEOS meets numbers that are none; they are reported below
        if truth.image is not None and is_annotations(path):
            found = _read_pixels(truth, truth.image, columns)
        else:
            found = _read_parquet(truth, columns) if path.suffix.lower() in _PARQUET else _read_ogr(truth, columns)
    broken = np.flatnonzero(~np.isfinite(_summed(found.shapes)))
    if len(broken):
        raise InputError(
            f"{path}: {len(broken)} of its polygons {'has' if len(broken) == 1 else 'have'} coordinates that are no "
            f"numbers (the first is number {int(broken[0]) + 1} of those near {truth.name}); repair or remove "
            f"{'it' if len(broken) == 1 else 'them'}"
        )
    return found


def _summed(shapes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The sum of each shape's coordinates (n,): not finite where any of them is not."""
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    with np.errstate(invalid="ignore"):
        return np.bincount(owner, points.sum(axis=1), minlength=len(shapes)).astype(np.float64)


def _read_pixels(truth: VectorTruth, image: Grid, columns: list[str]) -> _Features:
    """What was drawn on the image, in the coordinates of its grid."""
    drawn = read_annotations(truth.path, truth.name)
    if drawn.size != (image.height, image.width):
        raise InputError(
            f"{truth.path}: was drawn on {drawn.size[1]} x {drawn.size[0]} pixels, but {truth.name} has "
            f"{image.width} x {image.height}"
        )
    _check_columns(truth.path, columns, list(drawn.columns))
    placed = shapely.transform(drawn.shapes, lambda xy: np.stack(image.transform @ tuple(xy.T), axis=1))
    return _Features("pixels", None, placed, {name: drawn.columns[name] for name in columns}, apart=False)


def _read_parquet(truth: VectorTruth, columns: list[str]) -> _Features:
    import geopandas
    from pyarrow import ArrowInvalid

    try:
        frame = geopandas.read_parquet(truth.path)
    except (ArrowInvalid, ValueError, OSError) as error:
        raise InputError(f"{truth.path}: cannot be read as GeoParquet: {first_line(error)}") from error
    _check_columns(truth.path, columns, [str(name) for name in frame.columns])
    bounds = tuple(frame.total_bounds)
    system, crs = _system(frame.crs, bounds)
    fields = {name: frame[name].to_numpy() for name in columns}
    return _Features(system, crs, np.asarray(frame.geometry.array), fields, _is_apart(truth.grid, crs, bounds))


def _read_ogr(truth: VectorTruth, columns: list[str]) -> _Features:
    """Features near the scene. What a file says of its own extent may be missing or old, so it is not asked."""
    path = truth.path
    try:
        with name_to_read(path) as name:
            return _features_of(truth, name, columns)
    except (DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError) as error:
        raise unreadable(path, error) from error


def _features_of(truth: VectorTruth, name: str, columns: list[str]) -> _Features:
    """Features near the scene in the file that pyogrio opens by ``name``."""
    from pyproj import CRS

    path = truth.path
    layers = [str(layer) for layer, kind in pyogrio.list_layers(name) if kind is not None]
    layer = truth.layer or (layers[0] if len(layers) == 1 else None)
    if layer is None or layer not in layers:
        raise InputError(
            f"{path}: has the layers {', '.join(layers[:8]) or 'none'}; say which one with layer"
            + (f" (there is no {layer!r})" if layer else "")
        )
    info = pyogrio.read_info(name, layer=layer)
    _check_columns(path, columns, [str(field) for field in info["fields"]])

    def read(near: Box | None) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        meta, _, wkb, data = pyogrio.raw.read(name, layer=layer, columns=columns, force_2d=True, bbox=near)
        return shapely.from_wkb(wkb, on_invalid="fix"), dict(zip(meta["fields"], data, strict=True))

    system, crs = _system(None if info["crs"] is None else CRS.from_user_input(info["crs"]), (math.nan,) * 4)
    shapes, fields = read(_bbox(truth.grid, crs))
    if len(shapes):
        return _Features(system, crs, shapes, fields, apart=False)
    boxes = _feature_boxes(path, layer)
    bounds = _total(boxes)
    system, crs = _system(crs, bounds)
    near = _bbox(truth.grid, crs)
    if near is not None and shapely.intersects(shapely.box(*boxes), shapely.box(*near)).any():
        # By other coordinates than the file says, or past what its header says that there is.
        shapes, fields = read(None)
    return _Features(system, crs, shapes, fields, _is_apart(truth.grid, crs, bounds))


def feature_bounds(path: Path, layer: str | None = None) -> Box:
    """Left, bottom, right, top of all features of a file, NaN where there is none: of the features themselves."""
    return _total(_feature_boxes(path, layer))


def _feature_boxes(path: Path, layer: str | None) -> npt.NDArray[np.float64]:
    """(4, n): left, bottom, right, top of each feature that has a place."""
    with name_to_read(path) as name:
        boxes = np.asarray(pyogrio.read_bounds(name, layer=layer)[1], np.float64)
    return boxes[:, np.isfinite(boxes).all(axis=0)]


def _total(boxes: npt.NDArray[np.float64]) -> Box:
    if not boxes.size:
        return (math.nan,) * 4
    (left, bottom), (right, top) = boxes[:2].min(axis=1), boxes[2:].max(axis=1)
    return float(left), float(bottom), float(right), float(top)


def _system(crs: CRS | None, bounds: tuple[float, ...]) -> tuple[System, CRS | None]:
    """What to make of what a file says: decided once, so that everything is read by the same coordinates."""
    if crs is None:
        return "unnamed", None
    return ("not degrees", None) if _are_wrong_degrees(crs, bounds) else ("named", crs)


def _check_columns(path: Path, columns: list[str], there: list[str]) -> None:
    for name in columns:
        if name not in there:
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(there[:12]) or 'none'}")


def _bbox(grid: Grid, crs: CRS | None) -> Box | None:
    """Where in the file's coordinates the scene lies, a little larger; None: everywhere."""
    outline = _outline(grid)
    if crs is not None and grid.crs is not None and crs != grid.crs:
        from pyproj import Transformer

        outline = np.stack(Transformer.from_crs(grid.crs, crs, always_xy=True).transform(*outline.T), axis=1)
    if not np.isfinite(outline).all():
        return None
    low, high = outline.min(axis=0), outline.max(axis=0)
    if crs is not None and crs.is_geographic and (high[0] - low[0] > 180 or high[0] > 180 or low[0] < -180):
        return None  # across the date line, or counted from 0 to 360 degrees, which the file may not do
    margin = 0.02 * (high - low)
    return float(low[0] - margin[0]), float(low[1] - margin[1]), float(high[0] + margin[0]), float(high[1] + margin[1])


def _is_apart(grid: Grid, crs: CRS | None, bounds: tuple[float, ...]) -> bool:
    """Whether features within ``bounds`` cannot lie on the grid."""
    near = _bbox(grid, crs)
    if near is None or not np.isfinite(bounds).all():
        return False
    return not shapely.box(*near).intersects(shapely.box(*bounds))


def _outline(grid: Grid) -> npt.NDArray[np.float64]:
    """Points along the grid's border, (n, 2) in its coordinates."""
    frame = shapely.box(0, 0, grid.width, grid.height)
    points = shapely.get_coordinates(shapely.segmentize(frame, max(frame.length / _STEPS, 1)))
    return np.array(grid.transform @ tuple(points.T), np.float64).T


def outline_in(grid: Grid, other: Grid) -> npt.NDArray[np.float64]:
    """Points along a grid's border, (n, 2) in the coordinates of another grid; not finite where it has none."""
    outline = _outline(grid)
    if grid.crs is None or other.crs is None or grid.crs == other.crs:
        return outline
    from pyproj import Transformer

    return np.stack(Transformer.from_crs(grid.crs, other.crs, always_xy=True).transform(*outline.T), axis=1)


def _are_wrong_degrees(crs: CRS, bounds: tuple[float, ...]) -> bool:
    """GeoJSON that does not say otherwise is in degrees, and is often written in metres."""
    left, bottom, right, top = bounds
    return bool(crs.is_geographic and (max(-left, right) > 720 or max(-bottom, top) > 100))


def _on_grid(
    truth: VectorTruth, crs: CRS | None, shapes: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Valid polygons in (column, row) of the target grid, as far as they touch it, and which shape each is part of."""
    areas, whole = on_grid(shapes, crs, truth.grid)
    touching = shapely.intersects(areas, shapely.box(0, 0, truth.grid.width, truth.grid.height))
    return areas[touching], whole[touching]


def _text(value: Any) -> str:
    """A column's value as ``label_map`` would write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
