"""A fast device is kept busy by as many blocks as it takes, and no more; what comes out is the same."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import smooth_noise, write_scene
from simulated import Simulation, Times

from tileseg import RunSpec, run
from tileseg.cluster import hardware
from tileseg.cluster.hardware import Gpu
from tileseg.run import block as segment
from tileseg.run.feeding import FEWEST, Flight, Pace
from tileseg.run.prepare import prepare

MEGAPIXELS = 4.2
"""Of a block."""
GPU_SECONDS = MEGAPIXELS / 150
"""On a device of 150 MPix/s."""
BLOCK = Times(before=0.029, device=GPU_SECONDS, after=0.084)
"""As measured around the network on one core (docs/growth.md): reading, then labels, writing and tracing."""


class Fixed(Pace):
    """As many blocks in flight as ever: two."""

    def left(self, now: float) -> None:
        self._left = now


def uneven(count: int, seed: int = 0) -> list[Times]:
    """Blocks of which some have ten times as many polygons as others."""
    shares = np.random.default_rng(seed).lognormal(0, 0.6, count)
    return [replace(BLOCK, after=BLOCK.after * share) for share in shares / shares.mean()]


@pytest.mark.parametrize("blocks", [[BLOCK] * 400, uneven(400)], ids=["even", "uneven"])
def test_a_device_of_150_megapixels_a_second_is_busy_where_there_are_cores(blocks: list[Times]) -> None:
    fed = Simulation(blocks, cores=8, most=16).run()
    assert fed.busy() >= 0.9
    assert fed.widest <= 12  # no more than it takes
    assert Simulation(blocks, cores=8, most=16, pace=Fixed()).run().busy() < 0.5


def test_it_takes_four_cores() -> None:
    busy = {cores: Simulation([BLOCK] * 400, cores=cores, most=24).run().busy() for cores in (2, 3, 4, 8)}
    assert busy[2] < 0.55
    assert busy[3] < 0.8
    assert min(busy[4], busy[8]) >= 0.9


def test_a_scene_that_is_far_away_is_read_by_more_blocks_at_once() -> None:
    blocks = [replace(BLOCK, away=0.3)] * 600
    fed = Simulation(blocks, cores=8, most=32).run()
    assert fed.busy(0.25) >= 0.9  # after so many turns it has found out
    assert fed.widest > 14  # 441 ms of a block fit 16 turns of 28


def test_memory_bounds_them() -> None:
    assert Simulation([BLOCK] * 100, cores=8, most=3).run().widest == 3


def test_a_slow_device_has_two_blocks_in_flight() -> None:
    slow = Simulation([replace(BLOCK, device=2.0)] * 50, cores=2, most=8).run()
    assert (slow.widest, slow.pace.limit) == (FEWEST, FEWEST)


def test_blocks_that_wait_in_vain_are_fewer_afterwards() -> None:
    """Reading is slow at first, and quick later: the blocks that it took are not kept in memory for nothing."""
    fed = Simulation([replace(BLOCK, away=0.3)] * 300 + [BLOCK] * 600, cores=8, most=32).run()
    assert fed.pace.limit < fed.widest - 5
    assert fed.busy(0.5) >= 0.9


def test_what_the_limit_does_not_cause_does_not_raise_it() -> None:
    """The device stands idle between two scenes of an archive, say: no block was held back."""
    pace = Pace()
    for turn in range(20):
        pace.taken(10.0 * turn, held_back=0, queued=0)
        pace.left(10.0 * turn + 1)
    assert pace.limit == FEWEST
    for turn in range(20, 22):
        pace.taken(10.0 * turn, held_back=1, queued=0)
        pace.left(10.0 * turn + 1)
    assert pace.limit == FEWEST + 1


def test_a_block_waits_until_it_may_be_in_flight() -> None:
    flight, begun = Flight(), []

    def third() -> None:
        with flight.block(8):
            begun.append(3)

    thread = threading.Thread(target=third)
    with flight.block(8):
        with flight.block(8):
            thread.start()
            thread.join(0.05)
            assert begun == []
        thread.join(60)
        assert begun == [3]


def test_a_block_that_fails_lets_the_next_one_in() -> None:
    flight = Flight()
    for _ in range(3):
        with pytest.raises(MemoryError), flight.block(1):
            raise MemoryError
    with flight.block(1):
        pass


H200 = Gpu(0, "GPU-1", "NVIDIA H200", 139 << 30, (9, 0))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this machine had a GPU that Keras uses."""
    monkeypatch.setattr(hardware, "gpus", lambda: (H200,))
    monkeypatch.setattr(hardware, "backend_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", smooth_noise(300, 410, 3))


def spec(scene: Path, model: Path, **more: object) -> RunSpec:
    return RunSpec.parse({"scene": scene, "model": str(model), "out": scene.with_name("out"), "block": 64, **more})


def test_a_plan_has_as_many_in_flight_as_memory_holds_on_a_gpu_alone(scene, keras_model, model, on_gpu) -> None:
    many = prepare(spec(scene, keras_model))
    assert many.plan.threads == FEWEST + 2 * hardware.cpu().cores
    assert many.plan.memory.total <= many.max_memory
    few = replace(many.plan, threads=FEWEST)
    more = few.memory.total + 2 * few.memory_in_flight
    tight = prepare(spec(scene, keras_model, max_memory=more + few.memory_in_flight // 2)).plan
    assert (tight.threads, tight.memory.total, tight.tile) == (FEWEST + 2, more, few.tile)
    assert prepare(spec(scene, keras_model, workers=0)).plan.threads == 1
    assert prepare(spec(scene, model)).plan.threads == FEWEST  # ONNX Runtime's package for the processor


def test_a_run_that_goes_on_is_sized_by_its_own_blocks(scene, keras_model, on_gpu) -> None:
    begun = prepare(spec(scene, keras_model))
    larger = replace(begun.plan, block=(256, 256), threads=FEWEST)
    memory = larger.memory.total + larger.memory_in_flight + 1
    assert begun.sizing.fed(replace(larger, threads=begun.plan.threads), memory).threads == FEWEST + 1
    assert begun.sizing.fed(replace(larger, engine="onnx", precision="float32"), memory).threads == FEWEST


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Flight:
    """A clock that goes on by one each time that it is looked at: the device idles as long as it works."""
    flight = Flight(itertools.count().__next__)
    monkeypatch.setattr(segment, "_FLIGHT", flight)
    monkeypatch.setattr(segment, "_loaded", None)
    return flight


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but for what tells times and paths."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    apart = ("summary.json", ".state/run.json", ".state/done", ".state/lease", "labels.tif.aux.xml")
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(apart)}


def test_more_blocks_in_flight_give_the_same_bytes(scene, keras_model, tmp_path, on_gpu, ticking, monkeypatch) -> None:
    read, lock, met = segment.read_plane, threading.Lock(), threading.Event()
    inside = 0

    def together(*given: object) -> object:
        """As soon as four may be in flight, wait until four are."""
        nonlocal inside
        with lock:
            inside += 1
            if inside == 4:
                met.set()
        assert ticking._pace.limit < 4 or met.wait(60)
        pixels = read(*given)
        with lock:
            inside -= 1
        return pixels

    with monkeypatch.context() as patched:
        patched.setattr(segment, "read_plane", together)
        run(spec(scene, keras_model, out=tmp_path / "many", precision="float32"))
    assert met.is_set()
    run(spec(scene, keras_model, out=tmp_path / "one", precision="float32", workers=0))
    assert files(tmp_path / "many") == files(tmp_path / "one")
