"""Which workers may compute: asked one by one, on a cluster that is not there."""

import asyncio
import importlib.metadata
import inspect
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import smooth_noise, write_scene

from tileseg.cluster.admission import Admission, Needs, left_behind
from tileseg.engine.kinds import ENGINES
from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.nn.folder import EMBEDDED, load_card, resolve_model
from tileseg.source.scene import open_scene

HERE = {"tileseg", "keras", "tensorflow"}


class Worker:
    """Stands for a Dask worker: what it has installed, and the resources that it offers."""

    def __init__(self, *, threads: int = 4, marked: int = 0, versions: dict[str, str | None] | None = None) -> None:
        offered = {"tileseg": marked} if marked else {}
        self.state = SimpleNamespace(nthreads=threads, total_resources=dict(offered))
        self.versions = versions or {}
        self.stuck = False

    async def set_resources(self, **resources: float) -> None:
        self.state.total_resources.update(resources)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.stuck:
            await asyncio.sleep(1000)
        if function is importlib.metadata.version:
            version = self.versions.get(args[0], importlib.metadata.version(args[0]))
            return importlib.metadata.PackageNotFoundError(args[0]) if version is None else version
        if function is platform.python_version:
            return self.versions.get("python", platform.python_version())
        if self.versions.get("tileseg", "") is None:
            return ModuleNotFoundError("No module named 'tileseg'")
        return await function(*args, dask_worker=self) if inspect.iscoroutinefunction(function) else function(*args)


