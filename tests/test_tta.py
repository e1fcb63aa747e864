import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileseg.errors import UsageError
from tileseg.tta import (
    LARGEST_TERM,
    NEARBY,
    alignment,
    back_margin,
    nearby_scale,
    parse_scale,
    polyphase,
    view_halo,
    view_margin,
    views,
)

SCALES = [Fraction(1, 2), Fraction(3, 4), Fraction(1), Fraction(5, 4), Fraction(3, 2), Fraction(2), Fraction(1, 3)]
SCALES += [Fraction(1, 4), Fraction(2, 9), Fraction(3)]
scales = st.sampled_from(SCALES)


def matrix(scale: Fraction, size: int) -> np.ndarray:
    """Dense resampling of ``size`` source pixels by the definition of a triangle filter; edges renormalised."""
    count = int(size * scale)
    radius = max(1.0, float(1 / scale))
    centres = (np.arange(count) + 0.5) / float(scale) - 0.5
    weights = np.clip(1 - np.abs(np.arange(size) - centres[:, None]) / radius, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@given(scales, st.integers(3, 9))
def test_polyphase_is_the_triangle_filter(scale: Fraction, periods: int) -> None:
    filters = polyphase(scale)
    size = periods * filters.q * 3
    dense = matrix(scale, size)
    for m, r in itertools.product(range(size // filters.q), range(filters.p)):
        first = filters.q * m + filters.first
        last = first + filters.weights.shape[1]
        if first < 0 or last > size:
            continue
        row = np.zeros(size)
        row[first:last] = filters.weights[r]
        np.testing.assert_allclose(row, dense[m * filters.p + r], atol=1e-12)


@given(scales)
def test_filters_sum_to_one_and_mirror(scale: Fraction) -> None:
    filters = polyphase(scale)
    np.testing.assert_allclose(filters.weights.sum(axis=1), 1)
    # A flipped scene resampled is the resampled scene flipped.
    before, after = filters.before, filters.first + filters.weights.shape[1] - filters.q
    padded = np.pad(filters.weights, ((0, 0), (max(0, after - before), max(0, before - after))))
    np.testing.assert_allclose(padded, padded[::-1, ::-1], atol=1e-12)


@given(scales, st.integers(0, 10))
def test_margins_hold_the_taps(scale: Fraction, strides: int) -> None:
    halo = 16 * strides
    margin = view_margin(halo, scale)
    assert margin % scale.denominator == 0
    filters = polyphase(scale)
    # The first pixel of the view's halo lies in this period; all its taps must be in the margin.
    period = -(-halo // filters.p) if scale != 1 else halo
    assert margin >= period * filters.q + (filters.before if scale != 1 else 0)
    assert back_margin(scale) % scale.numerator == 0


def test_halo_of_the_unet() -> None:
    assert view_halo(138, 16, Fraction(1)) == 144
    assert view_halo(138, 16, Fraction(3, 2)) == 160
    assert alignment(16, (Fraction(1, 2), Fraction(3, 4))) == 64


@pytest.mark.parametrize(("flips", "count"), [("none", 1), ("h", 2), ("v", 2), ("hv", 4), ("d4", 8)])
def test_flips_differ_and_are_undone(flips, count) -> None:
    pixels = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    seen = set()
    for view in views((Fraction(1),), flips):
        turned = view.flip.forward(pixels, (1, 2))
        seen.add((turned.shape, turned.tobytes()))
        np.testing.assert_array_equal(view.flip.inverse(turned, (1, 2)), pixels)
    assert len(seen) == count


def test_scales_are_exact() -> None:
    assert [parse_scale(s) for s in ("1/2", "0.75", 1.5, " 5/4 ")] == [
        Fraction(1, 2), Fraction(3, 4), Fraction(3, 2), Fraction(5, 4),
    ]  # fmt: skip
    for bad in ("0", "-1", "x", "1/0", "9", "1/33"):
        with pytest.raises(UsageError):
            parse_scale(bad)
    with pytest.raises(UsageError, match="97/100"):
        parse_scale(Fraction(97, 100))


@given(st.floats(1 / 32, 8))
def test_a_nearby_scale_is_near_and_no_simpler_one_is(wished: float) -> None:
    scale = nearby_scale(wished)
    assert 1 / NEARBY <= float(scale) / wished <= NEARBY
    smaller, larger = sorted((scale.numerator, scale.denominator))
    assert larger <= LARGEST_TERM
    simpler = [
        Fraction(*sorted((a, b), reverse=wished >= 1)) for a in range(1, smaller) for b in range(a, LARGEST_TERM + 1)
    ]
    assert all(not 1.0001 / NEARBY < float(other) / wished < NEARBY / 1.0001 for other in simpler)
    # Nor is one nearer that costs the same.
    rivals = [Fraction(smaller, b) if wished < 1 else Fraction(b, smaller) for b in range(smaller, LARGEST_TERM + 1)]
    assert abs(scale - Fraction(wished)) == min(abs(other - Fraction(wished)) for other in rivals) or wished < 1


@pytest.mark.parametrize(
    ("wished", "scale"),
    [
        (0.0742 / 0.3, "1/4"), (0.06601 / 0.3, "2/9"), (1 / 3, "1/3"), (0.5, "1/2"), (0.7, "2/3"), (0.8, "4/5"),
        (0.78, "3/4"), (1.05, "1"), (1.21, "5/4"), (1.25, "5/4"), (2.9, "3"), (3.4, "7/2"), (0.02 / 0.3, "1/15"),
    ],
)  # fmt: skip
def test_nearby_scales(wished, scale) -> None:
    assert nearby_scale(wished) == Fraction(scale)


def test_far_scales_are_refused() -> None:
    for wished in (1 / 40, 9.0, 1000.0):
        with pytest.raises(UsageError, match="1/32 to 8"):
            nearby_scale(wished)


def test_decimals_are_not_bent_out_of_shape() -> None:
    assert parse_scale("0.333") == Fraction(1, 3)
    with pytest.raises(UsageError, match="1/32"):
        parse_scale("1/40")
