"""Feeding blocks to a cluster or to threads: what is tried again, what stops, what is reported."""

import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client

from tileseg.cluster.failure import BlockFailure
from tileseg.cluster.local import local_cluster
from tileseg.cluster.schedule import run_feed, run_on_cluster
from tileseg.cluster.threads import run_feed_in_threads, run_in_threads
from tileseg.errors import InputError
from tileseg.run.ledger import BlockRecord
from tileseg.window import Window


class Blocks(list):
    """Stands for a plan of that many blocks."""

    threads = 2

    def __init__(self, count: int) -> None:
        super().__init__(SimpleNamespace(core=Window(0, i * 10, 10, 10)) for i in range(count))


def job(folder: Path, count: int = 12) -> SimpleNamespace:
    return SimpleNamespace(key=f"job-{folder.name}", plan=Blocks(count), folder=folder)


def attempt(folder: Path, index: int) -> int:
    """How often a block was tried, this time included."""
    with (folder / f"{index}.tries").open("a") as file:
        file.write("x")
    return (folder / f"{index}.tries").stat().st_size


def fine(job: SimpleNamespace, index: int) -> BlockRecord:
    attempt(job.folder, index)
    return BlockRecord(index, 100)


def unlucky_once(job: SimpleNamespace, index: int) -> BlockRecord:
    if attempt(job.folder, index) == 1 and index == 4:
        raise ConnectionResetError("the share went away")
    return BlockRecord(index, 100)


def unreadable(job: SimpleNamespace, index: int) -> BlockRecord:
    if attempt(job.folder, index) and index == 4:
        raise InputError("scene.tif: cannot be read at rows 0-9, columns 40-49")
    return BlockRecord(index, 100)


def broken(job: SimpleNamespace, index: int) -> BlockRecord:
    if attempt(job.folder, index) and index == 4:
        raise ZeroDivisionError("a bug")
    return BlockRecord(index, 100)


def full(job: SimpleNamespace, index: int) -> BlockRecord:
    if attempt(job.folder, index) and index == 4:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return BlockRecord(index, 100)


def deadly_once(job: SimpleNamespace, index: int) -> BlockRecord:
    if attempt(job.folder, index) == 1 and index == 4:
        os._exit(9)
    return BlockRecord(index, 100)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster(workers=1, threads=2, compute_threads=1) as client:
        yield client


def run(
    client: Client | None, work, folder: Path, stop: threading.Event | None = None
) -> tuple[list[BlockFailure], list[int], dict[int, int]]:
    """Failures, records, and how often each block was tried."""
    made, stop = job(folder), stop or threading.Event()
    records: list[BlockRecord] = []
    todo = range(len(made.plan))
    if client is None:
        failures = run_in_threads(work, made, todo, records.append, stop)
    else:
        failures = run_on_cluster(client, work, made, todo, records.append, stop)
    tries = {int(p.stem): p.stat().st_size for p in folder.glob("*.tries")}
    return failures, sorted(r.index for r in records), tries


@pytest.mark.parametrize("here", [True, False])
def test_all_blocks_once(client, tmp_path, monkeypatch, here) -> None:
    failures, done, tries = run(None if here else client, fine, tmp_path)
    assert (failures, done) == ([], list(range(12)))
    assert set(tries.values()) == {1}


def quick(job: SimpleNamespace, index: int) -> BlockRecord:
    return BlockRecord(index, len(job.plan))


def test_short_blocks_are_submitted_many_at_a_time(client, tmp_path, monkeypatch) -> None:
    submit, sizes, made, records = client.map, [], job(tmp_path, 500), []
    monkeypatch.setattr(
        client, "map", lambda work, blocks, **how: sizes.append(len(blocks)) or submit(work, blocks, **how)
    )
    assert run_on_cluster(client, quick, made, range(500), records.append, threading.Event()) == []
    assert sorted(record.index for record in records) == list(range(500))
    assert sizes[0] == 2 * client.slots  # until it is known that they are short
    assert max(sizes) > 2 * client.slots
    assert sum(sizes) == 500


