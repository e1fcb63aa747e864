"""Which pixels ONNX's Resize and Upsample take: local where every window rounds positions alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from tileseg.nn.reach import Reach, interpolated

_SUPPORT = {"linear": 1, "cubic": 2}


def resized(kind: str, opset: int, attributes: Mapping[str, Any], pixels: int, made: int) -> Reach | None:
    """The reach along one axis from ``pixels`` to ``made``; None where positions depend on the window.

    Positions are computed in float32 from the window's first pixel. They are exact where the factor is a power of
    two; by other factors (align_corners makes such) the same pixels are enlarged otherwise in another window. Pixels
    that are only repeated may be so by any whole number.
    """
    factor = Fraction(made, pixels)
    up, down = factor.numerator, factor.denominator
    if factor == 1:
        return Reach()
    mode = _text(attributes, "mode", "nearest")
    simple = kind == "Upsample" or opset < 11
    where = "asymmetric" if simple else _text(attributes, "coordinate_transformation_mode", "half_pixel")
    how = ("floor" if factor > 1 else "ceil") if simple else _text(attributes, "nearest_mode", "round_prefer_floor")
    stretched = _text(attributes, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if (
        (up != 1 and down != 1)
        or not stretched
        or (attributes.get("antialias") and factor < 1)
        or where not in _POSITIONS
    ):
        return None
    scale, offset, unit = _POSITIONS[where](up, down)
    exact = up & (up - 1) == 0 and down & (down - 1) == 0
    if mode in _SUPPORT:
        return interpolated(unit, scale, offset, _SUPPORT[mode]) if exact else None
    # Rounding half-pixel positions of odd factors to the nearest never meets a tie, as rounding them down would.
    sure = down == 1 and (where == "asymmetric" or (where.endswith("half_pixel") and how.startswith("round")))
    if mode != "nearest" or how not in _ROUNDINGS or not (exact or sure):
        return None
    low, high = _ROUNDINGS[how](unit)
    return Reach(up=2 * unit, down=2 * scale, low=2 * offset + low, high=2 * offset + high)


def _text(attributes: Mapping[str, Any], name: str, default: str) -> str:
    return str(attributes.get(name, default))


def _half_pixel(up: int, down: int) -> tuple[int, int, int]:
    return 2 * down, down - up, 2 * up


_POSITIONS: dict[str, Callable[[int, int], tuple[int, int, int]]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel,
    "asymmetric": lambda up, down: (down, 0, up),
    "tf_half_pixel_for_nn": lambda up, down: (2 * down, down, 2 * up),
}
"""Coordinate mode -> (a, b, c) for a factor of up / down: output ``o`` lies at input ``(o * a + b) / c``."""

_ROUNDINGS: dict[str, Callable[[int], tuple[int, int]]] = {
    "floor": lambda unit: (2 - 2 * unit, 0),
    "ceil": lambda unit: (0, 2 * unit - 2),
    "round_prefer_floor": lambda unit: (-unit, unit - 1),
    "round_prefer_ceil": lambda unit: (1 - unit, unit),
}
"""Way of rounding -> low and high of the reach, in halves of a unit, around the position."""
