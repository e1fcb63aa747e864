"""Read rasters: describe a scene, read windows of it with their valid pixels, reflect it past its edges.

A :class:`Scene` is a description that can be sent to another process. Every thread opens the file for itself when
it first reads, because a GDAL handle belongs to one thread.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.windows
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.vrt import WarpedVRT

from tileseg.errors import InputError, Unreachable, UsageError, root_of
from tileseg.grid import Grid
from tileseg.source.formats import Source, identify
from tileseg.storage.place import SubDataset, Url
from tileseg.storage.store import is_yes, patiently, s3_endpoint, silent_seconds
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

LARGEST_BLOCK = 256 << 20
"""Bytes of one decoded tile or strip: GDAL holds a whole one in memory to give a single pixel of it."""
MOST_PIXELS = 10**12
"""More in one scene are taken for a damaged header."""
_PIXELS_PER_BYTE = 1 << 20
"""More in a file are taken for a damaged header: a sparse tile of 2048 x 2048 still costs 16 bytes of index."""
_SAMPLE_WINDOW, _SAMPLE_WINDOWS = 128, 256
_OPEN_FILES = 32
"""Per thread: training draws windows from many scenes in turn, and opening a file takes longer than a window of it."""
_SAME_TYPE = ("uint8", "int8", "uint16", "int16", "float32")
_OTHER_TYPES = ("uint32", "int32", "uint64", "int64", "float16", "float64")

_GDAL: dict[str, Any] = {
    "GDAL_CACHEMAX": 256 << 20,  # bytes (rasterio's unit) over all threads: part of the projected memory
    "GDAL_NUM_THREADS": 1,  # several blocks are read at once already
    "GDAL_DISABLE_READDIR_ON_OPEN": True,  # world files and the like are still found, by name
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_HTTP_MAX_RETRY": 0,
}
_SERVERS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # nor are files beside a scene asked for
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 0.2,  # seconds, doubled each time
    "GDAL_HTTP_RETRY_CODES": "ALL",
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,  # bytes per second
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/:/vsicurl/",  # once closed: it may have changed by then
}
"""On top of these for scenes on servers; where the environment says otherwise, it wins."""
_SERVER_TROUBLE = re.compile(r"HTTP|curl|IReadBlock|read error|got \d+ bytes|connect|timed out|resolve", re.IGNORECASE)
"""Complaints of GDAL that may be the server's fault."""

