"""Open a scene with whatever reads it, and reflect it past its edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.source.dicom import is_series, open_dicom, refuse_series
from tileseg.source.dicom_header import is_dicom
from tileseg.source.protocol import OF_A_RUN, Mask, Pixels, PixelSource, ReadRequest, Words
from tileseg.source.raster import open_raster
from tileseg.source.slide import open_slide
from tileseg.source.slide_file import is_slide
from tileseg.source.tile_list import is_many
from tileseg.source.tiles import open_tiles
from tileseg.storage.place import Named
from tileseg.window import Window


@dataclass(frozen=True, slots=True)
class Opener:
    """A kind of source of pixels."""

    name: str
    """What it is called in messages and in documentation."""
    recognises: Callable[[Named], bool]
    """Whether a path or an address is one of this kind: cheap, and without an error for what is not there."""
    open: Callable[[Named, ReadRequest], PixelSource]
    """Describes it. Raises InputError or UsageError in one line."""


RASTERS = Opener("rasters that GDAL reads", lambda path: True, open_raster)  # noqa: ARG005 - it refuses the rest

TILES = Opener("many files on one grid", is_many, open_tiles)

OPENERS: list[Opener] = [
    Opener("whole slides", is_slide, open_slide),
    Opener("scans (DICOM)", is_dicom, open_dicom),
    Opener("series of scans", is_series, refuse_series),
    TILES,
    RASTERS,
]
"""Kinds of sources, the first that recognises a path opens it. Another kind is one more line, before GDAL's."""


def opener_of(path: Named) -> Opener:
    """The kind of source that a path or an address is."""
    return next(opener for opener in OPENERS if opener.recognises(path))


def open_request(path: Named, wanted: ReadRequest) -> PixelSource:
    """Describe a scene. Raises InputError or UsageError in one line."""
    opener = TILES if wanted.joining.changes_one else opener_of(path)
    return opener.open(path, wanted)


def open_scene(
    path: Named,
    *,
    expected: int,
    bands: tuple[int | str, ...] | None = None,
    names: tuple[str, ...] = (),
    warp: bool = False,
    trust_vrt: bool = False,
    words: Words = OF_A_RUN,
) -> PixelSource:
    """Describe a raster whose bands a network can take.

    ``expected`` is how many bands the model takes, and ``names`` what they mean: bands described so (or with such a
    colour) are taken wherever they are; otherwise the first ones that are not alpha. ``bands`` says which to take
    instead, by number or by name; they are data, also where the file calls one alpha. A scene that has only ground
    control points or RPCs is refused, or with ``warp`` read through a warp into UTM. A virtual raster may refer to
    files outside its own folder with ``trust_vrt``. ``words``: how messages name what the user can change. Raises
    InputError in one line for whatever cannot be used.
    """
    return open_request(path, ReadRequest(expected, bands, names, warp, trust_vrt, words))


def read_plane(
    scene: PixelSource, window: Window, limit: int, fill: Sequence[float] | None = None
) -> tuple[Pixels, Mask]:
    """Read a window that may reach past the scene's edges: pixels (y, x, band) and valid (y, x).

    The scene is continued by reflection without repeating the edge (``numpy.pad(mode="reflect")``), rows and
    columns each for themselves; further than ``limit`` pixels past the edge, by the edge pixel. Only the rows
    and columns that appear in the result are read.
    """
    if scene.grid.extent.intersection(window) == window:
        return scene.read(window, fill)
    rows = reflected(window.row_off, window.height, scene.grid.height, limit)
    cols = reflected(window.col_off, window.width, scene.grid.width, limit)
    top, left = int(rows.min()), int(cols.min())
    needed = Window(top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left)
    pixels, valid = scene.read(needed, fill)
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
