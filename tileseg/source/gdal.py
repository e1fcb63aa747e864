"""Read pixels with GDAL.

Every thread opens a file for itself when it first reads, because a GDAL handle belongs to one thread.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.windows
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession
from rasterio.vrt import WarpedVRT

from tileseg.errors import InputError, Unreachable, first_line, root_of
from tileseg.grid import Grid
from tileseg.source.bands import alpha_bands
from tileseg.source.formats import RasterFile
from tileseg.source.messages import listen, take_failure
from tileseg.source.orientation import UPRIGHT, stored_window, turn, turned_size
from tileseg.source.protocol import Mask, Pixels
from tileseg.storage.environment import is_yes, s3_endpoint, silent_seconds
from tileseg.storage.local import is_file
from tileseg.storage.patience import patiently
from tileseg.storage.place import SubDataset
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from tileseg.source.raster import RasterScene


_OPEN_FILES = 32
"""Per thread: training draws windows from many scenes in turn, and opening a file takes longer than a window of it."""

_GDAL: dict[str, Any] = {
    "GDAL_CACHEMAX": 256 << 20,  # bytes (rasterio's unit) over all threads: part of the projected memory
    "GDAL_NUM_THREADS": 1,  # several blocks are read at once already
    "GDAL_DISABLE_READDIR_ON_OPEN": True,  # world files and the like are still found, by name
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_HTTP_MAX_RETRY": 0,
}

_CLOSED = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # no /vsicurl/, /vsis3/ and so on
    "GDAL_HTTP_PROXY": "127.0.0.1:9",  # nothing listens there: other requests, such as for systems by address, fail
    "GDAL_HTTP_TIMEOUT": 1,
    "OGR_SQLITE_STATIC_VIRTUAL_OGR": "NO",
    "OGR_SQLITE_ALLOW_EXTERNAL_ACCESS": "NO",
}
"""For files of this machine: nothing is fetched, whatever they say. The checks before do not rely on it."""

_SERVERS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # nor are files beside a scene asked for
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 0.2,  # seconds, doubled each time
    "GDAL_HTTP_RETRY_CODES": "ALL",
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,  # bytes per second
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/:/vsicurl/",  # once closed: it may have changed by then
}
"""Further options for scenes on servers; where the environment says otherwise, it wins."""

_SERVER_TROUBLE = re.compile(r"HTTP|curl|IReadBlock|read error|got \d+ bytes|connect|timed out|resolve", re.IGNORECASE)
"""Complaints of GDAL that may be the server's fault."""

# The scene's description says whether it has coordinates; the log gets GDAL's warnings, the terminal does not.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

logging.getLogger("rasterio").addHandler(logging.NullHandler())


