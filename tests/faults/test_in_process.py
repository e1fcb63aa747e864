"""Runs that compute in their own process, and are killed: the next call goes on in a process of its own."""

import signal
from pathlib import Path

import pytest
from fakes import save_tiny_onnx, smooth_noise, write_scene
from faults.bed import Bed, Process, digest, records, snapshot, wait_for_blocks, workers_of

from tileseg import RunSpec, run
from tileseg.run.names import IN_PROCESS
from tileseg.run.report import Silent

HERE = Path(__file__).with_name("here.py")
BLOCKS, DEADLY = 24, 20
GIB = 1 << 30


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    """As :meth:`Bed.make`, in this process."""
    folder = tmp_path_factory.mktemp("bed")
    save_tiny_onnx(folder / "tiny")
    (folder / "in").mkdir()
    write_scene(folder / "in" / "scene0.tif", smooth_noise(500, 700, 3, 0))
    bed = Bed(folder, ("scene0",), BLOCKS)
    run(spec(bed, folder / "undisturbed" / "scene0.tileseg", workers=0))
    return bed


def spec(bed: Bed, out: Path, **more: object) -> RunSpec:
    return RunSpec.parse(
        {"scene": bed.scene(), "model": str(bed.folder / "tiny"), "out": out, "block": 128, "precision": "float32",
         "formats": "geojson,gpkg", **more}
    )  # fmt: skip


def here(bed: Bed, out: Path, *more: str, **env: str) -> Process:
    return bed.run(out, *more, program=(str(HERE),), **env)


def mark(out: Path) -> Path:
    return out / ".state" / IN_PROCESS


class Notices(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


def test_a_killed_run_goes_on_in_a_process_of_its_own(bed, tmp_path) -> None:
    process = here(bed, tmp_path / "out", FAULT_SLEEP="0.3")
    assert wait_for_blocks(process, tmp_path / "out", 3)
    assert workers_of(process.pid) == []
    process.kill()
    process.wait()
    known, listener = snapshot(tmp_path / "out"), Notices()
    assert mark(tmp_path / "out").exists()
    report = run(spec(bed, tmp_path / "out"), listener)
    assert report.computed == BLOCKS - len(known.records)
    assert [text for text in listener.told if "killed" in text]
    assert not mark(tmp_path / "out").exists()
    found = records(tmp_path / "out")
    assert {i: found[i] for i in known.records} == known.records
    assert digest(tmp_path / "out") == digest(bed.folder / "undisturbed" / "scene0.tileseg")


@pytest.mark.faults
def test_a_block_that_kills_the_process_is_found_out_by_the_next_call(bed, tmp_path) -> None:
    """And by each one after it, until it is computed: no call ends like the first again."""
    first = bed.finish(here(bed, tmp_path / "out", FAULT_DEADLY=str(DEADLY)))
    assert first.code == -signal.SIGKILL
    for _ in range(2):
        after = bed.finish(here(bed, tmp_path / "out", FAULT_DEADLY=str(DEADLY)))
        assert after.code == 1
        assert "1 of 24 blocks could not be computed" in after.message
        assert "its worker died 3 time(s), though nothing else was computed" in after.stderr
        assert sorted(records(tmp_path / "out")) == [i for i in range(BLOCKS) if i != DEADLY]
    assert run(spec(bed, tmp_path / "out", workers=0)).computed == 1
    assert digest(tmp_path / "out") == digest(bed.folder / "undisturbed" / "scene0.tileseg")


@pytest.mark.faults
def test_ctrl_c_finishes_the_blocks_in_flight(bed, tmp_path) -> None:
    process = here(bed, tmp_path / "out", FAULT_SLEEP="0.3")
    assert wait_for_blocks(process, tmp_path / "out", 3)
    process.send_signal(signal.SIGINT)
    ended = bed.finish(process)
    assert ended.code == 130
    assert "blocks are done and kept" in ended.message
    assert sorted(i for _, _, i in bed.begun(tmp_path / "out")) == sorted(records(tmp_path / "out"))
    assert not mark(tmp_path / "out").exists()
    listener = Notices()
    run(spec(bed, tmp_path / "out"), listener)
    assert listener.told == []
    assert digest(tmp_path / "out") == digest(bed.folder / "undisturbed" / "scene0.tileseg")


@pytest.mark.faults
def test_a_block_without_memory_is_told_of_and_the_others_are_finished(bed, tmp_path) -> None:
    env = {"FAULT_HUNGRY": f"7:{8 * GIB}", "FAULT_LIMIT": str(GIB // 2)}
    ended = bed.finish(here(bed, tmp_path / "out", **env))
    assert ended.code == 1
    assert "out of memory, though nothing else was computed" in ended.stderr
    assert sorted(records(tmp_path / "out")) == [i for i in range(BLOCKS) if i != 7]
