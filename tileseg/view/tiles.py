"""Tiles of the map, drawn from a run's pixels: the scene, labels, probabilities, disagreement.

A tile asks which pixel of the scene lies at each of its own (by the scene's coordinate reference system), reads the
window of these, thinned where a tile has fewer pixels than that, and takes the nearest. No raster is warped as a whole,
and one without coordinates is shown like any other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tileseg.labels import BYTE_STEPS, NODATA, decide_again
from tileseg.source.label_raster import open_labels
from tileseg.source.protocol import PixelSource
from tileseg.view.viewed import ViewedRun
from tileseg.webmap import Array, Placement
from tileseg.window import Window

SIZE = 256
"""Pixels of a tile's side."""

MOST = 2048
"""Pixels on the side of a window whose probabilities are read at once: what tiles at lower zooms have to do without."""

_NODES = 16
"""Cells of a tile's side at whose corners places are computed; between them they are interpolated."""

_SAMPLE = 1024
"""Pixels of the picture that says how dark and light values are stretched."""

_SMALLEST = 4096
"""Pixels of the longest side of the picture that tiles of low zooms are cut from."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """The pixels that one tile shows."""

    window: Window
    """Of the scene: what has to be read."""
    rows: npt.NDArray[np.int64]
    """(SIZE, SIZE) row in the window of what each pixel of the tile shows."""
    cols: npt.NDArray[np.int64]
    """The same of columns."""
    there: npt.NDArray[np.bool_]
    """(SIZE, SIZE) whether it shows any."""

    def thinned(self, step: int = 1) -> tuple[int, int]:
        """Rows and columns that are enough of the window: one for each of the tile's, or all that there are."""
        height, width = self.window.height, self.window.width
        ratio = max(1, min(height, width) // SIZE) * step
        return max(1, height // ratio), max(1, width // ratio)

    def taken(self, read: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(SIZE, SIZE, ...) of what was read of the window, thinned or not."""
        rows = self.rows * read.shape[0] // self.window.height
        cols = self.cols * read.shape[1] // self.window.width
        return np.asarray(read[rows, cols])


def look(placement: Placement, zoom: int, col: int, line: int) -> Look | None:
    """What the tile of a zoom, column and line shows; None: nothing of the scene."""
    side = 2.0**-zoom
    nodes = np.linspace(0, 1, _NODES + 1) * side
    x, y = np.meshgrid(nodes + col * side, nodes + line * side)
    pixels = placement.pixels(np.column_stack([x.ravel(), y.ravel()])).reshape(_NODES + 1, _NODES + 1, 2)
    fine = _between(pixels)
    cols, rows = np.floor(fine[..., 0]), np.floor(fine[..., 1])
    grid = placement.grid
    with np.errstate(invalid="ignore"):
        there = (cols >= 0) & (rows >= 0) & (cols < grid.width) & (rows < grid.height)
    if not there.any():
        return None
    top, left = int(rows[there].min()), int(cols[there].min())
    height, width = int(rows[there].max()) + 1 - top, int(cols[there].max()) + 1 - left
    whole = [np.where(there, each - start, 0).astype(np.int64) for each, start in ((rows, top), (cols, left))]
    return Look(Window(top, left, height, width), whole[0], whole[1], there)


def _between(nodes: Array) -> Array:
    """(SIZE, SIZE, 2) values at pixel centres, bilinear between the corners of cells (n + 1, n + 1, 2)."""
    at = (np.arange(SIZE) + 0.5) / SIZE * _NODES
    low = np.minimum(at.astype(np.int64), _NODES - 1)
    share = (at - low)[:, None, None]
    down = nodes[low] * (1 - share) + nodes[low + 1] * share
    share = (at - low)[None, :, None]
    return np.asarray(down[:, low] * (1 - share) + down[:, low + 1] * share)


class Tiles:
    """Draws the tiles of one run. Safe to use from several threads at once."""

    def __init__(self, run: ViewedRun) -> None:
        self.run = run
        self._look = lru_cache(maxsize=256)(lambda *place: look(run.placement, *place))

    @cached_property
    def _small(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
        """The whole scene, thinned: tiles of low zooms come from it. None where it is small enough itself."""
        scene = self.run.scene
        assert not isinstance(scene, str)
        longest = max(scene.grid.height, scene.grid.width)
        if longest <= _SMALLEST:
            return None
        shape = scene.grid.height * _SMALLEST // longest, scene.grid.width * _SMALLEST // longest
        return scene.read_thinned(scene.grid.extent, (max(1, shape[0]), max(1, shape[1])))

    @cached_property
    def _stretch(self) -> tuple[Array, Array] | None:
        """Values of each band that become black and white; None where they are bytes."""
        scene = self.run.scene
        assert not isinstance(scene, str)
        if scene.dtype == "uint8":
            return None
        pixels, valid = scene.read_thinned(scene.grid.extent, _fitting(scene, _SAMPLE))
        values = pixels[valid] if valid.any() else pixels.reshape(-1, pixels.shape[-1])
        low, high = np.percentile(values.astype(np.float64), [2, 98], axis=0)
        return low, np.maximum(high, low + 1e-12)

    def scene(self, zoom: int, col: int, line: int) -> bytes | None:
        """The scene itself: WebP."""
        scene, seen = self.run.scene, self._look(zoom, col, line)
        if seen is None or isinstance(scene, str):
            return None
        full = Look(scene.grid.extent, seen.rows + seen.window.row_off, seen.cols + seen.window.col_off, seen.there)
        if max(seen.thinned()) and min(seen.window.height, seen.window.width) > SIZE * 4 and self._small is not None:
            small, mask = self._small
            if seen.window.height // SIZE >= scene.grid.height // small.shape[0]:
                return self._picture(full.taken(small), full.taken(mask) & seen.there)
        pixels, valid = scene.read_thinned(seen.window, seen.thinned())
        return self._picture(seen.taken(pixels), seen.taken(valid) & seen.there)

    def _picture(self, pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> bytes:
        shown = pixels[..., [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]]
        if self._stretch is not None:
            low, high = (limit[[0, 1, 2] if len(limit) >= 3 else [0, 0, 0]] for limit in self._stretch)
            with np.errstate(invalid="ignore"):
                shown = np.clip(np.nan_to_num((shown - low) * (255 / (high - low))), 0, 255)
        rgb = shown.astype(np.uint8)
        image = Image.fromarray(rgb if valid.all() else np.dstack([rgb, valid.astype(np.uint8) * 255]))
        return _encoded(image, "WEBP", quality=85, method=2)

    def labels(
        self, zoom: int, col: int, line: int, hidden: frozenset[int], thresholds: Mapping[int, float]
    ) -> bytes | None:
        """Labels in their classes' colours: PNG.

        ``hidden``: classes that are not drawn; ``thresholds``: as in vectorize.
        None: nothing there, or too much to be decided anew at this zoom.
        """
        seen = self._look(zoom, col, line)
        if seen is None:
            return None
        labels = self._labels(seen, thresholds)
        if labels is None:
            return None
        labels[~seen.there] = NODATA
        clear = {*hidden, *(i for i, info in enumerate(self.run.mosaic.classes) if info.background), NODATA}
        return self._painted(labels, frozenset(clear))

    def nodata(self, zoom: int, col: int, line: int) -> bytes | None:
        """Where there are no data: PNG, hatched; None: nowhere."""
        seen = self._look(zoom, col, line)
        if seen is None:
            return None
        labels = self._labels(seen, {})
        assert labels is not None
        stripes = np.add.outer(np.arange(SIZE), np.arange(SIZE)) % 16 < 8
        without = (labels == NODATA) & seen.there
        if not without.any():
            return None
        image = (without & stripes).astype(np.uint8)
        return _with_palette(image, [(0, 0, 0, 0), (255, 0, 200, 200)])

    def _labels(self, seen: Look, thresholds: Mapping[int, float]) -> Bytes | None:
        mosaic, window = self.run.mosaic, seen.window
        if thresholds:
            found = self._chances(seen)
            if found is None:
                return None
            chances, valid = found
            return decide_again(chances, valid, thresholds)[0]
        wanted = min(window.height, window.width) // SIZE
        level = max((level for level in (1, *mosaic.levels) if level <= max(1, wanted)), default=1)
        row, col = window.row_off // level, window.col_off // level
        part = Window(row, col, -(-window.row_stop // level) - row, -(-window.col_stop // level) - col)
        read = mosaic.read_labels(part, level)
        rows = (seen.rows + window.row_off) // level - row
        cols = (seen.cols + window.col_off) // level - col
        return np.array(read[rows, cols])

    def _chances(self, seen: Look) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]] | None:
        """(class, SIZE, SIZE) probabilities, and where there are data; None where too many would have to be read."""
        window, mosaic = seen.window, self.run.mosaic
        if max(window.height, window.width) > MOST or not self.run.can_change:
            return None
        chances = mosaic.read_probabilities(window)[:, seen.rows, seen.cols]
        valid = (mosaic.read_labels(window)[seen.rows, seen.cols] != NODATA) & seen.there
        return chances, valid

    def measure(self, name: str, zoom: int, col: int, line: int) -> bytes | None:
        """A probability or the disagreement, dark to light: PNG."""
        seen = self._look(zoom, col, line)
        if seen is None:
            return None
        if (path := self.run.rasters.get(name)) is not None:
            scene = _raster(path)
            values, valid = scene.read_thinned(seen.window, seen.thinned())
            steps, there = seen.taken(values)[..., 0], seen.taken(valid) & seen.there
        else:
            found = self._chances(seen)
            ids = [i for i, info in enumerate(self.run.mosaic.classes) if name == f"probability of {info.name}"]
            if found is None or not ids:
                return None
            steps, there = found[0][ids[0]].astype(np.uint32) * BYTE_STEPS // 65535, found[1]
        painted = np.where(there, np.minimum(steps, BYTE_STEPS), NODATA).astype(np.uint8)
        return _with_palette(painted, _RAMP)

    def _painted(self, labels: Bytes, clear: frozenset[int]) -> bytes:
        palette = [(0, 0, 0, 0)] * 256
        for i, info in enumerate(self.run.mosaic.classes):
            if i not in clear:
                palette[i] = (*bytes.fromhex(info.color.removeprefix("#")), 255)
        return _with_palette(labels, palette)


@lru_cache(maxsize=32)
def _raster(path: Path) -> PixelSource:
    return open_labels(path).scene


def _fitting(scene: PixelSource, most: int) -> tuple[int, int]:
    share = min(1.0, most / max(scene.grid.height, scene.grid.width))
    return max(1, round(scene.grid.height * share)), max(1, round(scene.grid.width * share))


def _ramp() -> list[tuple[int, int, int, int]]:
    """Colours of 0 to BYTE_STEPS: dark blue over green to yellow, so that lightness rises evenly; the rest is clear."""
    stops = np.array([(0, 68, 1, 84), (62, 59, 82, 139), (125, 33, 145, 140), (188, 94, 201, 98), (250, 253, 231, 37)])
    steps = np.arange(BYTE_STEPS + 1)
    rgb = np.column_stack([np.interp(steps, stops[:, 0], stops[:, 1 + i]) for i in range(3)]).astype(int)
    return [*((r, g, b, 255) for r, g, b in rgb.tolist()), *[(0, 0, 0, 0)] * (255 - BYTE_STEPS)]


_RAMP = _ramp()


def _with_palette(values: Bytes, palette: list[tuple[int, int, int, int]]) -> bytes:
    image = Image.fromarray(values)
    image.putpalette([part for color in palette for part in color[:3]])
    return _encoded(image, "PNG", transparency=bytes(color[3] for color in palette), compress_level=1)


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


Draw = Callable[[int, int, int], bytes | None]
"""Of zoom, column and line of a tile: what it shows."""
