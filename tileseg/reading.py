"""Options of how the pixels of a scene are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tileseg.choices import Missing, OnTop, Resampling, Tissue, Values
from tileseg.hounsfield import PRESETS, ValueWindow, known_preset


def split(value: Any) -> Any:
    """A list that may be given as text with commas."""
    if isinstance(value, int | float | Fraction):
        return [value]
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _band(value: Any) -> Any:
    """A number from 1, or a name."""
    text = str(value).strip()
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text):
        number = int(text) if text.isdecimal() else 0
        if number < 1:
            raise ValueError(f"{text}: expected numbers from 1, or names such as red")
        return number
    return text


Band = Annotated[int | str, BeforeValidator(_band)]
Bands = Annotated[tuple[Band, ...], BeforeValidator(split)]


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Which pixels a band of quality hides."""

    band: str
    """Its name, or its number."""
    values: tuple[int, ...]
    """Numbers that hide a pixel."""
    bits: int
    """Bits that hide a pixel, where any of them is set."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``SCL:3,8-10`` or ``QA_PIXEL:bit1,bit3-4``. Raises ValueError."""
        band, colon, rest = text.rpartition(":")
        values: list[int] = []
        bits = 0
        parts = [part.strip() for part in rest.split(",") if part.strip()]
        for part in parts:
            found = re.fullmatch(r"(bits?)?\s*(\d+)(?:-(\d+))?", part)
            first, last = (int(found[2]), int(found[3] or found[2])) if found else (1, 0)
            if not found or not first <= last <= (31 if found[1] else 65535):
                raise ValueError(f"{text!r}: expected BAND:VALUES, such as SCL:3,8-10, or QA_PIXEL:bit1,bit3-4")
            if found[1]:
                bits |= sum(1 << bit for bit in range(first, last + 1))
            else:
                values += range(first, last + 1)
        if not colon or not band.strip() or not parts:
            raise ValueError(f"{text!r}: expected BAND:VALUES, such as SCL:3,8-10, or QA_PIXEL:bit1,bit3-4")
        return cls(band.strip(), tuple(values), bits)


def _mask(value: Any) -> Any:
    """One rule, or several."""
    texts = [value] if isinstance(value, str) else list(value)
    for text in texts:
        MaskRule.parse(text)
    return texts


class ReadingOptions(BaseModel):
    """How a scene is read, and how files become one where it lies in several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: Bands | None = None
    """Bands of the scene in the order that the model expects: numbers from 1, or names such as red or B4."""
    window_center: float | None = Field(default=None, allow_inf_nan=False)
    """Middle of the values that are told apart, in those of the pixels (of a CT: Hounsfield units); with the next."""
    window_width: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How many values are told apart: those are mapped to 0...1 for the network, in place of the card's own scaling."""
    window_preset: Annotated[str, AfterValidator(known_preset)] | None = None
    """Both by a name of :data:`tileseg.hounsfield.PRESETS`, such as lung."""
    tissue: Tissue | None = None
    """Whether the glass of a slide is skipped: ``none`` takes all for tissue; None: as ``auto``, which looks for it."""
    warp: bool = False
    """Warp a scene that has only ground control points or RPCs onto a grid, instead of refusing it."""
    trust_vrt: bool = False
    """Let a virtual raster (VRT) refer to files of this machine outside its own folder."""
    crs: str | None = None
    """Coordinate reference system of a scene of many files; None: that of most of them."""
    resolution: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Side of its pixels, in units of its coordinate reference system; None: that of most of them."""
    resampling: Resampling | None = None
    """How files that lie on another grid are warped; None: bilinear."""
    on_top: OnTop | None = None
    """Which file counts where several have data; None: the first in their order."""
    asset: str | None = None
    """Key or role of the asset that is read of each item, where STAC says which files a scene is."""
    mask: Annotated[tuple[str, ...], BeforeValidator(_mask)] | None = None
    """Bands of quality and what of them hides a pixel: ``SCL:3,8-10``, ``QA_PIXEL:bit1,bit3-4``."""
    values: Values | None = None
    """Which numbers pixels are; None: those that are stored."""
    missing: Missing | None = None
    """What becomes of files that are missing or broken; None: the scene is refused."""

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        if (self.window_center is None) != (self.window_width is None):
            raise ValueError("window-center and --window-width: give both of them")
        if self.window_preset is not None and self.window_center is not None:
            raise ValueError("window-preset: is a center and a width; give only one of them")
        return self

    @property
    def value_window(self) -> ValueWindow | None:
        """The values that the network tells apart, where the user says it."""
        if self.window_preset is not None:
            return PRESETS[self.window_preset]
        if self.window_center is None or self.window_width is None:
            return None
        return ValueWindow(self.window_center, self.window_width)
