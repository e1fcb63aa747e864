"""Whole slides: one level of them as a scene, without the glass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine

from tileseg.errors import UsageError
from tileseg.grid import Grid
from tileseg.source.plain_bands import choose_plain_bands
from tileseg.source.protocol import Mask, Pixels, ReadRequest
from tileseg.source.slide_file import Level, SlideFile, open_slide_file, read_region
from tileseg.source.tissue import tissue_of
from tileseg.storage.place import Named
from tileseg.window import Window

_FINER = 1.05
"""A level whose pixels are at most so many times as large as those wanted still has what a model looks for."""

_PIXELS = (
    'ENGCRS["Pixels of a slide, from its upper left corner",EDATUM["Slide"],CS[Cartesian,2],'
    'AXIS["to the right (x)",unspecified],AXIS["down (y)",unspecified],LENGTHUNIT["pixel of the slide",{:.12g}]]'
)


@dataclass(frozen=True, slots=True)
class SlideScene:
    """A level of a slide: a :class:`tileseg.source.protocol.PixelSource`.

    Coordinates are pixels of the slide at its full size, whichever level is read. Glass has no data, but keeps its
    colours whatever ``fill`` is: beside tissue a network sees what it saw in training.
    """

    slide: SlideFile
    level: Level
    bands: tuple[int, ...]
    """Of red, green, blue, in the order of the network's input; the first is 1."""
    skips_glass: bool
    """Whether glass has no data."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read, one line each."""

    @property
    def path(self) -> str:
        """The slide as the user named it."""
        return self.slide.text

    @property
    def storage(self) -> str:
        """The file."""
        return self.slide.path

    @property
    def grid(self) -> Grid:
        """Pixels of the slide at its full size, whose unit says how large they are."""
        place = Affine.scale(self.level.scale)
        microns = self.slide.microns
        return Grid(self.level.height, self.level.width, place, _PIXELS.format(microns / 1e6) if microns else None)

    @property
    def dtype(self) -> str:
        """8 bits a colour."""
        return "uint8"

    @property
    def palette(self) -> bool:
        """Slides have no colour tables."""
        return False

    @property
    def has_gaps(self) -> bool:
        """Glass, or what the microscope never went over."""
        return True

    @property
    def identity(self) -> str:
        """Digest of the file's size and time of change, the level, and whether glass counts."""
        facts = self.slide.stamp, self.slide.levels, self.level.number, self.slide.microns, self.skips_glass
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the level: pixels (y, x, band), C-contiguous, and valid (y, x).

        Pixels that the microscope never went over get ``fill``, one value per band, if given. Raises InputError, naming
        where, if the slide cannot be read.
        """
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene of {self.grid.height} x {self.grid.width} pixels")
        place = window.row_off, window.col_off, window.height, window.width
        tissue = tissue_of(self.slide, self.level) if self.skips_glass else None
        wanted = None if tissue is None else tissue.within(*place)
        if wanted is not None and not wanted.any():
            return np.full((window.height, window.width, len(self.bands)), 255, np.uint8), wanted
        region = read_region(self.slide, self.level, *place)
        valid = region[..., 3] > 127
        pixels = np.ascontiguousarray(region[..., [band - 1 for band in self.bands]])
        if fill is not None and not valid.all():
            pixels[~valid] = np.asarray(fill, np.uint8)
        return pixels, valid if wanted is None else valid & wanted

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """A window in about (rows, columns) of ``shape``, of the smallest level that has them: to look at."""
        levels = self.slide.levels[self.level.number :]
        enough = [
            each
            for each in levels
            if each.height * window.height >= shape[0] * self.level.height
            and each.width * window.width >= shape[1] * self.level.width
        ]
        seen = (enough or [self.level])[-1]
        down, across = seen.height / self.level.height, seen.width / self.level.width
        rows = ((np.arange(shape[0]) + 0.5) * window.height / shape[0] + window.row_off) * down
        cols = ((np.arange(shape[1]) + 0.5) * window.width / shape[1] + window.col_off) * across
        ys, xs = np.minimum(rows.astype(int), seen.height - 1), np.minimum(cols.astype(int), seen.width - 1)
        out = np.empty((*shape, 4), np.uint8)
        for first in range(0, len(ys), 256):  # a slide with one level alone is read strip by strip
            part = ys[first : first + 256]
            strip = read_region(self.slide, seen, part[0], xs[0], int(part[-1] - part[0]) + 1, int(xs[-1] - xs[0]) + 1)
            out[first : first + 256] = strip[np.ix_(part - part[0], xs - xs[0])]
        return np.ascontiguousarray(out[..., [band - 1 for band in self.bands]]), out[..., 3] > 127


def open_slide(named: Named, wanted: ReadRequest) -> SlideScene:
    """Describe a slide, at the level that suits what is wanted. Raises InputError or UsageError in one line."""
    slide = open_slide_file(named)
    level = _level_for(slide, wanted.metres)
    bands = choose_plain_bands(slide.text, ("red", "green", "blue"), wanted)
    notes = []
    if len(slide.levels) > 1:
        size = "" if slide.microns is None else f", {slide.microns * level.scale:.3g} micrometres a pixel"
        notes.append(
            f"level {level.number} of {len(slide.levels)} is read: {level.width} x {level.height} pixels{size}"
        )
    tissue = tissue_of(slide, level) if wanted.skips_glass else None
    if tissue is not None:
        notes.append(f"{100 * (1 - tissue.share):.0f} % of it are glass, which is skipped (--tissue none: nothing is)")
    elif wanted.skips_glass:
        notes.append("no glass is skipped: nothing tells it from tissue")
    scene = SlideScene(slide, level, bands, tissue is not None, tuple(notes))
    for row, col in ((0, 0), (level.height - 1, level.width - 1)):  # what cannot be read is refused at once
        read_region(slide, level, row, col, 1, 1)
    return scene


def _level_for(slide: SlideFile, metres: float | None) -> Level:
    """The smallest level whose pixels are not larger than ``metres``; the slide itself where sizes are not known."""
    if metres is None or slide.microns is None:
        return slide.levels[0]
    fit = [level for level in slide.levels if slide.microns * level.scale <= 1e6 * metres * _FINER]
    return max(fit, key=lambda level: level.scale) if fit else slide.levels[0]
