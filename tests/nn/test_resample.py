"""Polyphase resampling against the matrix it stands for, and windows against the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from tileseg.nn.backend import compile as compile_function
from tileseg.nn.backend import to_numpy
from tileseg.nn.resample import resample
from tileseg.tta import polyphase

SCALES = [Fraction(s) for s in ("1/2", "3/2", "3/4", "5/4", "2", "1/3", "7/5")]


def matrix(size: int, scale: Fraction) -> npt.NDArray[np.float64]:
    """(size p/q, size): each output is a triangle around its centre, its taps clipped at the ends."""
    made = np.zeros((int(size * scale), size))
    radius = max(1.0, float(1 / scale))
    for out in range(len(made)):
        centre = (out + 0.5) / float(scale) - 0.5
        taps = np.arange(int(np.floor(centre - radius)), int(np.ceil(centre + radius)) + 1)
        weights = np.maximum(0, 1 - np.abs(taps - centre) / radius)
        np.add.at(made[out], np.clip(taps, 0, size - 1), weights / weights.sum())
    return made


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_it_is_the_matrix(scale: Fraction) -> None:
    rows, cols = 5 * scale.denominator, 8 * scale.denominator
    image = np.random.default_rng(0).normal(size=(2, rows, cols, 3)).astype(np.float32)
    expected = np.einsum("ri,nijc,sj->nrsc", matrix(rows, scale), image, matrix(cols, scale))
    assert to_numpy(resample(image, scale)) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_a_window_equals_that_window_of_the_whole(scale: Fraction) -> None:
    p, q = scale.numerator, scale.denominator
    image = np.random.default_rng(1).normal(size=(1, 41 * q, 60 * q, 3)).astype(np.float32)
    whole = to_numpy(compile_function(lambda x: resample(x, scale))(image))
    edge = -(-max(polyphase(scale).before, polyphase(scale).after) // q)
    for top, left, height, width in ((3, 5, 20, 31), (7, 0, 13, 17)):
        window = image[:, top * q : (top + height) * q, left * q : (left + width) * q]
        part = to_numpy(compile_function(lambda x: resample(x, scale))(np.ascontiguousarray(window)))
        inner = part[:, edge * p : (height - edge) * p, edge * p : (width - edge) * p]
        rows = slice((top + edge) * p, (top + height - edge) * p)
        cols = slice((left + edge) * p, (left + width - edge) * p)
        assert np.abs(inner - whole[:, rows, cols]).max() <= 1e-6
