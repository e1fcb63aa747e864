"""Which pixels of its input each pixel of a layer's output depends on: integer ranges along one axis, no framework."""

from __future__ import annotations

import math
from dataclasses import dataclass

Range = tuple[int, int]
"""First index and the one after the last, along one axis."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How one axis of a layer's output depends on the same axis of its input.

    Output ``o`` depends on the inputs ``ceil((o * down + low) / up) ... floor((o * down + high) / up)``; an input
    that starts at pixel ``a`` (a multiple of ``down``) of the whole makes an output that starts at ``a * up / down``.
    """

    up: int = 1
    """Output pixels per period."""
    down: int = 1
    """Input pixels per period (a bilinear enlargement is counted in half pixels)."""
    low: int = 0
    high: int = 0
    trim: int = 0
    """Input pixels that give no output: the kernel's size less its stride where padding is ``valid``."""
    extra: int = 0
    """Output pixels beyond ``up`` per period (a transposed convolution without padding)."""

    @property
    def period(self) -> int:
        """Input pixels at whose multiples alone a crop keeps the phase."""
        return self.down // math.gcd(self.down, self.up)

    def needs(self, out: Range) -> Range:
        """Inputs on which the outputs ``out`` depend; it may reach past the edges."""
        return (
            -(-(out[0] * self.down + self.low) // self.up),
            ((out[1] - 1) * self.down + self.high) // self.up + 1,
        )

    def supplies(self, out: Range) -> Range:
        """Inputs that the layer must be given so that what it makes covers ``out``."""
        return out[0] * self.down // self.up, -(-(out[1] - self.extra) * self.down // self.up) + self.trim

    def gives(self, given: Range) -> Range:
        """Outputs that the layer makes from the inputs ``given``, right or not near the ends."""
        start = given[0] * self.up // self.down
        return start, start + (given[1] - given[0] - self.trim) * self.up // self.down + self.extra


Reaches = tuple[Reach, Reach]
"""Along rows and along columns."""
SAME: Reaches = (Reach(), Reach())


def sliding(span: int, stride: int, before: int, after: int) -> Reach:
    """A kernel over ``span`` pixels that slides by ``stride`` over a map padded ``before`` and ``after`` it."""
    return Reach(down=stride, low=-before, high=span - 1 - before, trim=span - stride - before - after)


def transposed(span: int, stride: int, before: int, extra: int) -> Reach:
    """A transposed convolution: ``before`` pixels are cut off its start; it gives ``extra`` beyond ``stride`` each."""
    return Reach(up=stride, low=before - span + 1, high=before, extra=extra)


def interpolated(up: int, down: int, offset: int, support: int = 1) -> Reach:
    """Weights of the inputs closer than ``support`` to ``(o * down + offset) / up``, where output ``o`` lies."""
    return Reach(up=up, down=down, low=offset - support * up + 1, high=offset + support * up - 1)


def repeated(factor: int) -> Reach:
    """Every pixel ``factor`` times."""
    return Reach(up=factor, low=1 - factor)


def padded(before: int, after: int) -> Reach:
    """Pixels added at both ends."""
    return Reach(low=-before, high=-before, extra=before + after)


def cut(before: int, after: int) -> Reach:
    """Pixels taken off both ends."""
    return Reach(low=before, high=before, trim=before + after)


def hull(one: Range | None, other: Range) -> Range:
    """The smallest range that holds both."""
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))
