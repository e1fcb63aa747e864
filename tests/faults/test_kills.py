"""kill -9 of workers, drivers and schedulers at random moments: the same command finishes the rest."""

import os
import random
import signal
from pathlib import Path

import psutil
import pytest
from faults.bed import (
    FEW,
    SLOTS,
    TIMES,
    Bed,
    cluster,
    ending,
    kill,
    records,
    snapshot,
    wait_for_blocks,
    wait_until,
    wait_until_gone,
    workers_of,
)


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("archive"), scenes=3)


def test_workers_of_a_run(bed, tally) -> None:
    row = tally("a worker is killed", "kill -9 of one of two processes of `tileseg run --workers 2`")
    moments = random.Random(1)
    while row.times < TIMES:
        folder, known = bed.folder / f"workers-{row.times}", []
        process = bed.run(folder, "--workers", "2", FAULT_SLEEP="0.3")
        while row.times < TIMES and wait_for_blocks(process, folder, len(records(folder)) + moments.randint(1, 8)):
            if found := workers_of(process.pid):
                known.append(snapshot(folder))
                kill([moments.choice(found)])
                row.times += 1
        done = bed.finish(process, row)
        assert done.code == 0, done.stderr
        bed.compare(folder, row, known=known)
    row.check(SLOTS * row.times)


def test_driver_of_a_run(bed, tally) -> None:
    row = tally("the driver is killed", "kill -9 of `tileseg run --workers 2`, then the same command")
    moments = random.Random(2)
    while row.times < TIMES:
        folder, known = bed.folder / f"driver-{row.times}", []
        process = bed.run(folder, "--workers", "2", FAULT_SLEEP="0.2")
        while row.times < TIMES and wait_for_blocks(process, folder, len(records(folder)) + moments.randint(0, 8)):
            left = workers_of(process.pid)
            process.kill()
            process.wait()
            known.append(snapshot(folder))  # what its workers still finish is as good
            row.times += 1
            process = bed.run(folder, "--workers", "2", FAULT_SLEEP="0.2")
            wait_until_gone(left)
        done = bed.finish(process, row)
        assert done.code == 0, done.stderr
        bed.compare(folder, row, known=known)
    row.check(2 * SLOTS * row.times)


@pytest.mark.faults
def test_driver_of_a_batch(archive, tally) -> None:
    row = tally("the driver of a batch is killed", "kill -9 of `tileseg batch` over 3 scenes, then the same command")
    moments = random.Random(3)
    while row.times < TIMES:
        out, known = archive.folder / f"batch-{row.times}", {name: [] for name in archive.scenes}
        folders = {name: out / f"{name}.tileseg" for name in archive.scenes}
        process = archive.batch(out, FAULT_SLEEP="0.1")

        def enough(goal: int, folders: dict[str, Path] = folders) -> bool:
            return sum(len(records(folder)) for folder in folders.values()) >= goal

        goal = moments.randint(5, 25)
        while row.times < TIMES and wait_until(lambda: enough(goal), process):  # noqa: B023 - called at once
            left = workers_of(process.pid)
            process.kill()
            process.wait()
            for name, folder in folders.items():
                known[name].append(snapshot(folder))
            row.times += 1
            goal += moments.randint(5, 25)
            process = archive.batch(out, FAULT_SLEEP="0.1")
            wait_until_gone(left)
        done = archive.finish(process, row)
        assert done.code == 0, done.stderr
        for name, folder in folders.items():
            archive.compare(folder, row, name, known[name])
    row.check(SLOTS * row.times)


@pytest.mark.faults
def test_workers_of_a_cluster(bed, tally, tmp_path) -> None:
    row = tally("a worker of a cluster is killed", "kill -9 of the process below one of two `tileseg worker`")
    moments = random.Random(4)
    with cluster(bed, tmp_path, FAULT_SLEEP="0.2") as found:
        while row.times < TIMES:
            folder, known = bed.folder / f"far-workers-{row.times}", []
            process = bed.run(folder, *found.place)
            while row.times < TIMES and wait_for_blocks(process, folder, len(records(folder)) + moments.randint(1, 8)):
                busy = {pid for _, pid, _ in bed.begun(folder)}
                if alive := [pid for pid in busy if psutil.pid_exists(pid)]:
                    known.append(snapshot(folder))
                    os.kill(moments.choice(alive), signal.SIGKILL)
                    row.times += 1
            done = bed.finish(process, row)
            assert done.code == 0, done.stderr
            bed.compare(folder, row, known=known)
    row.check(SLOTS * row.times)


@pytest.mark.faults
def test_driver_on_a_cluster(bed, tally, tmp_path) -> None:
    row = tally("the driver on a cluster is killed", "kill -9 of `tileseg run --cluster`; its workers live on")
    moments = random.Random(5)
    with cluster(bed, tmp_path, FAULT_SLEEP="0.2") as found:
        while row.times < TIMES:
            folder, known = bed.folder / f"far-driver-{row.times}", []
            process = bed.run(folder, *found.place)
            while row.times < TIMES and wait_for_blocks(process, folder, len(records(folder)) + moments.randint(0, 8)):
                process.kill()
                process.wait()
                known.append(snapshot(folder))
                row.times += 1
                process = bed.run(folder, *found.place)
            done = bed.finish(process, row)
            assert done.code == 0, done.stderr
            bed.compare(folder, row, known=known)
    row.check(2 * SLOTS * row.times)


@pytest.mark.faults
def test_scheduler(bed, tally, tmp_path) -> None:
    row = tally("the scheduler is killed", "kill -9 of `dask scheduler`; then another one, workers, the same command")
    moments, folder, known = random.Random(6), bed.folder / "scheduler", []
    while row.times < FEW:
        with cluster(bed, tmp_path / str(row.times), 1, FAULT_SLEEP="0.3") as found:
            process = bed.run(folder, *found.place)
            assert wait_for_blocks(process, folder, len(records(folder)) + moments.randint(1, 3))
            found.scheduler.kill()
            known.append(snapshot(folder))
            row.times += 1
            done = bed.finish(process, row)
            row.tell(done)
            assert done.code == 1
            assert "the connection to the scheduler was lost" in done.message
            for worker in found.workers:  # they end with it
                assert bed.finish(worker, row).code == 0
    with cluster(bed, tmp_path / "last", 1) as found:
        done = bed.finish(bed.run(folder, *found.place), row)
        assert done.code == 0, done.stderr
    bed.compare(folder, row, known=known)
    row.check(SLOTS * row.times)


@pytest.mark.faults
def test_a_block_that_kills_its_workers(bed, tally) -> None:
    """As the kernel does where memory is short; those beside it are not to blame."""
    row = tally("a block kills its workers", "one block of 24 ends its process whenever it is computed")
    folder = bed.folder / "deadly"
    with ending(bed.run(folder, "--workers", "1", FAULT_DEADLY="7")) as process:
        done = bed.finish(process, row)
    row.tell_of_one_block(done, "its worker died 3 time(s), though nothing else was computed")
    assert sorted(records(folder)) == [i for i in range(bed.blocks) if i != 7]
    known = [snapshot(folder)]
    done = bed.finish(bed.run(folder, "--workers", "1"), row)
    assert done.code == 0, done.stderr
    bed.compare(folder, row, known=known)
    row.check(6 * SLOTS)