def test_what_is_ready_is_computed_while_the_next_run_is_waited_for(client, tmp_path, monkeypatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = job(tmp_path / "first", 3), job(tmp_path / "second", 2)
    done: list[tuple[str, int]] = []

    def feed() -> Iterator[tuple[SimpleNamespace, Sequence[int]]]:
        yield first, range(3)
        end = time.monotonic() + 60
        while len(list(first.folder.glob("*.tries"))) < 3:
            assert time.monotonic() < end, "they wait for the second run"
            time.sleep(0.02)
        yield second, range(2)

    def on_done(job: SimpleNamespace, record: BlockRecord) -> None:
        done.append((job.folder.name, record.index))

    run_feed(client, fine, feed(), on_done, lambda *failure: pytest.fail(str(failure)), threading.Event())
    assert sorted(done) == [("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1)]


def in_turn(job: SimpleNamespace, index: int) -> BlockRecord:
    with (job.folder.parent / "begun").open("a") as file:
        file.write(f"{job.folder.name}\n")
    return BlockRecord(index, 100)


def test_a_run_begins_after_the_one_before_it(tmp_path, monkeypatch) -> None:
    """Quick blocks of many runs are submitted within milliseconds."""
    jobs = [job(tmp_path / f"{i:02}", count=5) for i in range(20, 0, -1)]
    failed: list[BlockFailure] = []
    with local_cluster(workers=1, threads=1, compute_threads=1) as client:
        feed = ((job, range(5)) for job in jobs)
        run_feed(
            client, in_turn, feed, lambda _, __: None, lambda _, failure: failed.append(failure), threading.Event()
        )
    assert failed == []
    assert (tmp_path / "begun").read_text().split() == [job.folder.name for job in jobs for _ in range(5)]


@pytest.mark.parametrize("here", [True, False])
def test_passing_trouble_is_tried_again(client, tmp_path, here) -> None:
    failures, done, tries = run(None if here else client, unlucky_once, tmp_path)
    assert (failures, done) == ([], list(range(12)))
    assert tries[4] == 2


def test_a_dead_worker_costs_only_its_block_in_flight(client, tmp_path, monkeypatch) -> None:
    failures, done, tries = run(client, deadly_once, tmp_path)
    assert (failures, done) == ([], list(range(12)))
    assert tries[4] == 2


@pytest.mark.parametrize("here", [True, False])
def test_unreadable_input_is_not_tried_again_and_the_others_go_on(client, tmp_path, monkeypatch, here) -> None:
    failures, done, tries = run(None if here else client, unreadable, tmp_path)
    assert done == [i for i in range(12) if i != 4]
    assert tries[4] == 1
    assert [f.hopeless for f in failures] == [True]
    assert str(failures[0]) == "scene.tif: cannot be read at rows 0-9, columns 40-49"


@pytest.mark.parametrize("here", [True, False])
def test_bugs_are_given_up_after_some_tries(client, tmp_path, here) -> None:
    failures, done, tries = run(None if here else client, broken, tmp_path)
    assert done == [i for i in range(12) if i != 4]
    assert tries[4] == 3
    assert not failures[0].hopeless
    assert str(failures[0]) == "block at rows 0-9, columns 40-49: ZeroDivisionError: a bug"


@pytest.mark.parametrize("here", [True, False])
def test_a_full_disk_stops_everything(client, tmp_path, monkeypatch, here) -> None:
    failures, done, tries = run(None if here else client, full, tmp_path)
    assert tries[4] == 1
    assert len(failures) == 1
    assert len(done) < 11


@pytest.mark.parametrize("here", [True, False])
def test_nothing_begins_after_a_stop(client, tmp_path, monkeypatch, here) -> None:
    stop = threading.Event()
    stop.set()
    failures, done, tries = run(None if here else client, fine, tmp_path, stop)
    assert (failures, done, tries) == ([], [], {})


class Beside:
    """Notes how many blocks are computed at once."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


def in_threads(work, made: SimpleNamespace) -> tuple[list[BlockFailure], list[int]]:
    records: list[BlockRecord] = []
    failures = run_in_threads(work, made, range(len(made.plan)), records.append, threading.Event())
    return failures, sorted(record.index for record in records)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_compute_as_many_blocks_at_once_as_the_plan_says(tmp_path, threads) -> None:
    made, beside = job(tmp_path), Beside()
    made.plan.threads = threads
    meeting = threading.Barrier(threads, timeout=60)

    def work(job: SimpleNamespace, index: int) -> BlockRecord:
        with beside:
            meeting.wait()  # fails unless as many come
            return fine(job, index)

    assert in_threads(work, made) == ([], list(range(12)))
    assert beside.most == threads


@pytest.mark.parametrize("enough", [True, False])
def test_a_block_without_memory_is_tried_once_more_when_no_thread_computes_anything(tmp_path, enough) -> None:
    made, beside = job(tmp_path), Beside()
    alone: list[int] = []

    def work(job: SimpleNamespace, index: int) -> BlockRecord:
        with beside:
            time.sleep(0.01)
            tries = attempt(job.folder, index)
            if index == 4 and tries == 2:
                alone.append(beside.now)
            if index == 4 and not (tries == 2 and enough):
                raise MemoryError
            return BlockRecord(index, 100)

    failures, done = in_threads(work, made)
    assert alone == [1]
    assert done == [i for i in range(12) if enough or i != 4]
    told = "block at rows 0-9, columns 40-49: out of memory, though nothing else was computed; see --max-memory"
    assert [str(f) for f in failures] == ([] if enough else [told])


def test_threads_finish_what_they_have_begun_when_a_run_is_stopped(tmp_path) -> None:
    made, stop, begun = job(tmp_path), threading.Event(), threading.Barrier(3, timeout=60)
    records: list[BlockRecord] = []

    def work(job: SimpleNamespace, index: int) -> BlockRecord:
        begun.wait()
        stop.wait()
        return fine(job, index)

    def interrupt() -> None:
        begun.wait()
        stop.set()

    threading.Thread(target=interrupt).start()
    assert run_in_threads(work, made, range(12), records.append, stop) == []
    assert sorted(record.index for record in records) == [0, 1]
    assert len(list(tmp_path.glob("*.tries"))) == 2


def test_threads_finish_what_they_have_begun_when_the_listener_fails(tmp_path) -> None:
    """As on Ctrl-C in a script, whose main thread it is."""
    made = job(tmp_path)

    def on_done(record: BlockRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_threads(fine, made, range(12), on_done, threading.Event())
    assert len(list(tmp_path.glob("*.tries"))) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("block")]


def test_threads_go_on_with_the_next_run_while_one_ends(tmp_path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = job(tmp_path / "first", 3), job(tmp_path / "second", 3)
    meeting = threading.Barrier(2, timeout=60)
    done: list[tuple[str, int]] = []

    def work(job: SimpleNamespace, index: int) -> BlockRecord:
        meeting.wait()  # the last of the first run waits for the first of the second
        return fine(job, index)

    feed = iter([(first, range(3)), (second, range(3))])
    run_feed_in_threads(
        work, feed, lambda job, record: done.append((job.folder.name, record.index)), print, threading.Event()
    )
    assert sorted(done) == [(name, i) for name in ("first", "second") for i in range(3)]
