"""Resampling against dense matrices and counting, and windows against the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracle
import pytest
from dataset_files import noise, patchy
from hypothesis import given
from hypothesis import strategies as st

from tileseg.source.rescale import Axis, Rescale
from tileseg.window import Window


def rescale(height: int, width: int, scale: float) -> Rescale:
    return Rescale(Axis(height, scale), Axis(width, scale))


def extent(change: Rescale) -> Window:
    return Window(0, 0, change.rows.count, change.cols.count)


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(3, 4), Fraction(2, 3), Fraction(1, 5), Fraction(3, 2), 2])
def test_images_are_resampled_as_a_run_resamples_them(scale: Fraction) -> None:
    pixels = noise(120, 60, 2)
    change = rescale(120, 60, float(scale))
    found, valid = change.image(pixels, np.ones((120, 60), bool), extent(change))
    expected = oracle.resample(pixels.astype(np.float32), Fraction(scale))
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert valid.all()
    assert np.abs(found - expected).max() <= 0.501


@given(
    scale=st.floats(0.15, 2.5), row=st.integers(0, 60), col=st.integers(0, 60), height=st.integers(1, 50),
    width=st.integers(1, 50),
)  # fmt: skip
def test_a_window_equals_the_same_part_of_the_whole(scale: float, row: int, col: int, height: int, width: int) -> None:
    pixels, labels = noise(83, 61, 3, "uint16"), patchy(83, 61)
    change = rescale(83, 61, scale)
    window = Window(row, col, height, width).intersection(extent(change))
    if window is None:
        return
    whole, _ = change.image(pixels, np.ones((83, 61), bool), extent(change))
    source = change.source(window)
    assert Window(0, 0, 83, 61).intersection(source) == source
    part, _ = change.image(pixels[source.slices], np.ones((source.height, source.width), bool), window)
    np.testing.assert_array_equal(part, whole[window.slices])
    np.testing.assert_array_equal(
        change.labels(labels[source.slices], window), change.labels(labels, extent(change))[window.slices]
    )


def test_pixels_without_data_have_no_weight() -> None:
    pixels = np.full((40, 60, 2), 100, np.uint8)
    valid = np.ones((40, 60), bool)
    pixels[10:20, 7:30] = 255
    valid[10:20, 7:30] = False
    change = rescale(40, 60, 0.4)
    found, data = change.image(pixels, valid, extent(change))
    assert (found[data] == 100).all()
    share = oracle.resample(valid[..., None].astype(np.float32), Fraction(2, 5))[..., 0]
    sure = np.abs(share - 0.5) > 1e-4
    np.testing.assert_array_equal(data[sure], share[sure] > 0.5)
    assert 0 < (~data).sum() < data.size / 2


def test_values_that_are_not_finite_stay_where_they_are() -> None:
    pixels = noise(30, 20, 1, "float32")
    valid = np.ones((30, 20), bool)
    pixels[3:9, 4:8], valid[3:9, 4:8] = np.nan, False
    change = rescale(30, 20, 0.5)
    found, data = change.image(pixels, valid, extent(change))
    assert found.dtype == np.float32
    assert np.isfinite(found[data]).all()
    assert not data.all()


@pytest.mark.parametrize(("scale", "side"), [(0.5, 2), (0.25, 4), (0.2, 5)])
def test_labels_are_the_most_frequent_ones(scale: float, side: int) -> None:
    labels = patchy(60, 40, classes=4, cell=3)
    labels[20:25] = 255
    change = rescale(60, 40, scale)
    found = change.labels(labels, extent(change))
    for row in range(found.shape[0]):
        for col in range(found.shape[1]):
            cell = labels[row * side : (row + 1) * side, col * side : (col + 1) * side]
            counts = np.bincount(cell.ravel(), minlength=256)
            assert counts[found[row, col]] == counts.max()
    tied = np.array([[1, 2], [2, 1]], np.uint8)
    assert rescale(2, 2, 0.5).labels(tied, Window(0, 0, 1, 1)) == 1


def test_labels_are_enlarged_by_the_nearest() -> None:
    labels = patchy(11, 7, cell=2)
    change = rescale(11, 7, 3)
    np.testing.assert_array_equal(change.labels(labels, extent(change)), labels.repeat(3, 0).repeat(3, 1))


def test_sizes_are_rounded_and_never_nothing() -> None:
    assert [Axis(101, 0.5).count, Axis(3, 0.1).count, Axis(10, 1.26).count] == [50, 1, 13]
    change = rescale(5, 5, 0.1)
    found, valid = change.image(np.full((5, 5, 1), 7, np.uint8), np.ones((5, 5), bool), Window(0, 0, 1, 1))
    assert (found == 7).all()
    assert valid.all()
