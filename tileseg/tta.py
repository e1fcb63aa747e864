"""Test-time augmentation as arithmetic: which views of a scene the network sees, and which pixels each needs.

A view is the scene at an exact scale p/q, flipped. Resampling is polyphase: the weights depend only on the
position modulo q, on one half-pixel grid that starts at the scene's corner. So a pixel of a view has one value,
whichever window it was computed in. (Library resizes compute positions from the window's own size in float32.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tileseg.errors import UsageError

Flips = Literal["none", "h", "v", "hv", "d4"]

LARGEST_TERM = 32
"""p and q of a scale at the most: windows are multiples of stride x q, so a large q makes windows unusable."""
LARGEST_SCALE = 8
"""Views that are larger yet cost 64 times the scene's pixels and show nothing more."""
NEARBY = 1.06
"""How far, as a factor, a scale may be from what was wished for the sake of small terms: objects look the same size."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One of the eight symmetries of the square: transpose first, then reverse rows, then columns."""

    transpose: bool = False
    """Swap rows and columns."""
    rows: bool = False
    """Reverse the order of the rows (upside down)."""
    cols: bool = False
    """Reverse the order of the columns (mirror)."""

    def forward(self, pixels: npt.NDArray[np.generic], axes: tuple[int, int]) -> npt.NDArray[np.generic]:
        """Flip the (row, column) ``axes`` of an array: a view where NumPy can, shape swapped by a transpose."""
        row, col = axes
        turned = np.swapaxes(pixels, row, col) if self.transpose else pixels
        turned = np.flip(turned, row) if self.rows else turned
        return np.flip(turned, col) if self.cols else turned

    def inverse(self, pixels: npt.NDArray[np.generic], axes: tuple[int, int]) -> npt.NDArray[np.generic]:
        """Undo :meth:`forward`."""
        row, col = axes
        turned = np.flip(pixels, col) if self.cols else pixels
        turned = np.flip(turned, row) if self.rows else turned
        return np.swapaxes(turned, row, col) if self.transpose else turned


_FLIPS: dict[Flips, tuple[Flip, ...]] = {
    "none": (Flip(),),
    "h": (Flip(), Flip(cols=True)),
    "v": (Flip(), Flip(rows=True)),
    "hv": (Flip(), Flip(cols=True), Flip(rows=True), Flip(rows=True, cols=True)),
    "d4": tuple(Flip(t, r, c) for t in (False, True) for r in (False, True) for c in (False, True)),
}


@dataclass(frozen=True, slots=True)
class View:
    """One way in which the network sees the scene."""

    scale: Fraction = Fraction(1)
    """Size of the view's grid over the scene's: 1/2 sees the scene at half its resolution."""
    flip: Flip = Flip()
    """The symmetry applied to it."""

    def __post_init__(self) -> None:
        p, q = self.scale.numerator, self.scale.denominator
        if not 0 < self.scale <= LARGEST_SCALE or p > LARGEST_TERM or q > LARGEST_TERM:
            raise UsageError(
                f"scale {self.scale} cannot be used: expected a fraction between 1/{LARGEST_TERM} and {LARGEST_SCALE} "
                f"whose terms are at most {LARGEST_TERM}, such as 1/2, 3/4 or 1.5"
            )


def views(scales: tuple[Fraction, ...], flips: Flips) -> tuple[View, ...]:
    """Every scale with every flip, scale by scale: the order in which their results are summed."""
    return tuple(View(scale, flip) for scale in scales for flip in _FLIPS[flips])


def parse_scale(text: str | float | Fraction) -> Fraction:
    """``"1/2"``, ``"0.75"``, ``1.5`` -> an exact fraction. Raises UsageError."""
    try:
        exact = Fraction(str(text).strip())
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"scale {text!r} is not a number: expected something like 1/2, 0.75 or 1.5") from None
    near = exact.limit_denominator(LARGEST_TERM) if not isinstance(text, Fraction) else exact
    return View(near if abs(near - exact) * 50 <= near else exact).scale


