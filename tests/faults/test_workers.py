"""Workers that die again and again, or for good: the others' blocks are finished, and nobody waits for ever."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from tileseg.cluster.client import Workers
from tileseg.cluster.failure import BlockFailure
from tileseg.cluster.local import local_cluster
from tileseg.cluster.schedule import run_feed
from tileseg.cluster.settings import SETTINGS
from tileseg.errors import TilesegError
from tileseg.run.ledger import BlockRecord
from tileseg.window import Window

BLOCKS = 12
DEADLY = 3


@pytest.fixture
def job() -> SimpleNamespace:
    """One of its blocks kills the process that computes it."""

    def deadly(job: SimpleNamespace, index: int) -> BlockRecord:  # travels by value, as it is no module's
        time.sleep(0.2)
        if index == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return BlockRecord(index, 1)

    return SimpleNamespace(
        key="job", work=deadly, plan=[SimpleNamespace(core=Window(0, i * 10, 10, 10)) for i in range(BLOCKS)]
    )


def feed(client: Workers, job: SimpleNamespace) -> tuple[list[int], list[BlockFailure]]:
    done: list[int] = []
    failures: list[BlockFailure] = []
    blocks = iter([(job, range(BLOCKS))])
    run_feed(
        client,
        job.work,
        blocks,
        lambda _, record: done.append(record.index),
        lambda _, f: failures.append(f),
        threading.Event(),
    )
    return sorted(done), failures


def test_a_block_that_kills_its_workers_takes_no_others_with_it(job, monkeypatch) -> None:
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.allowed-failures", 0)
    with local_cluster(1, 2, 1) as client:
        done, failures = feed(client, job)
    assert done == [i for i in range(BLOCKS) if i != DEADLY]
    assert [f.index for f in failures] == [DEADLY]
    assert str(failures[0]).startswith(
        "block at rows 0-9, columns 30-39: its worker died 1 time(s), though nothing else was computed (out of memory?"
    )


def test_the_only_worker_does_not_come_back(job, monkeypatch) -> None:
    monkeypatch.setitem(SETTINGS, "distributed.deploy.lost-worker-timeout", "10ms")
    monkeypatch.setitem(SETTINGS, "distributed.scheduler.no-workers-timeout", "2s")
    with (
        local_cluster(1, 2, 1) as client,
        pytest.raises(TilesegError, match=r"^all workers have gone, and none has come back; finished blocks are kept"),
    ):
        feed(client, job)
