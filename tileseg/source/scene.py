"""Rasters as scenes: describe one, choose its bands, read windows of it, reflect it past its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.source.formats import RasterFile, identify
from tileseg.source.gdal import (
    Mask,
    Pixels,
    alpha_band,
    grid_of,
    identity_of,
    open_dataset,
    read_pixels,
    reading,
    warped,
)
from tileseg.source.header import _SAME_TYPE, _numpy_name, check_header, georeference, probe
from tileseg.storage.patience import patiently
from tileseg.storage.place import Url
from tileseg.window import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True, slots=True)
class Scene:
    """An input raster, as far as it needs to be known to plan a run; picklable."""

    path: str
    """The file as the user named it."""
    source: RasterFile
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
        pixels, valid = read_pixels(self, window, (window.height, window.width))
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
    trust_vrt: bool = False,
) -> Scene:
    """Describe a raster whose bands a network can take.

    ``expected`` is how many bands the model takes, and ``names`` what they mean: bands described so (or with such a
    colour) are taken wherever they are; otherwise the first ones that are not alpha. ``bands`` says which to take
    instead. A scene that has only ground control points or RPCs is refused, or with ``warp`` read through a warp
    into UTM. A virtual raster may refer to files outside its own folder with ``trust_vrt``. Raises InputError in one
    line for whatever cannot be used.
    """
    source = identify(path, trust_vrt=trust_vrt)
    text = str(source.files[0]) if source.remote else str(path)

    def look() -> Scene:
        with reading(text, source, None), open_dataset(source) as dataset:
            check_header(text, source, dataset)
            target = georeference(text, dataset, warp)
            if target is not None:
                with warped(dataset, target) as on_grid:
                    return _describe(text, source, on_grid, (expected, bands, names), target)
            return _describe(text, source, dataset, (expected, bands, names), None)

    return patiently(look)


_Wish = tuple[int, tuple[int, ...] | None, tuple[str, ...]]


def _describe(text: str, source: RasterFile, dataset: DatasetReader, wish: _Wish, warp_to: str | None) -> Scene:
    alpha = alpha_band(dataset)
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
    probe(text, source, dataset, bands)
    return Scene(
        path=text,
        source=source,
        grid=grid_of(dataset),
        bands=bands,
        dtype="uint8" if palette else dtype,
        nodata=nodata,
        alpha=alpha,
        masks=masks,
        palette=palette,
        block=tuple(dataset.block_shapes[bands[0] - 1]),
        identity=identity_of(source, dataset),
        warp_to=warp_to,
        notes=notes,
    )


def _choose_bands(text: str, dataset: DatasetReader, wish: _Wish) -> tuple[bool, tuple[int, ...], tuple[str, ...]]:
    """Whether colours are expanded, which bands are read, and what there is to say about it."""
    expected, bands, names = wish
    alpha = alpha_band(dataset)
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
