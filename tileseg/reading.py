"""Options of how the pixels of a scene are read."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

OnTop = Literal["first", "last", "newest"]
"""Which file counts where several of a scene have data."""
Missing = Literal["fail", "nodata"]
"""What becomes of a file that is missing or broken."""


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


class ReadingOptions(BaseModel):
    """How a scene is read, and how files become one where it lies in several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bands: Bands | None = None
    """Bands of the scene in the order that the model expects: numbers from 1, or names such as red or B4."""
    warp: bool = False
    """Warp a scene that has only ground control points or RPCs onto a grid, instead of refusing it."""
    trust_vrt: bool = False
    """Let a virtual raster (VRT) refer to files of this machine outside its own folder."""
    on_top: OnTop | None = None
    """Which file counts where several have data; None: the first in their order."""
    missing: Missing | None = None
    """What becomes of files that are missing or broken; None: the scene is refused."""
