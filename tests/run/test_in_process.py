"""Runs on one device compute in their own process: without Dask, and planned as on one worker."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg import RunSpec
from tileseg.run.prepare import prepare


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(200, 330, 3))


def spec(scene: Path, model: Path, **more: object) -> RunSpec:
    return RunSpec.parse({"scene": scene, "model": str(model), "out": scene.with_name("out"), "block": 128, **more})


def test_a_run_on_one_device_loads_no_dask_and_starts_no_process(scene, model, tmp_path) -> None:
    code = (
        "import multiprocessing, sys\nfrom tileseg import RunSpec, run\n"
        f"report = run(RunSpec(scene={str(scene)!r}, model={str(model)!r}, out={str(tmp_path / 'out')!r}, block=128))\n"
        "print(report.computed, sorted({'dask', 'distributed', 'tornado'} & set(sys.modules)))\n"
        "print(multiprocessing.active_children())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout.split("\n")[:2] == ["6 []", "[]"], told.stderr


@pytest.mark.parametrize(
    ("asked", "workers", "threads"),
    [({}, 0, 2), ({"workers": 0}, 0, 1), ({"workers": 1}, 1, 2), ({"workers": 3}, 3, 2)],
)
def test_processes_are_started_where_they_are_asked_for(scene, model, asked, workers, threads) -> None:
    plan = prepare(spec(scene, model, **asked)).plan
    assert (plan.workers, plan.threads) == (workers, threads)
    assert prepare(spec(scene, model, **asked), least_workers=1).plan.workers == asked.get("workers", 1)


def test_dask_reports_on_processes(scene, model, tmp_path) -> None:
    assert prepare(spec(scene, model, performance_report=tmp_path / "dask.html")).plan.workers == 1


def test_memory_is_projected_as_of_one_worker(scene, model) -> None:
    """So a run that is killed fits in a process of its own, and is cut as ever."""
    alone, apart = (prepare(spec(scene, model, workers=workers)).plan for workers in (None, 1))
    assert alone.memory.total == apart.memory.total
    assert (alone.tile, alone.batch) == (apart.tile, apart.batch)
