"""What a source of pixels is, whatever it is read with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from tileseg.choices import Missing, OnTop, Resampling, Values
from tileseg.grid import Grid
from tileseg.reading import MaskRule, ReadingOptions
from tileseg.window import Window

Pixels = npt.NDArray[Any]

Mask = npt.NDArray[np.bool_]


class PixelSource(Protocol):
    """A scene, as far as it needs to be known to plan a run, and the way to its pixels.

    Picklable, because workers get it, and small: paths and numbers, no pixels and no open files. Two that are equal
    give the same pixels. Each of its methods may be called by several threads at once.
    """

    @property
    def path(self) -> str:
        """The scene as the user named it."""

    @property
    def storage(self) -> str:
        """Where its pixels lie: equal for two scenes that are the same file under different names."""

    @property
    def grid(self) -> Grid:
        """Where its pixels lie on the ground."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Bands that are read, in the order of the network's input; the first is 1."""

    @property
    def dtype(self) -> str:
        """NumPy type of the pixels that are read: uint8, int8, uint16, int16 or float32; of labels any."""

    @property
    def palette(self) -> bool:
        """Whether the file stores numbers of colours, which are read as red, green, blue."""

    @property
    def has_gaps(self) -> bool:
        """Whether pixels without data may occur; False: never."""

    @property
    def identity(self) -> str:
        """Digest of what the pixels depend on (size, time of change, georeference): another one means they changed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how it is read, one line each."""

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        """Read a window inside the scene: pixels (y, x, band), C-contiguous, and valid (y, x), True where data is.

        Pixels without data get ``fill``, one value per band, if given. A pixel that is not finite has no data. Raises
        InputError, naming the window, where the scene cannot be read or has changed since it was opened, and
        UsageError where the window is not inside the scene.
        """

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        """About every n-th row and column of a window: (rows, columns) of ``shape``, to look at."""


@dataclass(frozen=True, slots=True)
class Words:
    """How messages about bands name what the user can change."""

    option: str = "--bands"
    """What chooses bands."""
    taker: str = "the model takes"
    """Who wants so many bands."""
    remedy: str = "choose a scene or a model that fit, or say which bands to take with --bands"
    """What to do where there are too few."""
    warp: str | None = "--warp"
    """What has a scene warped as it is read; None: nothing does."""
    repeat: str = "--bands {once} repeats a band"
    """What to do where there is one band; ``once``: so many ones, with commas."""


OF_A_RUN = Words()
"""In the command line of a run."""


@dataclass(frozen=True, slots=True)
class Joining:
    """How several files become one scene."""

    crs: str | None = None
    """Coordinate reference system of the scene, as PROJ takes it; None: that of most files."""
    resolution: float | None = None
    """Side of its pixels in units of that system; None: that of most files."""
    resampling: Resampling = "bilinear"
    """How files that lie on another grid are warped."""
    on_top: OnTop = "first"
    """Which file counts where several have data: the first or last in their order, or the one taken last."""
    asset: str | None = None
    """Key or role of the asset that is read of each item of STAC; None: of its only raster."""
    mask: tuple[MaskRule, ...] = ()
    """Bands of quality, and what of them hides a pixel."""
    values: Values = "stored"
    """Which numbers pixels are."""
    missing: Missing = "fail"
    """What becomes of files that are missing or broken: the scene is refused, or they count as without data."""

    @classmethod
    def asked(cls, options: ReadingOptions) -> Self:
        """As the options say."""
        return cls(
            options.crs,
            options.resolution,
            options.resampling or "bilinear",
            options.on_top or "first",
            options.asset,
            tuple(map(MaskRule.parse, options.mask or ())),
            options.values or "stored",
            options.missing or "fail",
        )

    @property
    def changes_one(self) -> bool:
        """Whether it is something for a scene of one file, too."""
        return bool(self.mask) or self.values != "stored" or self.crs is not None or self.resolution is not None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a scene is opened for."""

    expected: int
    """How many bands."""
    bands: tuple[int | str, ...] | None = None
    """Which ones: numbers from 1 on, or names; None: those called ``names``, or else the first ones."""
    names: tuple[str, ...] = ()
    """What the bands mean to whoever takes them, such as red, green, blue."""
    warp: bool = False
    """Whether a scene that has only control points or RPCs is warped onto a grid."""
    trust_vrt: bool = False
    """Whether a virtual raster may refer to files outside its own folder."""
    words: Words = OF_A_RUN
    """How messages name what the user can change."""
    metres: float | None = None
    """How large pixels are to be, where a scene is stored in several sizes: of a slide."""
    skips_glass: bool = False
    """Whether the glass of a slide has no data."""
    joining: Joining = Joining()
    """How files become one where the scene lies in several."""

    @classmethod
    def asked(cls, options: ReadingOptions, names: tuple[str, ...], metres: float | None) -> Self:
        """As the options say, for a network that takes bands of these names and pixels of this size (None: any)."""
        return cls(
            len(names),
            options.bands,
            names,
            options.warp,
            options.trust_vrt,
            metres=metres,
            skips_glass=options.tissue != "none",
            joining=Joining.asked(options),
        )
