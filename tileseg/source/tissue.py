"""Where tissue lies on a slide: the rest is glass, which need not be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tileseg.source.slide_file import Level, SlideFile, read_region

_ENOUGH = 1024
"""Pixels along the longer side at which tissue is looked for, at least, if the slide has a level so large."""

_MOST = 64_000_000
"""Pixels that are read for it at most: a slide without small levels is taken to be tissue all over."""

_DARKER = 0.8
"""Share of the glass's brightness below which anything counts, grey or not."""

_LEAST, _GREATEST = 8, 16
"""Between what differences of the brightest and the darkest colour of a pixel the limit is looked for."""

_MARGIN = 3
"""Pixels by which what is found is widened."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Where tissue lies."""

    mask: npt.NDArray[np.bool_]
    """(y, x) of a small level."""
    size: tuple[int, int]
    """(rows, columns) of the level that the mask is used for."""

    def within(self, row: int, col: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        """(y, x) mask of a window of the level."""
        rows = (np.arange(row, row + height) * self.mask.shape[0]) // self.size[0]
        cols = (np.arange(col, col + width) * self.mask.shape[1]) // self.size[1]
        return np.asarray(self.mask[np.ix_(rows, cols)])

    @property
    def share(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())


@lru_cache(maxsize=8)
def tissue_of(slide: SlideFile, level: Level) -> Tissue | None:
    """Where tissue lies, on the grid of a level; None where none is found, or the slide has no small level to look at.

    Glass is as bright as the brightest parts and without a colour: what is darker, or has more colour than Otsu's limit
    (A Threshold Selection Method from Gray-Level Histograms, 1979) between the two kinds, is tissue.
    """
    from scipy import ndimage

    enough = [each for each in slide.levels if max(each.height, each.width) >= _ENOUGH] or [slide.levels[0]]
    seen = enough[-1]
    if seen.height * seen.width > _MOST:
        return None
    pixels = read_region(slide, seen, 0, 0, seen.height, seen.width)
    step = max(1, max(seen.height, seen.width) // _ENOUGH)
    small = pixels[step // 2 :: step, step // 2 :: step]
    rgb, there = small[..., :3].astype(np.int16), small[..., 3] > 127
    if not there.any():
        return None
    bright, color = rgb.mean(axis=2), rgb.max(axis=2) - rgb.min(axis=2)
    glass = float(np.percentile(bright[there], 95))
    found = there & ((color > _otsu(color[there])) | (bright < _DARKER * glass))
    mask = ndimage.binary_dilation(found, iterations=_MARGIN) & there
    return Tissue(mask, (level.height, level.width)) if found.any() else None


def _otsu(values: npt.NDArray[np.int16]) -> int:
    """The limit between two kinds of values that leaves the least variance within them."""
    counts = np.bincount(values, minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    sums = np.cumsum(counts * np.arange(len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * (below[-1] - below))
    return int(np.clip(np.nanargmax(between) if np.isfinite(between).any() else _LEAST, _LEAST, _GREATEST))
