"""Locks on an object store: leases alone decide."""

import json
import os
import threading
import time

import pytest
from buckets import forget_stores
from contention import contend
from unreliable import Unreliable

from tileseg.errors import LockedError
from tileseg.storage import lease
from tileseg.storage.lease import alive, hold
from tileseg.storage.place import Url
from tileseg.storage.store import at


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "EXPIRES", 2.0)
    monkeypatch.setattr(lease, "_WATCH", 0.8)


@pytest.fixture
def folder(bucket) -> Url:
    return Url.parse(bucket.url("run/.state"))


def leases(bucket) -> list[str]:
    return [key.rpartition("/")[2] for key in bucket.keys("run/.state/lease-")]


FOREIGN = json.dumps({"process": 7, "host": "elsewhere", "boot": "another"}).encode()


def test_a_file_is_created_once_only(folder) -> None:
    at(folder / "one").create(b"first")
    with pytest.raises(FileExistsError):
        at(folder / "one").create(b"second")
    assert at(folder / "one").read() == b"first"


def test_only_what_is_there_is_renewed(folder) -> None:
    at(folder / "one").create(b"first")
    before = at(folder / "one").stamp()
    at(folder / "one").renew(b"again")
    assert at(folder / "one").stamp() != before
    at(folder / "one").remove()
    with pytest.raises(FileNotFoundError):
        at(folder / "one").renew(b"again")


def test_numbers_grow_and_only_the_last_stays(bucket, folder) -> None:
    for number in ("lease-000001", "lease-000002"):
        with hold(folder):
            assert leases(bucket) == [number]
            assert alive(folder) in (True, None)
    assert alive(folder) is False


def test_a_lease_of_another_machine_is_respected_until_it_expires(bucket, folder) -> None:
    bucket.put("run/.state/lease-000003", FOREIGN)
    with pytest.raises(LockedError, match="process 7 on elsewhere"), hold(folder):
        pass
    time.sleep(3)
    with hold(folder):
        assert leases(bucket) == ["lease-000004"]


def test_an_owner_keeps_its_lease_alive(folder) -> None:
    with hold(folder):
        alive(folder)
        time.sleep(3)
        assert alive(folder) is True
        with pytest.raises(LockedError, match=f"process {os.getpid()}"), hold(folder):
            pass


def test_who_stood_still_too_long_steps_back(bucket, folder) -> None:
    told = threading.Event()

    def stand_still() -> None:
        with hold(folder, told.set):
            bucket.put("run/.state/lease-000002", FOREIGN)
            assert told.wait(10)

    with pytest.raises(LockedError, match=r"process 7 on elsewhere took over"):
        stand_still()


def test_never_two_at_once(bucket, folder, monkeypatch) -> None:
    """Through a server that loses answers, too."""
    with Unreliable(bucket.port, share=0.05, kinds=("500", "cut")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        forget_stores()
        most, turns = contend(folder, threads=4, attempts=10, pause=0.01)
    assert most == 1
    assert turns > 3
