"""Where labels come from: a raster on the image's grid, a raster on another one, or polygons.

All three give the labels of a window of the target grid, and can be sent to another process.
"""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import rasterio.features
import rasterio.windows
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from tileseg.dataset.rescale import Rescale
from tileseg.dataset.spec import IGNORE, VECTORS, DatasetSpec, Pair, is_there
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.label_raster import LabelRaster, open_labels
from tileseg.source.scene import Scene, open_scene
from tileseg.window import Window, tile

if TYPE_CHECKING:
    from pyproj import CRS

Labels = npt.NDArray[np.uint8]
System = Literal["named", "unnamed", "not degrees"]
"""What a file says of its coordinates: a reference system, none, or degrees where its numbers cannot be any."""

_PARQUET = (".parquet", ".geoparquet")
_OPEN_FILES = 32
_BLOCK = 1024
"""Pixels: side of what is read at once of a whole label raster."""
_STEPS = 512
"""Points along the scene's diagonal: a straight line in one coordinate reference system is bent in another."""
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_SAME_PLACE = 0.1
"""Pixels: labels whose corners are no further from the image's are on its grid."""
_LOCAL = "EPSG:3857"
"""Stands for a coordinate reference system that neither image nor labels name; any that is flat will do."""


class Truth(Protocol):
    """Labels of a scene, on the target grid."""

    def read(self, window: Window) -> Labels:
        """(height, width) uint8: class ids, IGNORE where the class is not known. Raises InputError."""


@dataclass(frozen=True, slots=True)
class Values:
    """What the values of a label raster mean."""

    path: str
    meaning: tuple[tuple[int, int], ...]
    """(value, label), sorted by value."""
    colors: bool = False
    """Whether values are 0xRRGGBB."""
    assumed: bool = False
    """Whether 255 means not known only because nobody says what it means."""

    def labels(self, values: npt.NDArray[np.integer], where: Window) -> Labels:
        """Labels of values (y, x). Raises InputError naming a value that has no meaning."""
        known, label = _tables(self.meaning)
        at = np.minimum(np.searchsorted(known, values.ravel()), len(known) - 1) if values.dtype.itemsize > 1 else None
        if at is None:
            found = _byte_table(self.meaning, values.dtype.kind == "i")[values.view(np.uint8)]
            unknown = found < 0
        else:
            found = label[at].reshape(values.shape)
            unknown = (known[at] != values.ravel()).reshape(values.shape)
        if unknown.any():
            value = self.shown(int(values[unknown][0]))
            listed = ", ".join(map(self.shown, known[:8].tolist())) + (", ..." if len(known) > 8 else "")
            raise InputError(
                f"{self.path}: has the value {value} at {where}, which is no class ({listed} are); "
                "say what it means in label_map, or list it under ignore"
            )
        return np.asarray(found, np.uint8)

    def shown(self, value: int) -> str:
        """A value as ``label_map`` would write it."""
        return f"#{value:06x}" if self.colors else str(value)

    def unknown(self, values: npt.NDArray[np.integer]) -> dict[int, int]:
        """Values without a meaning, and how many pixels have each."""
        known, _ = _tables(self.meaning)
        found, counts = np.unique(values, return_counts=True)
        return {int(v): int(n) for v, n in zip(found, counts, strict=True) if v not in known}


