"""SIGSTOP: processes that stand still for longer than anybody waits for them, and then go on."""

import signal
from pathlib import Path

import psutil
import pytest
from faults.bed import (
    FEW,
    SLOTS,
    Bed,
    Process,
    cluster,
    ending,
    kill,
    snapshot,
    wait_for_blocks,
    wait_until_gone,
    workers_of,
)

SHORT = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
"""Dask's patience with a worker: five minutes otherwise, and never less than ten heartbeats."""
ELSEWHERE = Path(__file__).with_name("elsewhere.py")
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("stops"))


def stopped(process: psutil.Process) -> bool:
    return process.is_running() and process.status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_of_a_run(bed, tally, workers) -> None:
    row = tally(
        f"{'the only' if workers == 1 else 'a'} worker stands still",
        f"SIGSTOP of a process of `tileseg run --workers {workers}`, with a worker TTL of 5 s",
    )
    while row.times < FEW:
        folder = bed.folder / f"still-{workers}-{row.times}"
        process = bed.run(folder, "--workers", str(workers), FAULT_SLEEP="0.3", **SHORT)
        assert wait_for_blocks(process, folder, 4)
        busy = {pid for _, pid, _ in bed.begun(folder)}
        victim = next(w for w in workers_of(process.pid) if w.pid in busy)
        victim.suspend()
        known = [snapshot(folder)]
        row.times += 1
        done = bed.finish(process, row)
        left = stopped(victim)
        kill([victim])
        assert done.code == 0, done.stderr
        assert not left
        bed.compare(folder, row, known=known)
    row.check(SLOTS * row.times)


def test_a_worker_of_a_cluster_that_wakes_up(bed, tally, tmp_path) -> None:
    """Its blocks are computed elsewhere meanwhile; it may finish them all the same, and is of use later."""
    row = tally(
        "a worker of a cluster stands still, then goes on",
        "SIGSTOP of the process below one of two `tileseg worker` for longer than the TTL (5 s), then SIGCONT",
    )
    with cluster(bed, tmp_path, FAULT_SLEEP="0.3", **SHORT) as found:
        while row.times < FEW:
            folder = bed.folder / f"woken-{row.times}"
            process = bed.run(folder, *found.place)
            assert wait_for_blocks(process, folder, 4)
            victim = psutil.Process(next(pid for _, pid, _ in reversed(bed.begun(folder)) if psutil.pid_exists(pid)))
            victim.suspend()
            known = [snapshot(folder)]
            row.times += 1
            # Until its blocks were begun by others: all other blocks are finished.
            wait_for_blocks(process, folder, bed.blocks - 2 * SLOTS)
            if victim.is_running():
                victim.resume()
            done = bed.finish(process, row)
            assert done.code == 0, done.stderr
            bed.compare(folder, row, known=known)
    row.check(2 * SLOTS * row.times)


def test_a_driver_that_finds_its_folder_taken(bed, tally) -> None:
    """On another machine, whose kernel cannot know that the first process only sleeps."""
    row = tally(
        "the driver stands still for longer than its lease",
        "SIGSTOP of `tileseg run`; the same command elsewhere takes the folder over; SIGCONT",
    )

    def begin(host: str, folder: Path) -> Process:
        program = (str(ELSEWHERE), host, "0", "6", "tileseg")
        return bed.run(folder, "--workers", "1", program=program, FAULT_SLEEP="0.3")

    while row.times < FEW:
        folder = bed.folder / f"taken-{row.times}"
        with ending(begin("first", folder)) as first:
            assert wait_for_blocks(first, folder, 4)
            first.send_signal(signal.SIGSTOP)
            workers = workers_of(first.pid)
            row.times += 1
            second = begin("second", folder)
            while (done := bed.finish(second, row)).code == 75:  # too early
                second = begin("second", folder)
            assert done.code == 0, done.stderr
            known = [snapshot(folder)]
            first.send_signal(signal.SIGCONT)
            done = bed.finish(first, row)
            row.tell(done)
            assert done.code == 75
            assert "took over while this process stood still" in done.message
            wait_until_gone(workers)
        bed.compare(folder, row, known=known)
    row.check(2 * SLOTS * row.times)
