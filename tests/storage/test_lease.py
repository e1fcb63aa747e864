"""Locks between machines. Others are played by leases with another kernel's name, and their clocks by file times."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from contention import contend

from tileseg.errors import LockedError
from tileseg.storage import lease
from tileseg.storage.lease import alive, hold


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "EXPIRES", 20.0)  # longer than a busy machine ever keeps a thread waiting
    monkeypatch.setattr(lease, "_WATCH", 0.4)


def foreign(folder: Path, number: int = 3, age: float = 0.0) -> Path:
    """A lease of another machine, last renewed ``age`` seconds ago."""
    path = folder / f"lease-{number:06d}"
    path.write_text(json.dumps({"process": 7, "host": "elsewhere", "boot": "another"}))
    os.utime(path, (time.time() - age,) * 2)
    return path


@contextmanager
def beating(path: Path, age: float) -> Iterator[None]:
    """Renew a lease by a clock that is ``age`` seconds behind."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(path, (time.time() - age,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for_renewal(path: Path) -> None:
    before, end = path.stat().st_mtime_ns, time.monotonic() + 60
    while path.stat().st_mtime_ns == before:
        assert time.monotonic() < end, "nothing renews it"
        time.sleep(0.01)


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("lease-")) for path in folder.glob("lease-*"))


def test_numbers_grow_and_only_the_last_stays(tmp_path) -> None:
    for expected in (1, 2, 3):
        with hold(tmp_path):
            assert numbers(tmp_path) == [expected]
    assert numbers(tmp_path) == [3]
    assert alive(tmp_path) is False


def test_a_lease_of_another_machine_is_respected(tmp_path) -> None:
    foreign(tmp_path)
    with pytest.raises(LockedError, match="process 7 on elsewhere"), hold(tmp_path):
        pass
    assert numbers(tmp_path) == [3]


def test_a_dead_machine_s_lease_expires(tmp_path) -> None:
    foreign(tmp_path, age=60)
    begun = time.monotonic()
    with hold(tmp_path):
        assert numbers(tmp_path) == [4]
    assert time.monotonic() - begun >= 0.4


def test_clocks_may_be_wrong_if_the_lease_is_renewed(tmp_path) -> None:
    path = foreign(tmp_path, age=3600)
    with beating(path, age=3600):
        assert alive(tmp_path) is None
        wait_for_renewal(path)
        assert alive(tmp_path) is True
        with pytest.raises(LockedError, match="elsewhere"), hold(tmp_path):
            pass


def test_a_killed_process_of_this_machine_leaves_nothing_to_wait_for(tmp_path, monkeypatch) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    monkeypatch.setattr(time, "sleep", wait)
    mine = {"process": 7, "host": "here", "boot": lease._boot()}
    (tmp_path / "lease-000001").write_text(json.dumps(mine))
    with hold(tmp_path):
        pass


def test_who_stood_still_too_long_steps_back(tmp_path) -> None:
    told = threading.Event()

    def stand_still() -> None:
        with hold(tmp_path, told.set):
            foreign(tmp_path, number=2)
            assert told.wait(60)

    with pytest.raises(LockedError, match=r"process 7 on elsewhere took over"):
        stand_still()
    assert json.loads((tmp_path / "lease-000002").read_text())["host"] == "elsewhere"


def test_an_owner_keeps_its_lease_alive(tmp_path) -> None:
    with hold(tmp_path):
        alive(tmp_path)
        wait_for_renewal(tmp_path / "lease-000001")
        assert alive(tmp_path) is True


@pytest.mark.parametrize("flock", [True, False])
def test_never_two_at_once(tmp_path, monkeypatch, flock) -> None:
    """Without the kernel's help too: leases alone decide."""
    if not flock:
        monkeypatch.setattr(lease, "_flock", lambda folder, handle: False)
    most, turns = contend(tmp_path, threads=6, attempts=60, pause=0.001)
    assert most == 1
    assert turns > 6