class _Handle:
    """An open file: for one thread."""

    def __init__(self, scene: RasterScene) -> None:
        self.scene = scene
        self.base = open_dataset(scene.file)
        self.dataset = self.base if scene.warp_to is None else warped(self.base, scene.warp_to)
        self.stamps = scene.file.stamps()
        if identity_of(scene.file, self.dataset) != scene.identity:
            raise changed(scene)
        self.lut = lut(self.dataset, scene.bands[0]) if scene.palette else None

    def read(self, scene: RasterScene, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """Pixels (y, x, band) and valid (y, x) of a window; every n-th of them if ``shape`` is smaller.

        ``scene`` may call other pixels nodata than the one that the file was opened for.
        """
        try:
            return self._read(scene, window, shape)
        finally:
            # What is written over while it is open gives complaints of all kinds, or some old pixels and some new.
            here = self.scene.file.stamps(None if self.scene.warp_to else window)
            if not here.items() <= self.stamps.items():
                raise changed(self.scene)

    def _read(self, scene: RasterScene, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
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
    if dtype != np.float32:
        return value
    limit = float(np.finfo(np.float32).max)
    return float(np.float32(min(max(value, -limit), limit)))


_local = threading.local()


@contextmanager
def handle_of(scene: RasterScene) -> Iterator[_Handle]:
    """This thread's open file of the scene, closed after a failure; the least recently used of several is closed."""
    handles: OrderedDict[tuple[object, ...], _Handle] = getattr(_local, "handles", None) or OrderedDict()
    _local.handles = handles
    key = (scene.file.name, scene.identity, scene.bands, scene.palette, scene.warp_to)
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


def read_pixels(
    scene: RasterScene, window: Window, shape: tuple[int, int], cache: int = _GDAL["GDAL_CACHEMAX"]
) -> tuple[Pixels, Mask]:
    """Pixels (y, x, band) and valid (y, x) of a window; every n-th of them if ``shape`` is smaller."""
    stored = window
    if scene.orientation != UPRIGHT:
        stored = stored_window(scene.orientation, window, scene.grid.height, scene.grid.width)
        shape = turned_size(scene.orientation, *shape)

    def attempt() -> tuple[Pixels, Mask]:
        with reading(scene.path, scene.file, window, {"GDAL_CACHEMAX": cache}), handle_of(scene) as handle:
            return handle.read(scene, stored, shape)

    pixels, valid = patiently(attempt)
    return (
        (pixels, valid)
        if scene.orientation == UPRIGHT
        else (turn(scene.orientation, pixels), turn(scene.orientation, valid))
    )


@contextmanager
def reading(
    path: str, source: RasterFile, window: Window | None, options: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[None]:
    """Set GDAL up for this thread, and turn its complaints into one line for the user."""
    where = "" if window is None else f" at {window}"
    with complaints(path, where, source.remote, {**_options(source.remote), **options}):
        yield


@contextmanager
def complaints(
    path: str,
    where: str = "",
    remote: bool = False,
    options: Mapping[str, Any] = MappingProxyType({**_GDAL, **_CLOSED}),
) -> Iterator[None]:
    """Turn GDAL's complaints about a file into one line for the user, under these options of GDAL."""
    listen()
    take_failure()
    try:
        with rasterio.Env(session=DummySession(), **options):
            yield
        if (failure := take_failure()) is not None:
            raise InputError(f"{path}: cannot be read{where}: {failure[:300]}")
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot be read{where}: its header has text that is not UTF-8") from None
    except (RasterioError, rasterio._err.CPLE_BaseError) as error:  # noqa: SLF001
        complaint = _complaint(error)
        if remote and _SERVER_TROUBLE.search(complaint):
            raise Unreachable(f"{path}: the server fails{where}: {complaint}") from None
        raise InputError(f"{path}: cannot be read{where}: {complaint}") from (None if remote else error)


def _options(remote: bool) -> dict[str, Any]:
    """Options of GDAL. Credentials are none of them: it finds those itself, where obstore does."""
    if not remote:
        return {**_GDAL, **_CLOSED}
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
    return re.sub(r" \(this error can be turned.*", "", first_line(root_of(error)))


def open_dataset(source: RasterFile) -> DatasetReader:
    """Open a file with the one driver that may."""
    return rasterio.open(source.text or source.name, driver=source.driver)


def warped(dataset: DatasetReader, target: str) -> WarpedVRT:
    """A scene with ground control points, on a grid in another coordinate reference system."""
    return WarpedVRT(dataset, crs=target, resampling=Resampling.bilinear, add_alpha=not alpha_bands(dataset))


def crs_of(source: RasterFile, dataset: DatasetReader) -> CRS | None:
    """A file's coordinate reference system; where only a world file places it, that of the ``.prj`` beside it."""
    if dataset.crs or source.remote or dataset.transform.is_identity:
        return dataset.crs
    beside = Path(str(source.files[0])).with_suffix(".prj")
    if not is_file(beside):
        return None
    try:
        return CRS.from_wkt(beside.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, CRSError) as error:
        raise InputError(
            f"{beside}: holds no coordinate reference system (WKT) that can be read ({first_line(error)}); correct or "
            "remove it"
        ) from error


def grid_of(source: RasterFile, dataset: DatasetReader) -> Grid:
    """Where a file's pixels lie."""
    crs = crs_of(source, dataset)
    wkt = crs.to_wkt(version="WKT2_2019") if crs else None
    return Grid(dataset.height, dataset.width, Affine(*tuple(dataset.transform)[:6]), wkt)


def changed(scene: RasterScene) -> InputError:
    """What is raised where a scene is not what it was."""
    return InputError(
        f"{scene.path}: has changed since the run began; put it back as it was, or start anew with --overwrite"
    )


def lut(dataset: DatasetReader, band: int) -> npt.NDArray[np.uint8]:
    """Colour table (number, red-green-blue-alpha) as long as the pixel type has values."""
    table = np.zeros((1 << (8 * np.dtype(dataset.dtypes[band - 1]).itemsize), 4), np.uint8)
    for number, color in dataset.colormap(band).items():
        if number < len(table):
            table[number] = color
    return table


def identity_of(source: RasterFile, dataset: DatasetReader) -> str:
    """Digest of what is different when a file is."""
    facts = [
        *source.stamps().values(),
        (dataset.height, dataset.width, dataset.count, dataset.dtypes, tuple(dataset.transform)[:6]),
        crs.to_wkt() if (crs := crs_of(source, dataset)) else None,
    ]
    if part := SubDataset.parse(source.name):  # the pages of a stack are mostly alike
        facts.append(part.part)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
