"""How long a run will take, by what runs of its kind took."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.run.pace import Pace, by_paces, estimate
from tileseg.run.prepare import prepare


def pace(**more: float) -> Pace:
    usual = {"gflop": 100.0, "megapixels": 10.0, "start": 1.0, "load": 0.5, "blocks": 20.0, "finish": 5.0}
    return Pace.model_validate({"kind": "a", **usual, **more})


def test_work_and_pixels_are_scaled_and_the_start_is_not() -> None:
    found = by_paces([pace()], 200, 40)
    assert found.seconds == pytest.approx(1.5 + 20 * 2 + 5 * 4)
    assert (found.low, found.high) == pytest.approx((0.75 * 61.5, 1.25 * 61.5))


def test_a_tiny_run_hardly_changes_it() -> None:
    tiny = pace(gflop=0.1, megapixels=0.01, blocks=0.5, finish=0.5)
    found = by_paces([pace(), tiny], 100, 10)
    assert found.seconds == pytest.approx(1.5 + 20.5 * 100 / 100.1 + 5.5 * 10 / 10.01)
    assert found.high == pytest.approx(1.25 * found.seconds)


def test_the_range_has_the_runs_that_it_comes_from() -> None:
    found = by_paces([pace(), pace(blocks=60.0)], 100, 10)
    assert found.seconds == pytest.approx(1.5 + 40 + 5)
    assert (found.low, found.high) == pytest.approx((1.5 + 20 + 5, 1.5 + 60 + 5))


@pytest.fixture
def asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Options of a run whose machine has run nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    scene = write_scene(tmp_path / "a.tif", smooth_noise(120, 200, 3))
    return {"scene": scene, "model": str(model), "block": 64, "workers": 0, "precision": "float32"}


def test_runs_are_remembered_and_told(asked, tmp_path: Path, in_process) -> None:
    kept = tmp_path / "caches" / "tileseg" / "pace" / "runs.jsonl"
    spec = RunSpec.parse({**asked, "out": tmp_path / "one"})
    assert estimate(prepare(spec)) is None
    report = run(spec)
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary["estimate"] is None
    assert len(kept.read_text().splitlines()) == 1
    run(spec)  # finished: nothing is learnt of it
    kept.write_text("no JSON\n" + kept.read_text() + '{"kind": "of another version"}\n')
    found = estimate(prepare(spec))
    assert found is not None
    assert found.runs == 1
    # The same again, but for what lies between the stages.
    assert found.seconds == pytest.approx(report.wall_seconds, rel=0.02, abs=0.05)
    run(RunSpec.parse({**asked, "out": tmp_path / "two"}))
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["estimate"]["seconds"] == pytest.approx(found.seconds, abs=0.06)
    assert estimate(prepare(RunSpec.parse({**asked, "out": tmp_path / "three", "keep": "labels"}))) is None

    given = ("run", asked["scene"], "--model", asked["model"], "--block", 64, "--workers", 0, "--precision", "float32")
    given = (*given, "--out", tmp_path / "four")
    told = in_process(*given, "--dry-run", "--price-per-hour", "3600", "--watts", "1000")
    assert told.returncode == 0, told.stderr
    assert "by the last 2 runs of this kind on this machine" in " ".join(told.stdout.replace("│", " ").split())
    plan = json.loads(in_process(*given, "--dry-run", "--json").stdout)
    seconds = plan["estimate"]["seconds"]
    rows = re.findall(r"(price|energy) *│ about ([\d.e-]+)", told.stdout)
    assert [name for name, _ in rows] == ["price", "energy"]
    assert float(rows[0][1]) == pytest.approx(seconds, abs=0.06)  # one a second
    assert float(rows[1][1]) == pytest.approx(seconds / 3600, rel=0.05)
    for wrong in (("--watts", "10"), ("--dry-run", "--watts", "-1"), ("--dry-run", "--price-per-hour", "nan")):
        refused = in_process(*given, *wrong)
        assert refused.returncode == 2
        assert "expected a number from 0 on, beside --dry-run" in refused.stderr


def test_a_cache_that_cannot_be_written_to_is_done_without(asked, tmp_path: Path) -> None:
    (tmp_path / "caches").write_text("a file where the folder would be")
    report = run(RunSpec.parse({**asked, "out": tmp_path / "one"}))
    assert report.computed == report.blocks
