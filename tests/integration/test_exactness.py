"""The promise that results do not depend on how a scene is cut, with the networks and the oracle of the benchmark."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from exactness import ONE, PROMISE, THREE, Case, Finding, Tiling, findings, quick_cases, real_crop  # noqa: E402

WIDTH = 1 / 16


def assert_kept(finding: Finding) -> None:
    """Bit-equal to one window over the whole scene; equal to the oracle up to rounding and ties; same bytes."""
    assert finding.once == 0
    assert finding.relabelled == 0
    assert finding.apart <= PROMISE
    assert finding.untied == 0
    assert finding.halves <= 0.01 * finding.values
    assert set(finding.same_bytes) == set(finding.case.workers)
    assert all(finding.same_bytes.values())


def test_cuts_views_and_workers_change_nothing() -> None:
    cases = list(quick_cases())
    assert {case.network for case in cases} == {"bilinear", "transpose"}
    for finding in findings(cases, WIDTH):
        assert_kept(finding)


@pytest.mark.real_data
@pytest.mark.parametrize("network", ["transpose", "embedded"])
def test_cuts_change_nothing_on_real_imagery(network) -> None:
    pixels = real_crop(307, 421)
    if pixels is None:
        pytest.skip("no real rasters (set TILESEG_TEST_DATA to where they are)")
    case = Case(network, "Zanzibar", pixels, *((THREE, "h") if network == "transpose" else (ONE, "none")),
                (Tiling(512), Tiling(128, 416)), ())  # fmt: skip
    for finding in findings([case], WIDTH):
        assert_kept(finding)
