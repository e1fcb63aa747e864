"""Blends: weights that sum to 1 wherever tiles lie, and a new one without a change to the package."""

import numpy as np
import pytest
from fakes import smooth_noise, write_scene
from hypothesis import given
from hypothesis import strategies as st

from tileseg import RunSpec, run
from tileseg.blend import BLENDS, Blend
from tileseg.errors import UsageError


@pytest.mark.parametrize("name", BLENDS)
@given(size=st.integers(2, 90), data=st.data())
def test_weights_sum_to_one_over_all_tiles(name, size, data) -> None:
    step = data.draw(st.integers(1, size))
    weights = BLENDS[name].weights(size, step)
    total = np.zeros(5 * size)
    for start in range(-size, 5 * size, step):
        first, last = max(0, start), min(len(total), start + size)
        total[first:last] += weights[first - start : last - start] if last > first else 0
    assert total[size : 4 * size] == pytest.approx(1, abs=1e-5)
    assert (weights > 0).all()


def test_a_half_overlapped_hann_window_is_a_raised_cosine() -> None:
    at = (np.arange(64) + 0.5) / 64
    assert BLENDS["hann"].weights(64, 32) == pytest.approx(0.5 - 0.5 * np.cos(2 * np.pi * at), abs=1e-6)


def test_a_new_blend_is_a_line_of_the_registry(model, tmp_path, monkeypatch) -> None:
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(70, 110, 3))
    wish = {"scene": scene, "model": str(model), "window": 48, "workers": 0, "precision": "float32"}
    with pytest.raises(UsageError, match=r"--stitch: .*expected one of exact, hann, gaussian"):
        RunSpec.parse({**wish, "stitch": "tent"})
    monkeypatch.setitem(BLENDS, "tent", Blend("tent", lambda at: 1 - np.abs(2 * at - 1)))
    report = run(RunSpec.parse({**wish, "stitch": "tent", "out": tmp_path / "run"}))
    assert sum(report.pixels.values()) == 70 * 110