@lru_cache(maxsize=256)
def _tables(meaning: tuple[tuple[int, int], ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    known, label = np.array(meaning, np.int64).T
    return known, label.astype(np.int16)


@lru_cache(maxsize=256)
def _byte_table(meaning: tuple[tuple[int, int], ...], signed: bool) -> npt.NDArray[np.int16]:
    table = np.full(256, -1, np.int16)
    for value, label in meaning:
        if (-128 <= value < 128) if signed else (0 <= value < 256):
            table[value % 256] = label
    return table


class ValueRaster(Protocol):
    """A raster whose pixels stand for classes."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""

    @property
    def path(self) -> str:
        """The file as the user named it."""

    @property
    def nodata(self) -> int | None:
        """Value of pixels without data."""

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        """Values (y, x) of a window."""


@dataclass(frozen=True, slots=True)
class ColorRaster:
    """A picture (or a raster with a palette) whose colours stand for classes; its values are 0xRRGGBB."""

    scene: Scene
    nodata: int | None = None
    """Every colour may be meant, so none stands for no data."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie."""
        return self.scene.grid

    @property
    def path(self) -> str:
        """The file as the user named it."""
        return self.scene.path

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        """Colours (y, x) as int32."""
        rgb = self.scene.read(window)[0].astype(np.int32)
        return np.asarray(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], np.int32)


@dataclass(frozen=True, slots=True)
class RasterTruth:
    """A raster on the image's own pixels."""

    raster: ValueRaster
    values: Values
    rescale: Rescale

    def read(self, window: Window) -> Labels:
        """Labels of a window of the target grid: the most frequent one of the pixels that became one."""
        source = self.rescale.source(window)
        labels = self.values.labels(self.raster.read_labels(source), source)
        return labels if self.rescale.identity else self.rescale.labels(labels, window)


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
        raise InputError(f"{path}: cannot be read: {_first_line(error)}") from error


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
    """Of the shapes; None: they are taken to be in the image's coordinates."""
    shapes: npt.NDArray[Any]
    """Geometries near the scene, in the file's coordinates."""
    columns: Mapping[str, Any]
    apart: bool
    """Whether there are features, all of them in another place."""


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    areas: npt.NDArray[Any]
    """Polygons in (column, row) of the target grid, in the order in which they are drawn."""
    labels: Labels
    tree: shapely.STRtree
    system: System
    apart: bool


_loading = threading.Lock()
_loaded: OrderedDict[VectorTruth, _Drawn] = OrderedDict()
_MOST_FILES = 256


def _polygons(truth: VectorTruth) -> _Drawn:
    """The polygons of a scene, read once per process."""
    with _loading:
        if truth not in _loaded:
            _loaded[truth] = _load(truth)
            while len(_loaded) > _MOST_FILES:
                _loaded.popitem(last=False)
        _loaded.move_to_end(truth)
        return _loaded[truth]


def _load(truth: VectorTruth) -> _Drawn:
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
    return _Drawn(areas, labels[owner], tree, found.system, found.apart)


def _read_vectors(truth: VectorTruth, columns: list[str]) -> _Features:
    from pyproj import CRS

    path = truth.path
    if path.suffix.lower() in _PARQUET:
        import geopandas
        from pyarrow import ArrowInvalid

        try:
            frame = geopandas.read_parquet(path)
        except (ArrowInvalid, ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read as GeoParquet: {_first_line(error)}") from error
        _check_columns(path, columns, [str(name) for name in frame.columns])
        bounds = tuple(frame.total_bounds)
        system, crs = _system(frame.crs, bounds)
        fields = {name: frame[name].to_numpy() for name in columns}
        return _Features(system, crs, np.asarray(frame.geometry.array), fields, _is_apart(truth.grid, crs, bounds))
    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        layer = truth.layer or (layers[0] if len(layers) == 1 else None)
        if layer is None or layer not in layers:
            raise InputError(
                f"{path}: has the layers {', '.join(layers[:8]) or 'none'}; say which one with layer"
                + (f" (there is no {layer!r})" if layer else "")
            )
        info = pyogrio.read_info(path, layer=layer)
        _check_columns(path, columns, [str(name) for name in info["fields"]])
        bounds = tuple(info["total_bounds"]) if info["features"] else (math.nan,) * 4
        system, crs = _system(None if info["crs"] is None else CRS.from_user_input(info["crs"]), bounds)
        bbox = _bbox(truth.grid, crs) if info["features"] else None
        meta, _, wkb, data = pyogrio.raw.read(path, layer=layer, columns=columns, force_2d=True, bbox=bbox)
        shapes = shapely.from_wkb(wkb, on_invalid="fix")
    except (DataSourceError, DataLayerError, ValueError, shapely.errors.ShapelyError) as error:
        raise InputError(f"{path}: cannot be read as a vector file: {_first_line(error)}") from error
    apart = _is_apart(truth.grid, crs, bounds)
    return _Features(system, crs, shapes, dict(zip(meta["fields"], data, strict=True)), apart)


def _system(crs: CRS | None, bounds: tuple[float, ...]) -> tuple[System, CRS | None]:
    """What to make of what a file says: decided once, so that everything is read by the same coordinates."""
    if crs is None:
        return "unnamed", None
    return ("not degrees", None) if _are_wrong_degrees(crs, bounds) else ("named", crs)


def _check_columns(path: Path, columns: list[str], there: list[str]) -> None:
    for name in columns:
        if name not in there:
            raise InputError(f"{path}: has no column {name!r}; it has {', '.join(there[:12]) or 'none'}")


def _bbox(grid: Grid, crs: CRS | None) -> tuple[float, float, float, float] | None:
    """Where in the file's coordinates the scene lies, a little larger; None: everywhere."""
    outline = _outline(grid)
    if crs is not None and grid.crs is not None and crs != grid.crs:
        from pyproj import Transformer

        outline = np.stack(Transformer.from_crs(grid.crs, crs, always_xy=True).transform(*outline.T), axis=1)
    if not np.isfinite(outline).all():
        return None
    low, high = outline.min(axis=0), outline.max(axis=0)
    if crs is not None and crs.is_geographic and high[0] - low[0] > 180:
        return None  # across the date line
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


def _are_wrong_degrees(crs: CRS, bounds: tuple[float, ...]) -> bool:
    """GeoJSON that does not say otherwise is in degrees, and is often written in metres."""
    left, bottom, right, top = bounds
    return bool(crs.is_geographic and (max(-left, right) > 720 or max(-bottom, top) > 100))


def _on_grid(
    truth: VectorTruth, crs: CRS | None, shapes: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Valid polygons in (column, row) of the target grid, as far as they touch it, and which shape each is part of."""
    grid = truth.grid
    whole = np.arange(len(shapes))
    for _ in range(2):  # collections of multi-polygons, multi-polygons
        shapes, part = shapely.get_parts(shapes, return_index=True)
        whole = whole[part]
    fitting = (shapely.get_type_id(shapes) == 3) & ~shapely.is_empty(shapes)
    shapes, whole = shapes[fitting], whole[fitting]
    if not len(shapes):
        return shapes, whole
    if crs is not None and grid.crs is not None and crs != grid.crs:
        from pyproj import Transformer

        left, bottom, right, top = shapely.total_bounds(shapes)
        diagonal = math.hypot(right - left, top - bottom)
        shapes = shapely.segmentize(shapes, max(diagonal / _STEPS, 1e-9))
        forward = Transformer.from_crs(crs, grid.crs, always_xy=True)
        shapes = shapely.transform(shapes, forward.transform, interleaved=False)
    inverse = ~grid.transform
    matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
    shapes = shapely.transform(shapes, lambda xy: xy @ matrix.T + (inverse.c, inverse.f))
    shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes, method="structure"))
    touching = shapely.intersects(shapes, shapely.box(0, 0, grid.width, grid.height))
    return shapes[touching], whole[touching]


def _text(value: Any) -> str:
    """A column's value as ``label_map`` would write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def open_truth(pair: Pair, spec: DatasetSpec, image: Grid, target: Grid, rescale: Rescale) -> Truth:
    """The labels of an image whose own grid is ``image``. Raises InputError in one line."""
    path = pair.labels
    if not is_there(path):
        raise InputError(f"{path}: is not there; expected the labels of {pair.image.name}")
    if path.suffix.lower() in VECTORS:
        truth = _open_vectors(pair, spec, target)
        if truth.apart:
            raise InputError(
                f"{path}: none of its polygons lies on {pair.image.name}; is its coordinate reference system right?"
            )
        return truth
    if any(_COLOR.fullmatch(value) for value in pair.reading.label_map):
        colors = ColorRaster(open_scene(path, expected=3))
        if not _same_grid(image, colors.grid, pair):
            raise InputError(f"{path}: its colours stand for classes, so it needs the same grid as {pair.image.name}")
        return RasterTruth(colors, _values(pair, spec, None), rescale)
    raster = _open_raster(path)
    values = _values(pair, spec, raster)
    if _same_grid(image, raster.grid, pair):
        return RasterTruth(raster, values, rescale)
    if not _overlap(image, raster.grid):
        raise InputError(f"{path}: does not overlap {pair.image.name}")
    return WarpedTruth(raster, values, target, _is_finer(raster.grid, target))


def _open_raster(path: Path) -> LabelRaster:
    try:
        return open_labels(path)
    except InputError as error:
        if re.search(r"has [34] bands; expected one band", str(error)):
            hint = 'if its colours stand for classes, say so: label_map = { "#ff0000" = "name of a class", ... }'
            raise InputError(f"{error}; {hint}") from error
        raise


def _values(pair: Pair, spec: DatasetSpec, raster: LabelRaster | None) -> Values:
    """What raster values mean: what ``label_map`` says, or else the ids of the classes; nodata and 255 are unknown.

    Without a ``raster`` the values are colours.
    """
    listed = pair.reading.label_map
    meaning = {} if raster is None else {IGNORE: IGNORE}
    if listed:
        for text, wanted in listed.items():
            if raster is None and not _COLOR.fullmatch(text):
                raise InputError(f"{pair.labels}: label_map names {text!r} besides colours; expected colours only")
            if raster is not None and not text.lstrip("-").isdigit():
                raise InputError(f"{pair.labels}: label_map names {text!r}, but the labels are a raster of numbers")
            meaning[int(text) if raster is not None else int(text[1:], 16)] = _id(spec, wanted)
    else:
        meaning |= {i: i for i in range(len(spec.classes))}
    meaning |= dict.fromkeys(spec.ignore, IGNORE)
    if raster is not None and raster.nodata is not None and str(raster.nodata) not in listed:
        meaning[raster.nodata] = IGNORE
    said = str(IGNORE) in listed or IGNORE in spec.ignore or (raster is not None and raster.nodata == IGNORE)
    assumed = raster is not None and not said
    return Values(str(pair.labels), tuple(sorted(meaning.items())), colors=raster is None, assumed=assumed)


def _id(spec: DatasetSpec, wanted: int | str) -> int:
    label = spec.id_of(wanted)
    assert label is not None  # the spec has been checked
    return label


def _open_vectors(pair: Pair, spec: DatasetSpec, target: Grid) -> VectorTruth:
    reading = pair.reading
    foreground = [info.name for info in spec.classes if not info.background]
    meaning: dict[str, int]
    if reading.attribute is None:
        if reading.class_ is None and len(foreground) != 1:
            raise InputError(
                f"{pair.labels}: which class its polygons are is not said: give attribute (a column) or class (one of "
                f"{', '.join(foreground)})"
            )
        meaning = {"": _id(spec, reading.class_ or foreground[0])}
    else:
        meaning = {str(i): i for i in range(len(spec.classes))}
        meaning |= {info.name: i for i, info in enumerate(spec.classes)}
        meaning |= {text: _id(spec, wanted) for text, wanted in reading.label_map.items()}
    ignored = {
        name: tuple(_text(v) for v in (value if isinstance(value, tuple) else (value,)))
        for name, value in reading.ignore_where.items()
    }
    try:
        facts = pair.labels.stat()
    except OSError as error:
        raise InputError(f"{pair.labels}: cannot be read: {error.strerror or error}") from error
    return VectorTruth(
        path=pair.labels,
        grid=target,
        layer=reading.layer,
        attribute=reading.attribute,
        meaning=tuple(sorted(meaning.items())),
        ignore_where=tuple(sorted(ignored.items())),
        background=spec.background,
        identity=(facts.st_size, facts.st_mtime_ns),
    )


def is_mask(truth: Truth) -> bool:
    """Whether a label raster has nothing but 0 and 255, and nobody says what 255 means: masks mostly come so.

    Read up to the first other value. Raises InputError.
    """
    if not isinstance(truth, RasterTruth | WarpedTruth) or not truth.values.assumed:
        return False
    found = False
    for window in tile(truth.raster.grid.extent, _BLOCK, _BLOCK):
        values = truth.raster.read_labels(window)
        if not ((values == 0) | (values == IGNORE)).all():
            return False
        found = found or bool((values == IGNORE).any())
    return found


def is_placed(grid: Grid) -> bool:
    """Whether anything says where the pixels lie."""
    return grid.crs_wkt is not None or grid.transform != Affine.identity()


def _same_grid(image: Grid, labels: Grid, pair: Pair) -> bool:
    """Whether pixels are the same. Raises InputError where nothing tells how to bring one to the other."""
    same_size = (image.height, image.width) == (labels.height, labels.width)
    if not (is_placed(image) and is_placed(labels)):
        if not same_size:
            raise InputError(
                f"{pair.labels}: is {labels.width} x {labels.height} pixels, {pair.image.name} is {image.width} x "
                f"{image.height}, and nothing says where the labels lie; expected the same size, or georeferenced files"
            )
        return True
    if not same_size:
        return False
    if image.crs is not None and labels.crs is not None and image.crs != labels.crs:
        return False
    back = ~image.transform
    corners = [(0, 0), (labels.width, 0), (0, labels.height)]
    moved = [math.dist(back @ (labels.transform @ corner), corner) for corner in corners]
    return max(moved) <= _SAME_PLACE


def _overlap(image: Grid, labels: Grid) -> bool:
    points = _outline(image)
    if image.crs is not None and labels.crs is not None and image.crs != labels.crs:
        from pyproj import Transformer

        points = np.stack(Transformer.from_crs(image.crs, labels.crs, always_xy=True).transform(*points.T), axis=1)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        return False
    area = shapely.Polygon(points)
    return bool(area.intersects(shapely.Polygon(_outline(labels))))


def _is_finer(labels: Grid, target: Grid) -> bool:
    """Whether a label's pixel is clearly smaller than the target's."""
    theirs, ours = labels.ground_sample_distance, target.ground_sample_distance
    if theirs is None or ours is None:
        theirs, ours = (math.sqrt(abs(grid.transform.determinant)) for grid in (labels, target))
    return theirs < 0.75 * ours
