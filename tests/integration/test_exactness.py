"""The promise that results do not depend on how a scene is cut, with the networks and the oracle of the benchmark."""

import sys
from fractions import Fraction
from pathlib import Path

import pytest
from oracle import BIT_EQUAL

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from exactness import ONE, PROMISE, Case, Finding, Tiling, findings, quick_cases, real_crop, settlement  # noqa: E402

WIDTH = 1 / 16


ROUNDED = 5e-5
"""Deviations from the oracle where no view is at scale 1. Both round a resampled pixel by up to 3e-7 (against float64),
each in its own way, and random weights make up to a hundred times as much of it."""


def assert_kept(finding: Finding, apart: float = PROMISE) -> None:
    """Equal to one window over the whole scene and to the oracle up to rounding and ties.

    Where kernels do not depend on sizes and threads: bit-equal to the one window, and the same bytes from any workers.
    """
    assert finding.once <= (0 if BIT_EQUAL else PROMISE)
    assert finding.relabelled == 0
    assert finding.apart <= apart
    assert finding.untied == 0
    assert finding.halves <= 0.01 * finding.values
    assert set(finding.same_bytes) == set(finding.case.workers)
    assert all(finding.same_bytes.values()) or not BIT_EQUAL


def test_cuts_views_and_workers_change_nothing() -> None:
    cases = list(quick_cases())
    assert {case.network for case in cases} == {"bilinear", "transpose"}
    for finding in findings(cases, WIDTH):
        assert_kept(finding)


def test_cuts_change_nothing_of_a_resampled_scene() -> None:
    """Scenes finer and coarser than the model was trained on: every view is at the scale, as runs have it."""
    quarter, thrice = (Fraction(1, 4),), (Fraction(3),)
    cases = [
        Case("bilinear", "settlement", settlement(331, 493), quarter, "none", (Tiling(512), Tiling(128, batch=2)), ()),
        Case("transpose", "tiny", settlement(61, 97), thrice, "h", (Tiling(128), Tiling(32)), ()),
    ]  # fmt: skip
    for finding in findings(cases, WIDTH):
        assert_kept(finding, ROUNDED)


@pytest.mark.real_data
def test_cuts_change_nothing_of_a_resampled_orthophoto() -> None:
    pixels = real_crop(403, 587)
    if pixels is None:
        pytest.skip("no real rasters (set TILESEG_TEST_DATA to where they are)")
    case = Case(
        "embedded", "Zanzibar", pixels, (Fraction(1, 4),), "none", (Tiling(1024), Tiling(256), Tiling(512, 352)), ()
    )
    for finding in findings([case], WIDTH):
        assert_kept(finding)


@pytest.mark.real_data
def test_cuts_change_nothing_on_real_imagery() -> None:
    pixels = real_crop(307, 421)
    if pixels is None:
        pytest.skip("no real rasters (set TILESEG_TEST_DATA to where they are)")
    case = Case("embedded", "Zanzibar", pixels, ONE, "none", (Tiling(512), Tiling(128, 416)), ())
    for finding in findings([case], WIDTH):
        assert_kept(finding)
