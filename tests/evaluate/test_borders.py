"""Bands, contours and distances against SciPy, block by block against at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import smooth_noise
from scipy import ndimage
from scipy.spatial.distance import cdist, directed_hausdorff

from tileseg.evaluate import boundary
from tileseg.evaluate.distances import PREDICTION, TRUTH, Contours, Distribution
from tileseg.window import Window, tile


def _mask(seed: int, height: int = 83, width: int = 121) -> np.ndarray:
    return smooth_noise(height, width, 1, seed)[..., 0] > 135


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_band_is_what_repeated_erosion_takes_away(width: int) -> None:
    mask = _mask(1)
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=1)
    assert np.array_equal(boundary.band(mask, width), mask & ~inner)


def test_the_contour_is_what_one_erosion_takes_away() -> None:
    mask = _mask(2)
    assert np.array_equal(boundary.contour(mask), mask ^ ndimage.binary_erosion(mask, border_value=1))


def test_a_mask_that_fills_the_scene_has_no_border() -> None:
    full = np.ones((9, 14), bool)
    assert not boundary.contour(full).any()
    assert not boundary.band(full, 3).any()


def _contours(folder: Path, truth: np.ndarray, prediction: np.ndarray, side: int) -> Contours:
    blocks = tile(Window(0, 0, *truth.shape), side, side)
    contours = Contours(folder, blocks, 1)
    for index, block in enumerate(blocks):
        for which, mask in ((TRUTH, truth), (PREDICTION, prediction)):
            points = np.argwhere(boundary.contour(mask)[block.slices]) + np.array([block.row_off, block.col_off])
            contours.put(index, 0, which, points)
    return contours


@pytest.mark.parametrize("side", [16, 31, 200])
def test_distances_equal_brute_force_for_any_blocks(tmp_path: Path, side: int) -> None:
    truth, prediction = _mask(3), _mask(4)
    prediction[:, :50] = False  # so that some pixels have to look far
    t, p = (np.argwhere(boundary.contour(m)) for m in (truth, prediction))
    found = _contours(tmp_path, truth, prediction, side).distances(0)
    assert found.hausdorff() == pytest.approx(max(directed_hausdorff(t, p)[0], directed_hausdorff(p, t)[0]))
    apart = cdist(t, p)
    for percent in (50, 95):
        expected = max(np.percentile(apart.min(axis=1), percent), np.percentile(apart.min(axis=0), percent))
        assert found.hausdorff(percent) == pytest.approx(expected, abs=1e-6)
    # Another way: the distance transform of the other side's border.
    transform = ndimage.distance_transform_edt(~boundary.contour(prediction))
    assert found.from_truth.percentile(95) == pytest.approx(np.percentile(transform[tuple(t.T)], 95), abs=1e-6)
    assert found.from_truth.counts.sum() == len(t)


def test_pixels_that_are_no_squares(tmp_path: Path) -> None:
    truth, prediction = _mask(5), _mask(6)
    pixel = (2.5, 0.75)
    t, p = (np.argwhere(boundary.contour(m)) * pixel for m in (truth, prediction))
    found = _contours(tmp_path, truth, prediction, 24).distances(0, pixel)
    assert found.hausdorff() == pytest.approx(max(directed_hausdorff(t, p)[0], directed_hausdorff(p, t)[0]), abs=1e-6)


def test_without_a_border_on_one_side_there_is_no_distance(tmp_path: Path) -> None:
    contours = _contours(tmp_path, _mask(7), np.zeros((83, 121), bool), 40)
    assert np.isnan(contours.distances(0).hausdorff())
    assert contours.is_one_sided(0)


def test_distributions_add_up_to_the_same_percentiles() -> None:
    rng = np.random.default_rng(8)
    values = np.sqrt(rng.integers(0, 40, 999))
    parts = Distribution.of(values[:300]) + Distribution.of(values[300:])
    for percent in (0, 13.7, 50, 95, 100):
        assert parts.percentile(percent) == pytest.approx(np.percentile(values, percent))