class Flight:
    """A block in flight."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Cluster:
    """What Admission uses of a client."""

    id = "client-7"

    def __init__(self, **workers: Worker) -> None:
        self.workers = workers
        self.futures: dict[str, Flight] = {}

    async def nthreads(self) -> dict[str, int]:
        return {f"tcp://{name}:1": worker.state.nthreads for name, worker in self.workers.items()}

    async def run(self, function: Callable[..., Any], *args: Any, workers: list[str], on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        (address,) = workers
        return {address: await self.workers[address.split("/")[2].split(":")[0]].run(function, *args)}


@pytest.fixture
def needs(tmp_path: Path) -> Needs:
    model = resolve_model(EMBEDDED)
    scene = open_scene(write_scene(tmp_path / "scene.tif", smooth_noise(40, 60, 3)), expected=3)
    (tmp_path / "out").mkdir()
    return Needs(
        (scene,),
        model,
        "model.keras",
        load_card(model).digest,
        ENGINES["keras"].packages,
        tmp_path / "out",
        memory=1 << 20,
    )


def admit(
    cluster: Cluster, needs: Needs, *, until: Callable[[Admission], bool], patience: float = 20.0, shared: bool = True
) -> tuple[Admission, list[str]]:
    """Watch until something is so, and a while longer."""
    told: list[str] = []

    async def main() -> Admission:
        with left_behind(needs.folder, cluster.id) as token:
            seen = token if shared else token.with_name("elsewhere")
            admission = Admission(cluster, needs, seen, ours=False, patience=patience, tell=told.append)
            watching = asyncio.create_task(admission.watch())
            async with asyncio.timeout(60):
                while not until(admission):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.05)
            watching.cancel()
            return admission

    return asyncio.run(main()), told


def refusal(cluster: Cluster, needs: Needs, **how: Any) -> TilesegError:
    admission, told = admit(cluster, needs, until=lambda a: bool(a.refused), **how)
    ((address, problem),) = admission.refused.items()
    assert admission.admitted == {}
    assert told == [f"worker {address} is not used: {problem}"]
    assert "\n" not in str(problem)
    return problem


def test_a_worker_that_has_everything_gets_the_run_s_own_resource(needs) -> None:
    cluster = Cluster(a=Worker(threads=8), b=Worker(threads=1))
    admission, told = admit(cluster, needs, until=lambda a: len(a.admitted) == 2)
    assert admission.admitted == {"tcp://a:1": 2, "tcp://b:1": 1}  # two blocks in flight, or as many as it has threads
    assert cluster.workers["a"].state.total_resources == {"tileseg-client-7": 2}
    assert told == []
    assert list(needs.folder.iterdir()) == []
    asyncio.run(admission.release())
    assert cluster.workers["a"].state.total_resources == {"tileseg-client-7": 0}


def test_workers_started_for_tileseg_are_preferred(needs) -> None:
    cluster = Cluster(a=Worker(threads=8), b=Worker(threads=2, marked=3))
    admission, told = admit(cluster, needs, until=lambda a: bool(a.admitted))
    assert admission.admitted == {"tcp://b:1": 3}
    assert (admission.refused, told) == ({}, [])


def test_other_versions_are_named(needs) -> None:
    problem = refusal(Cluster(a=Worker(versions={"keras": "3.0.0", "python": "3.9.1"})), needs)
    keras, python = importlib.metadata.version("keras"), ".".join(platform.python_version().split(".")[:2])
    assert (
        str(problem) == f"has Python 3.9 (here {python}), keras 3.0.0 (here {keras}); install the same versions there"
    )
    assert problem.exit_code == 2


def test_a_worker_without_tileseg(needs) -> None:
    problem = refusal(Cluster(a=Worker(versions=dict.fromkeys(HERE))), needs)
    assert "no tileseg (here " in str(problem)
    assert problem.exit_code == 2


def test_patch_releases_of_python_do_not_matter(needs) -> None:
    version = ".".join([*platform.python_version().split(".")[:2], "99"])
    admission, _ = admit(Cluster(a=Worker(versions={"python": version})), needs, until=lambda a: bool(a.admitted))
    assert list(admission.admitted) == ["tcp://a:1"]


def test_an_output_that_is_not_shared(needs, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.cluster.admission._SHARED_SECONDS", 0.1)
    problem = refusal(Cluster(a=Worker()), needs, shared=False)
    assert isinstance(problem, UsageError)
    assert "the output is not shared" in str(problem)


def test_another_model_there(needs) -> None:
    problem = refusal(Cluster(a=Worker()), replace(needs, digest="0" * 64))
    assert "another model than the driver's" in str(problem)
    problem = refusal(Cluster(a=Worker()), replace(needs, model=needs.folder))
    assert str(problem).startswith("the model is not to be reached from here: ")
    assert problem.exit_code == 2


def test_a_scene_that_is_not_there(needs) -> None:
    Path(needs.scenes[0].path).unlink()
    problem = refusal(Cluster(a=Worker()), needs)
    assert isinstance(problem, InputError)
    assert problem.exit_code == 42


def test_another_scene_of_that_name(needs) -> None:
    write_scene(Path(needs.scenes[0].path), np.full((41, 60, 3), 9, np.uint8))
    assert isinstance(refusal(Cluster(a=Worker()), needs), InputError)


def test_too_little_memory(needs) -> None:
    problem = refusal(Cluster(a=Worker()), replace(needs, memory=1 << 60))
    assert str(problem).endswith("GiB are needed; lower --max-memory")


def test_no_gpu(needs, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.cluster.admission.hardware.backend_has_cuda", lambda: False)
    problem = refusal(Cluster(a=Worker()), replace(needs, gpu=True))
    assert str(problem).startswith("sees no GPU")


def test_a_stuck_worker_holds_nobody_up(needs) -> None:
    cluster = Cluster(a=Worker(), b=Worker())
    cluster.workers["a"].stuck = True
    admission, told = admit(cluster, needs, until=lambda a: bool(a.admitted), patience=3.0)
    assert list(admission.admitted) == ["tcp://b:1"]
    assert told == ["worker tcp://a:1 is not used: does not answer within 3 s"]
    assert admission.refused["tcp://a:1"].exit_code == 1


def test_workers_come_and_go(needs) -> None:
    cluster = Cluster(a=Worker())

    def swapped(admission: Admission) -> bool:
        if list(admission.admitted) == ["tcp://a:1"]:
            cluster.workers = {"b": Worker()}
        return list(admission.admitted) == ["tcp://b:1"]

    admission, told = admit(cluster, needs, until=swapped)
    assert list(admission.reports) == ["tcp://b:1"]
    assert told == []


def test_blocks_in_flight_are_given_up_when_nobody_is_left(needs, monkeypatch) -> None:
    monkeypatch.setattr("tileseg.cluster.admission._LOST_SECONDS", 1.5)
    cluster = Cluster(a=Worker())
    cluster.futures["block"] = Flight()

    def given_up(admission: Admission) -> bool:
        if admission.admitted:
            cluster.workers = {}
        return admission.given_up is not None

    admission, _ = admit(cluster, needs, until=given_up)
    assert admission.given_up == "all workers have gone, and none has come back within 2 s"
    assert cluster.futures["block"].cancelled