def nearby_scale(wished: float) -> Fraction:
    """A cheap scale within 6 % of the one wished for: the smaller of its terms as small as can be, then the nearest.

    The filters grow with the smaller term, and the pixels of which windows are multiples with the other. Raises
    UsageError where there is none between 1/LARGEST_TERM and LARGEST_SCALE.
    """
    for smaller in range(1, LARGEST_TERM // 2):
        larger = round(smaller * max(wished, 1 / wished))
        scale = Fraction(larger, smaller) if wished >= 1 else Fraction(smaller, larger)
        near = max(float(scale) / wished, wished / float(scale)) <= NEARBY
        if near and larger <= LARGEST_TERM and scale <= LARGEST_SCALE:
            return scale
    raise UsageError(f"scale {wished:.3g} cannot be used: expected 1/{LARGEST_TERM} to {LARGEST_SCALE}")


@dataclass(frozen=True)
class Polyphase:
    """Separable triangle-filter resampling by p/q on one half-pixel grid, as a short filter per phase.

    Output pixel ``p*m + r`` is ``sum_k weights[r, k] * source[q*m + first + k]``: bilinear when enlarging,
    the triangle widened to q/p source pixels (anti-aliased) when shrinking.
    """

    p: int
    """Output pixels per period."""
    q: int
    """Source pixels per period."""
    first: int
    """Offset of the first tap from the period's first source pixel; not positive."""
    weights: npt.NDArray[np.float64]
    """(p, taps); every row sums to 1."""

    @property
    def before(self) -> int:
        """Source pixels needed before a period."""
        return -self.first

    @property
    def after(self) -> int:
        """Source pixels needed after a period."""
        return max(0, self.first + len(self.weights[0]) - self.q)


@lru_cache(maxsize=64)
def polyphase(scale: Fraction) -> Polyphase:
    """The filters that resample by ``scale`` = p/q."""
    p, q = scale.numerator, scale.denominator
    radius = max(Fraction(1), 1 / scale)
    centres = [(Fraction(2 * r + 1, 2) / scale) - Fraction(1, 2) for r in range(p)]
    first = min(0, math.floor(centres[0] - radius) + 1)
    last = max(q - 1, math.ceil(centres[-1] + radius) - 1)
    taps = [[max(Fraction(0), 1 - abs(i - c) / radius) for i in range(first, last + 1)] for c in centres]
    weights = np.array([[float(w / sum(row)) for w in row] for row in taps])
    weights.flags.writeable = False
    return Polyphase(p, q, first, weights)


def alignment(stride: int, scales: tuple[Fraction, ...]) -> int:
    """Source pixels of which window origins and cores must be multiples, so that every view starts on the stride.

    An origin that is a multiple of stride x q lies at a multiple of stride x p in the view at scale p/q.
    """
    return stride * math.lcm(*(s.denominator for s in scales))


def view_halo(radius: int, stride: int, scale: Fraction) -> int:
    """Halo in pixels *of the view*, a multiple of the stride.

    ``radius`` is how far (pixels of the network's input) a core that lies on the stride depends on its surroundings.
    Resampling the logits back onto the scene's grid needs a few logits more, which belong to the next stride.
    """
    return -(-radius // stride) * stride + -(-back_margin(scale) // stride) * stride


def back_margin(scale: Fraction) -> int:
    """Logits of the view needed around a core to resample them back to the scene: a multiple of p; 0 at scale 1."""
    if scale == 1:
        return 0
    back = polyphase(1 / scale)
    return -(-max(back.before, back.after) // scale.numerator) * scale.numerator


def view_margin(halo: int, scale: Fraction) -> int:
    """Source pixels needed around a core so that the view has ``halo`` pixels around it: a multiple of q."""
    if scale == 1:
        return halo
    forth = polyphase(scale)
    q = scale.denominator
    return -(-halo // scale.numerator) * q + -(-max(forth.before, forth.after) // q) * q
