"""Leases of processes with clocks that are wrong: never stolen from the living, never kept by the dead."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.bed import Process, ending, wait_until

from tileseg.errors import LockedError
from tileseg.storage import lease
from tileseg.storage.lease import hold

ELSEWHERE = Path(__file__).with_name("elsewhere.py")
EXPIRES = 3.0
SKEWS = (-3600.0, 0.0, 3600.0)
"""Seconds by which the owner's clock is ahead."""


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    """This process is a machine without a lock of the kernel's."""
    monkeypatch.setattr(lease, "BEAT", EXPIRES / 15)
    monkeypatch.setattr(lease, "EXPIRES", EXPIRES)
    monkeypatch.setattr(lease, "_WATCH", EXPIRES * 2 / 3)
    monkeypatch.setattr(lease, "_flock", lambda folder, handle: False)
    monkeypatch.setattr(lease, "_boot", lambda: "here")


@contextmanager
def owner(folder: Path, skew: float) -> Iterator[Process]:
    """A process on another machine that holds a folder."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ELSEWHERE), "there", str(skew), str(EXPIRES), "hold", str(folder / "state")]
    with ending(Process(command, folder, dict(os.environ))) as process:
        assert wait_until((folder / "state" / "held-by-there").exists, process)
        yield process


def each(work: Callable[[float], None]) -> None:
    """Do something for an owner whose clock is behind, right, and ahead: side by side, because it is mostly waiting."""
    with ThreadPoolExecutor(len(SKEWS)) as pool:
        list(pool.map(work, SKEWS))


def test_not_stolen_from_the_living(tmp_path, tally) -> None:
    row = tally("clocks are wrong: the owner lives", "an owner whose clock is 1 h behind, right, 1 h ahead; no flock")
    row.without_blocks = True

    def watch(skew: float) -> None:
        folder = tmp_path / str(skew)
        with owner(folder, skew) as process:
            end = time.monotonic() + 1.5 * EXPIRES
            while time.monotonic() < end:
                with pytest.raises(LockedError, match=f"process {process.pid} on there"), hold(folder / "state"):
                    pass
                time.sleep(0.3)
            assert process.poll() is None
        row.times += 1

    each(watch)
    row.told["75: process N on HOST is working on this folder; wait for it, or choose another --out"] = row.times


def test_not_kept_by_the_dead(tmp_path, tally) -> None:
    row = tally("clocks are wrong: the owner is dead", "the same, after kill -9 of the owner: the next one takes over")
    row.without_blocks = True

    def inherit(skew: float) -> None:
        folder = tmp_path / str(skew)
        with owner(folder, skew) as process:
            process.kill()
            process.wait()
        end = time.monotonic() + 60
        while True:
            try:
                with hold(folder / "state"):
                    row.times += 1
                    return
            except LockedError:
                assert time.monotonic() < end
                time.sleep(0.2)

    each(inherit)


def test_who_stood_still_finds_its_folder_taken(tmp_path) -> None:
    with owner(tmp_path, 0) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(EXPIRES + 0.5)
        with hold(tmp_path / "state"):
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 1
        told = process.complaints.read_text()
    assert "took over while this process stood still" in told
