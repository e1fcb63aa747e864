"""Areas and lengths as the user gives them: on the ground or in pixels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tileseg.errors import UsageError

_QUANTITY = re.compile(
    r"\s*(?P<value>(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?)\s*(?P<unit>px|m|m2|m\^2|m²)?\s*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An area or a length, on the ground or in pixels."""

    value: float
    """Square metres or metres; pixels if ``in_pixels``. Not negative."""
    in_pixels: bool = False
    """Whether it is counted in pixels. (Everything is where their size is not known.)"""

    @staticmethod
    def parse(text: str | float) -> Quantity:
        """``"25"``, ``"25 m2"`` or ``"50px"``. Raises UsageError."""
        match = _QUANTITY.fullmatch(str(text))
        if match is None or math.isinf(float(match["value"])):
            raise UsageError(
                f"{text!r} is no area or length: expected metres such as 25 or 0.5, or pixels such as 50px"
            )
        return Quantity(float(match["value"]), (match["unit"] or "").lower() == "px")

    def __str__(self) -> str:
        return f"{self.value!r}".removesuffix(".0") + ("px" if self.in_pixels else "")