# The scene's description says whether it has coordinates; the log gets GDAL's warnings, the terminal does not.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
logging.getLogger("rasterio").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Scene:
    """An input raster, as far as it needs to be known to plan a run; picklable."""

    path: str
    """The file as the user named it."""
    source: Source
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
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read, one line each."""

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x).

        Pixels without data get ``fill``, one value per band, if given. Raises InputError, naming the window, where
        the file cannot be read.
        """
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")
        pixels, valid = _read(self, window, (window.height, window.width))
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_plane(self, window: Window, limit: int, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window that may reach past the scene's edges: pixels (y, x, band) and valid (y, x).

        The scene is continued by reflection without repeating the edge (``numpy.pad(mode="reflect")``), rows and
        columns each for themselves; further than ``limit`` pixels past the edge, by the edge pixel. Only the rows
        and columns that appear in the result are read.
        """
        if self.grid.extent.intersection(window) == window:
            return self.read(window, fill)
        rows = reflected(window.row_off, window.height, self.grid.height, limit)
        cols = reflected(window.col_off, window.width, self.grid.width, limit)
        top, left = int(rows.min()), int(cols.min())
        needed = Window(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)
        pixels, valid = self.read(needed, fill)
        return _pick(pixels, rows - top, cols - left), _pick(valid, rows - top, cols - left)


def reflected(start: int, count: int, size: int, limit: int) -> npt.NDArray[np.int64]:
    """Which of ``size`` pixels stand at positions ``start`` ... ``start + count - 1`` of the endless plane."""
    positions = np.arange(start, start + count, dtype=np.int64)
    beyond = (positions < -limit) | (positions >= size + limit)
    period = max(1, 2 * (size - 1))
    phase = positions % period
    return np.where(beyond, np.clip(positions, 0, size - 1), np.minimum(phase, period - phase) if size > 1 else 0)


def _pick(pixels: Pixels, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> Pixels:
    """``pixels[rows][:, cols]``, several times as fast: most columns stand side by side already."""
    ends = np.flatnonzero(np.diff(cols) != 1) + 1
    starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(cols)]])
    longest = int(np.argmax(stops - starts))
    a, b = int(starts[longest]), int(stops[longest])
    wide = np.empty((len(pixels), len(cols), *pixels.shape[2:]), pixels.dtype)
    wide[:, :a] = pixels[:, cols[:a]]
    wide[:, a:b] = pixels[:, cols[a] : cols[b - 1] + 1]
    wide[:, b:] = pixels[:, cols[b:]]
    return wide if np.array_equal(rows, np.arange(len(wide))) else np.asarray(wide[rows])


def open_scene(
    path: str | Path | Url,
    *,
    expected: int,
    bands: tuple[int, ...] | None = None,
    names: tuple[str, ...] = (),
    warp: bool = False,
) -> Scene:
    """Describe a raster whose bands a network can take.

    ``expected`` is how many bands the model takes, and ``names`` what they mean: bands described so (or with such a
    colour) are taken wherever they are; otherwise the first ones that are not alpha. ``bands`` says which to take
    instead. A scene that has only ground control points or RPCs is refused, or with ``warp`` read through a warp
    into UTM. Raises InputError in one line for whatever cannot be used.
    """
    source = identify(path)
    text = str(source.files[0]) if source.remote else str(path)

    def look() -> Scene:
        with _reading(text, source, None), _open(source) as dataset:
            _check_header(text, source, dataset)
            target = _georeference(text, dataset, warp)
            if target is not None:
                with _warped(dataset, target) as warped:
                    return _describe(text, source, warped, (expected, bands, names), target)
            return _describe(text, source, dataset, (expected, bands, names), None)

    return patiently(look)


def statistics(scene: Scene) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of every band over valid pixels.

    Scenes of up to 4 megapixels are read whole; larger ones in 256 windows of 128 x 128 at full resolution, evenly
    spread (overviews are averaged, so their deviation is too small), and in more if those have no valid pixel. A
    constant band has the deviation 1. Raises InputError if there is no valid pixel.
    """
    rows, cols = -(-scene.grid.height // _SAMPLE_WINDOW), -(-scene.grid.width // _SAMPLE_WINDOW)
    across = min(cols, math.isqrt(_SAMPLE_WINDOWS))
    down = min(rows, _SAMPLE_WINDOWS // across)
    across = min(cols, _SAMPLE_WINDOWS // down)
    steps = -(-rows // down), -(-cols // across)
    while True:
        count, total, squares = 0, np.zeros(len(scene.bands)), np.zeros(len(scene.bands))
        for window in _spread(scene.grid, *steps):
            pixels, valid = scene.read(window)
            values = (pixels.reshape(-1, len(scene.bands)) if valid.all() else pixels[valid]).astype(np.float64)
            count += len(values)
            total += values.sum(axis=0)
            squares += np.einsum("ij,ij->j", values, values)
        if count:
            mean = total / count
            deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
            return mean, np.where(deviation > 1e-9 * np.maximum(1, np.abs(mean)), deviation, 1.0)
        if steps == (1, 1):
            raise InputError(f"{scene.path}: has no valid pixel (all are nodata, masked or not finite)")
        steps = max(1, steps[0] // 2), max(1, steps[1] // 2)


def _spread(grid: Grid, down: int, across: int) -> Iterator[Window]:
    """Of the windows that cover a grid, those of every ``down``-th row and ``across``-th column of windows."""
    size = _SAMPLE_WINDOW
    for row in range(down // 2 * size, grid.height, down * size):
        for col in range(across // 2 * size, grid.width, across * size):
            yield Window(row, col, min(size, grid.height - row), min(size, grid.width - col))


def overview_rgb(scene: Scene, max_size: int) -> npt.NDArray[np.uint8]:
    """The whole scene (y, x, 3), at most ``max_size`` pixels wide and high, to look at.

    The first three bands, or the first one as grey. 8-bit values as they are; others stretched from their 2nd to
    their 98th percentile. Pixels without data are light grey.
    """
    height, width = scene.grid.height, scene.grid.width
    longest = max(height, width)
    # Every n-th pixel, about twice as many as wanted, then averaged: GDAL's own averaging is five times slower.
    sampled = _scaled(height, width, min(1.0, 2 * max_size / longest))
    # Every stored tile is looked at once: none is worth keeping, but for the row of them at hand.
    pixels, valid = _read(scene, scene.grid.extent, sampled, cache=64 << 20)
    shown = pixels[..., [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]]
    picture = shown if shown.dtype == np.uint8 else np.zeros(shown.shape, np.uint8)
    for band in range(3 if shown.dtype != np.uint8 and valid.any() else 0):
        values = shown[..., band].astype(np.float32)
        low, high = np.percentile(values[valid], [2, 98])
        scaled = (np.where(valid, values, low) - low) * (255 / max(float(high - low), 1e-12))
        picture[..., band] = np.clip(scaled, 0, 255)
    picture[~valid] = 224
    rows, cols = _scaled(height, width, min(1.0, max_size / longest))
    if (rows, cols) == sampled:
        return np.asarray(picture, np.uint8)
    from PIL import Image

    return np.asarray(Image.fromarray(np.asarray(picture, np.uint8)).resize((cols, rows), Image.Resampling.BOX))


def _scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    return max(1, round(height * factor)), max(1, round(width * factor))


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


def open_labels(path: str | Path | Url) -> LabelRaster:
    """Describe a raster of integer class ids. Raises InputError in one line if it is none."""
    source = identify(path)
    return patiently(partial(_describe_labels, str(source.files[0]) if source.remote else str(path), source))


def _describe_labels(text: str, source: Source) -> LabelRaster:
    with _reading(text, source, None), _open(source) as dataset:
        _check_header(text, source, dataset)
        _georeference(text, dataset, warp=False)
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


class _Handle:
    """An open file: for one thread."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.base = _open(scene.source)
        self.dataset = self.base if scene.warp_to is None else _warped(self.base, scene.warp_to)
        self.files = scene.source.stamps()
        if _identity(scene.source, self.dataset) != scene.identity:
            raise _changed(scene)
        self.lut = _lut(self.dataset, scene.bands[0]) if scene.palette else None

    def read(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """Pixels (y, x, band) and valid (y, x) of a window; every n-th of them if ``shape`` is smaller."""
        try:
            return self._read(window, shape)
        finally:
            # What is written over while it is open gives complaints of all kinds, or some old pixels and some new.
            if self.scene.source.stamps() != self.files:
                raise _changed(self.scene)

    def _read(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        scene = self.scene
        frame = rasterio.windows.Window(window.col_off, window.row_off, window.width, window.height)
        if self.lut is not None:
            index = self.dataset.read(scene.bands[0], window=frame, out_shape=shape)
            pixels, valid = np.ascontiguousarray(self.lut[index, :3]), self.lut[index, 3] > 0
            valid &= _has_data(index[..., None], scene.nodata[:1])
        else:
            pixels = np.empty((*shape, len(scene.bands)), scene.dtype)
            # GDAL writes the bands side by side itself: faster than turning the array afterwards.
            self.dataset.read(list(scene.bands), window=frame, out=pixels.transpose(2, 0, 1))
            valid = _has_data(pixels, scene.nodata)
        if scene.alpha is not None:
            valid &= self.dataset.read(scene.alpha, window=frame, out_shape=shape) > 0
        for band in scene.masks:
            valid &= self.dataset.read_masks(band, window=frame, out_shape=shape) > 0
        return pixels, valid

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()
        self.base.close()


def _has_data(pixels: Pixels, nodata: tuple[float | None, ...]) -> Mask:
    """Where pixels (y, x, band) are data, as far as their values tell.

    A float that is not finite, or the nodata value in any band, is none. In 8-bit images the nodata value is also a
    colour (a shadow has no blue), so there all bands must have it.
    """
    valid = np.ones(pixels.shape[:2], bool)
    if pixels.dtype.kind == "f":
        for band in range(pixels.shape[2]):
            valid &= np.isfinite(pixels[..., band])
    values = [(band, value) for band, value in enumerate(nodata) if value is not None and not math.isnan(value)]
    absent = None
    for band, value in values:
        here = pixels[..., band] == _in_type(value, pixels.dtype)
        if pixels.dtype == np.uint8:
            absent = here if absent is None else absent & here
        else:
            absent = here if absent is None else absent | here
    return valid if absent is None else valid & ~absent


def _in_type(value: float, dtype: np.dtype[np.generic]) -> float:
    """A nodata value as the pixels have it: float32 files often declare it with the digits of a double."""
    if dtype.kind != "f":
        return value
    limit = float(np.finfo(np.float32).max)
    return float(np.float32(min(max(value, -limit), limit)))


_local = threading.local()


@contextmanager
def _handle(scene: Scene) -> Iterator[_Handle]:
    """This thread's open file of the scene, closed after a failure; the least recently used of several is closed."""
    handles: OrderedDict[tuple[object, ...], _Handle] = getattr(_local, "handles", None) or OrderedDict()
    _local.handles = handles
    key = (scene.source.name, scene.identity, scene.bands, scene.palette, scene.warp_to)
    if key not in handles:
        handles[key] = _Handle(scene)
        while len(handles) > _OPEN_FILES:
            handles.popitem(last=False)[1].close()
    handles.move_to_end(key)
    try:
        yield handles[key]
    except Exception:
        handles.pop(key).close()  # the next attempt sees the file as it is by then
        raise


def _read(
    scene: Scene, window: Window, shape: tuple[int, int], cache: int = _GDAL["GDAL_CACHEMAX"]
) -> tuple[Pixels, Mask]:
    """Pixels (y, x, band) and valid (y, x) of a window; every n-th of them if ``shape`` is smaller."""

    def attempt() -> tuple[Pixels, Mask]:
        with _reading(scene.path, scene.source, window, {"GDAL_CACHEMAX": cache}), _handle(scene) as handle:
            return handle.read(window, shape)

    return patiently(attempt)


@contextmanager
def _reading(
    path: str, source: Source, window: Window | None, options: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[None]:
    """Set GDAL up for this thread, and turn its complaints into one line for the user."""
    where = "" if window is None else f" at {window}"
    try:
        with rasterio.Env(session=DummySession(), **{**_options(source), **options}):
            yield
    except (RasterioError, rasterio._err.CPLE_BaseError, UnicodeDecodeError) as error:  # noqa: SLF001
        complaint = _complaint(error)
        if source.remote and _SERVER_TROUBLE.search(complaint):
            raise Unreachable(f"{path}: the server fails{where}: {complaint}") from None
        raise InputError(f"{path}: cannot be read{where}: {complaint}") from (None if source.remote else error)


def _options(source: Source) -> dict[str, Any]:
    """Options of GDAL. Credentials are none of them: it finds those itself, where obstore does."""
    if not source.remote:
        return _GDAL
    seconds = silent_seconds()
    options = {
        **_SERVERS,
        "GDAL_HTTP_CONNECTTIMEOUT": min(10, seconds),
        "GDAL_HTTP_LOW_SPEED_TIME": seconds,
        "AWS_NO_SIGN_REQUEST": is_yes("AWS_NO_SIGN_REQUEST"),
    }
    if endpoint := s3_endpoint():
        protocol, _, host = endpoint.partition("://")
        options |= {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": protocol == "https", "AWS_VIRTUAL_HOSTING": False}
    return {**_GDAL, **{name: value for name, value in options.items() if name not in os.environ}}


def _complaint(error: BaseException) -> str:
    """The innermost thing that GDAL said, in one line."""
    error = root_of(error)
    line = re.sub(r" \(this error can be turned.*", "", " ".join(str(error).split()))
    return line[:300] or type(error).__name__


def _open(source: Source) -> DatasetReader:
    return rasterio.open(source.name, driver=source.driver)


def _check_header(text: str, source: Source, dataset: DatasetReader) -> None:
    """Refuse what would fail, or take all memory, as soon as a pixel is read."""
    if dataset.subdatasets and not source.name.startswith(("GTIFF_DIR:", "GPKG:")):
        # rasterio prefixes nothing; the names can be given to tileseg as they are.
        choice = ", ".join(dataset.subdatasets[:6]) + (", ..." if len(dataset.subdatasets) > 6 else "")
        raise InputError(f"{text}: holds {len(dataset.subdatasets)} rasters; name one of them instead: {choice}")
    if dataset.count == 0 or dataset.width < 1 or dataset.height < 1:
        raise InputError(
            f"{text}: has no pixels ({dataset.count} bands of {dataset.width} x {dataset.height}); expected an image"
        )
    if any(np.dtype(_numpy_name(dtype)).kind == "c" for dtype in dataset.dtypes):
        raise InputError(
            f"{text}: its pixels are complex numbers ({dataset.dtypes[0]}); convert them to an intensity first"
        )
    unknown = {_numpy_name(dtype) for dtype in dataset.dtypes} - {*_SAME_TYPE, *_OTHER_TYPES}
    if unknown:
        raise InputError(f"{text}: its pixels are {', '.join(sorted(unknown))}, which tileseg does not read")
    pixels = dataset.width * dataset.height
    size = sum(stamp[0] for stamp in source.stamps())
    if pixels > MOST_PIXELS or (source.driver != "VRT" and pixels > max(256, size) * _PIXELS_PER_BYTE):
        raise InputError(
            f"{text}: claims {dataset.width} x {dataset.height} pixels in {size:,} bytes; its header must be damaged"
        )
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL" else 1
    held = rows * cols * together * np.dtype(dataset.dtypes[0]).itemsize
    if held > LARGEST_BLOCK:
        raise InputError(
            f"{text}: is stored in pieces of {cols} x {rows} pixels x {together} bands, {held >> 20} MiB each; "
            f"expected at most {LARGEST_BLOCK >> 20} MiB; rewrite it: gdal_translate -co TILED=YES {text} tiled.tif"
        )


def _numpy_name(dtype: str) -> str:
    """The name of a pixel type in NumPy: rasterio knows complex ones that NumPy does not."""
    return "complex64" if dtype.startswith("complex") else dtype


def _georeference(text: str, dataset: DatasetReader, warp: bool) -> str | None:
    """Check that pixels lie on a regular grid; otherwise say how to get one, or the system to warp into."""
    points, points_crs = dataset.gcps
    has_grid = dataset.transform != Affine.identity()
    geolocation = bool(dataset.tags(ns="GEOLOCATION"))
    if not has_grid and (points or dataset.rpcs is not None or geolocation):
        kind, option = ("RPCs", "-rpc") if not points and dataset.rpcs else ("ground control points", "-tps")
        if geolocation and not points:
            kind, option = "a geolocation array", "-geoloc"
        if not warp or option == "-geoloc":
            raise InputError(
                f"{text}: is tied to the ground by {kind} only, so its pixels lie on no grid; "
                f"warp it first: gdalwarp {option} -r bilinear -t_srs EPSG:<code> {text} warped.tif"
            )
        if points and points_crs is not None and points_crs.is_projected:
            return str(points_crs.to_wkt())
        if points:
            lon, lat = np.mean([(p.x, p.y) for p in points], axis=0)
        else:
            lon, lat = dataset.rpcs.long_off, dataset.rpcs.lat_off
        zone = int((lon + 180) // 6) % 60 + 1
        return str(CRS.from_epsg((32600 if lat >= 0 else 32700) + zone).to_wkt())
    numbers = tuple(dataset.transform)[:6]
    if not all(map(math.isfinite, numbers)) or dataset.transform.is_degenerate:
        raise InputError(f"{text}: its georeference maps all pixels onto a line or nowhere: {numbers}")
    return None


def _warped(dataset: DatasetReader, target: str) -> WarpedVRT:
    return WarpedVRT(dataset, crs=target, resampling=Resampling.bilinear, add_alpha=_alpha(dataset) is None)


def _alpha(dataset: DatasetReader) -> int | None:
    return next((i for i in dataset.indexes if dataset.colorinterp[i - 1] == ColorInterp.alpha), None)


_Wish = tuple[int, tuple[int, ...] | None, tuple[str, ...]]


def _describe(text: str, source: Source, dataset: DatasetReader, wish: _Wish, warp_to: str | None) -> Scene:
    alpha = _alpha(dataset)
    palette, bands, notes = _choose_bands(text, dataset, wish)
    if warp_to is not None:
        notes = (*notes, f"warped into {dataset.crs.to_string()[:40]} as it is read")
    flags = [dataset.mask_flag_enums[band - 1] for band in bands]
    masks: tuple[int, ...] = ()
    if alpha is None:
        if any(MaskFlags.per_dataset in flag for flag in flags):
            masks = (bands[0],)
        else:
            masks = tuple(sorted({band for band, flag in zip(bands, flags, strict=True) if not flag}))
    # A mask kept beside the pixels is the better witness: lossy compression changes nodata values.
    nodata = tuple(None if masks else dataset.nodatavals[band - 1] for band in bands)
    native = {_numpy_name(dataset.dtypes[band - 1]) for band in bands}
    dtype = native.pop() if len(native) == 1 and native <= {*_SAME_TYPE} else "float32"
    _probe(text, source, dataset, bands)
    return Scene(
        path=text,
        source=source,
        grid=_grid(dataset),
        bands=bands,
        dtype="uint8" if palette else dtype,
        nodata=nodata,
        alpha=alpha,
        masks=masks,
        palette=palette,
        block=tuple(dataset.block_shapes[bands[0] - 1]),
        identity=_identity(source, dataset),
        warp_to=warp_to,
        notes=notes,
    )


def _choose_bands(text: str, dataset: DatasetReader, wish: _Wish) -> tuple[bool, tuple[int, ...], tuple[str, ...]]:
    """Whether colours are expanded, which bands are read, and what there is to say about it."""
    expected, bands, names = wish
    alpha = _alpha(dataset)
    data = [i for i in dataset.indexes if i != alpha]
    if bands is not None:
        wrong = [band for band in bands if not 1 <= band <= dataset.count]
        if wrong:
            raise InputError(f"{text}: has no band {wrong[0]}: expected --bands with numbers from 1 to {dataset.count}")
        if len(bands) != expected:
            raise UsageError(f"--bands names {len(bands)} bands; the model takes {expected}")
        return False, bands, ()
    if len(data) == 1 and dataset.colorinterp[data[0] - 1] == ColorInterp.palette:
        if expected != 3:
            raise InputError(
                f"{text}: stores numbers of colours (a palette), which give 3 bands; the model takes {expected}; "
                "choose another model, or say --bands 1 if the numbers themselves are meant"
            )
        note = "its colour table is expanded to red, green, blue"
        return True, (data[0],) * 3, (note,)
    if len(data) < expected:
        listed = f" ({', '.join(names)})" if names else ""
        hint = f"; --bands {','.join(['1'] * expected)} repeats a band" if data == [1] else ""
        raise InputError(
            f"{text}: has {len(data)} band{'s' * (len(data) != 1)} besides alpha; the model takes {expected}{listed}"
            f"{hint or '; choose a scene or a model that fit, or say which bands to take with --bands'}"
        )
    described = {i: {dataset.colorinterp[i - 1].name, (dataset.descriptions[i - 1] or "").lower()} for i in data}
    found = [[i for i in data if name.lower() in described[i]] for name in names]
    if len(names) == expected and all(len(matches) == 1 for matches in found):
        chosen = tuple(matches[0] for matches in found)
        in_order = chosen == tuple(data[:expected])
        return False, chosen, () if in_order else (f"bands {chosen} are its {', '.join(names)}",)
    chosen = tuple(data[:expected])
    ignored = len(data) - expected
    return False, chosen, (f"bands {chosen} of {len(data)} are used; choose others with --bands",) if ignored else ()


def _probe(text: str, source: Source, dataset: DatasetReader, bands: tuple[int, ...]) -> None:
    """See that the file is as long as its last tile needs, and read one pixel: a truncated one is refused at once."""
    if dataset.driver == "GTiff":
        _check_length(text, source, dataset, bands[-1])
    dataset.read(list(bands), window=rasterio.windows.Window(0, 0, 1, 1))


def _check_length(text: str, source: Source, dataset: DatasetReader, band: int) -> None:
    rows, cols = dataset.block_shapes[0]
    last = f"{(dataset.width - 1) // cols}_{(dataset.height - 1) // rows}"
    start, length = (dataset.get_tag_item(f"BLOCK_{what}_{last}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE"))
    size = source.stamps()[0][0]
    if start and length and int(start) + int(length) > size:
        raise InputError(
            f"{text}: is truncated: its last pixels should end at byte {int(start) + int(length):,}, but the file has "
            f"{size:,} bytes; copy or download it again"
        )


def _grid(dataset: DatasetReader) -> Grid:
    crs = dataset.crs
    wkt = crs.to_wkt(version="WKT2_2019") if crs else None
    return Grid(dataset.height, dataset.width, Affine(*tuple(dataset.transform)[:6]), wkt)


def _changed(scene: Scene) -> InputError:
    return InputError(
        f"{scene.path}: has changed since the run began; put it back as it was, or start anew with --overwrite"
    )


def _identity(source: Source, dataset: DatasetReader) -> str:
    facts = [
        *source.stamps(),
        (dataset.height, dataset.width, dataset.count, dataset.dtypes, tuple(dataset.transform)[:6]),
        dataset.crs.to_wkt() if dataset.crs else None,
    ]
    if part := SubDataset.parse(source.name):  # the pages of a stack are mostly alike
        facts.append(part.part)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _lut(dataset: DatasetReader, band: int) -> npt.NDArray[np.uint8]:
    """Colour table (number, red-green-blue-alpha) as long as the pixel type has values."""
    table = np.zeros((1 << (8 * np.dtype(dataset.dtypes[band - 1]).itemsize), 4), np.uint8)
    for number, color in dataset.colormap(band).items():
        if number < len(table):
            table[number] = color
    return table


def _colors(dataset: DatasetReader, band: int) -> dict[int, str]:
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return {}
    return {i: f"#{r:02x}{g:02x}{b:02x}" for i, (r, g, b, _) in sorted(dataset.colormap(band).items())}


def _category_names(dataset: DatasetReader, band: int) -> dict[int, str]:
    """Names that `tileseg run` keeps in the band's tags as ``class_<id>``."""
    tags = dataset.tags(band)
    pairs = ((key.removeprefix("class_"), value) for key, value in tags.items() if key.startswith("class_"))
    return {int(key): value for key, value in pairs if key.isdecimal()}
