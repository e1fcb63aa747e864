"""Slides as OME-TIFF, which OpenSlide does not read: by tifffile, tile by tile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError

_MICRONS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Unit of OME -> micrometres."""


class OmeSlide:
    """An open OME-TIFF, with what is used of an open slide of OpenSlide. Several threads may read it.

    Of the first image only: bright field, 8 bits a colour. Raises ValueError where it is of another kind.
    """

    def __init__(self, path: str) -> None:
        import tifffile

        self._path = path
        with _damage(path), tifffile.TiffFile(path) as file:
            self._pages = [_page(level) for level in file.series[0].levels]
            said = file.ome_metadata or ""
        for page in self._pages:
            if not (page.axes == "YXS" and page.shape[2] in (3, 4) and page.dtype == np.uint8 and page.is_tiled):
                raise ValueError(
                    f"an OME-TIFF of {page.dtype} in {page.axes}; expected tiles of red, green, blue (YXS) in uint8"
                )
        self.level_dimensions = [(page.imagewidth, page.imagelength) for page in self._pages]
        self.level_count = len(self._pages)
        wide, high = self.level_dimensions[0]
        self.level_downsamples = [(wide / w + high / h) / 2 for w, h in self.level_dimensions]
        sizes = {f"openslide.mpp-{axis.lower()}": _microns(said, axis) for axis in "XY"}
        self.properties = {name: str(size) for name, size in sizes.items() if size is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass  # nothing is kept open

    def read_region(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """(y, x, red-green-blue-alpha) of a level; ``place``: (x, y) of its corner in the slide, ``size``: (x, y)."""
        page, by = self._pages[level], self.level_downsamples[level]
        left, top = (round(at / by) for at in place)
        wide, high = size
        out = np.zeros((high, wide, 4), np.uint8)
        across = -(-page.imagewidth // page.tilewidth)
        with _damage(self._path), Path(self._path).open("rb") as stream:
            for row in range(top // page.tilelength, -(-(top + high) // page.tilelength)):
                for col in range(left // page.tilewidth, -(-(left + wide) // page.tilewidth)):
                    tile = self._tile(page, row * across + col, stream)
                    if tile is None:
                        continue  # never written: as where a microscope never went
                    y, x = row * page.tilelength - top, col * page.tilewidth - left
                    rows = slice(max(0, y), min(high, y + tile.shape[0]))
                    cols = slice(max(0, x), min(wide, x + tile.shape[1]))
                    part = tile[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x]
                    out[rows, cols, :3], out[rows, cols, 3] = part[..., :3], 255
        return out

    @staticmethod
    def _tile(page: Any, index: int, stream: Any) -> npt.NDArray[np.uint8] | None:
        """(y, x, colour) of a tile, cut to the picture; None where there is none."""
        count = page.databytecounts[index]
        if count == 0:
            return None
        stream.seek(page.dataoffsets[index])
        decoded, _, shape = page.decode(stream.read(count), index, jpegtables=page.jpegtables)
        return None if decoded is None else np.asarray(decoded[0, : shape[1], : shape[2]])


def _page(level: Any) -> Any:
    """The page of a level, with all that is needed to decode it when the file is closed."""
    page = level.pages[0].aspage()
    assert callable(page.decode)
    assert page.jpegtables is None or page.jpegtables
    return page


def is_ome(path: str) -> bool:
    """Whether a file is an OME-TIFF, of whatever kind."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.is_ome)
    except Exception:  # noqa: BLE001 - tifffile raises of damaged files whatever comes up
        return False


def is_ome_slide(path: str) -> bool:
    """Whether an OME-TIFF is of the kind that is read as a slide."""
    try:
        OmeSlide(path)
    except (ValueError, InputError, OSError):
        return False
    return True


def _microns(said: str, axis: str) -> float | None:
    found = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', said)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', said)
    try:
        return float(found[1]) * _MICRONS[unit[1] if unit else "µm"] if found else None
    except (ValueError, KeyError):
        return None


@contextmanager
def _damage(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - tifffile and its decoders raise of damaged files whatever comes up
        raise InputError(
            f"{Path(path).name}: cannot be read: {type(error).__name__}; copy or download it again"
        ) from None
