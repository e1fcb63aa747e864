"""A test-bed for faults: small scenes, real processes on loopback, and a count of what they computed.

Workers load ``afflict.py``, which writes a line for every block that is begun. Together with the ledger's records (a
block that is computed again gets a new file) it tells what was lost, and what was done twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from fakes import save_tiny_onnx, smooth_noise, write_scene

if TYPE_CHECKING:
    from buckets import Bucket

BOUND = 900.0
"""Seconds after which a process hangs. They are many, because processors may be busy; nothing here measures speed."""
TIMES = int(os.environ.get("TILESEG_FAULT_TIMES", "2"))
"""How often each fault is made, where that is counted; ``make faults`` asks for more."""
FEW = -(-TIMES // 2)
"""How often those are that take minutes."""
SLOTS = 2
"""Blocks in flight in a worker."""
_TILESEG = ("-m", "tileseg")
_TOLD = ("summary.json", "item.json", "scene.qgz")
"""What says when and from where: not the same in another folder."""
_AFFLICT = Path(__file__).with_name("afflict.py")


@dataclass
class Tally:
    """What became of the trials of one fault: a row of ``benchmarks/RELIABILITY.md``."""

    fault: str
    how: str
    times: int = 0
    lost: int = 0
    """Blocks without a record at the end."""
    again: int = 0
    """Blocks computed again although they were finished."""
    in_flight: int = 0
    """Blocks computed twice, because they were in flight when the fault came."""
    hung: int = 0
    differing: list[str] = field(default_factory=list)
    """Files that are not those of an undisturbed run."""
    without_blocks: bool = False
    """It is not about blocks."""
    told: Counter[str] = field(default_factory=Counter)
    """Exit codes and messages of the processes that the fault ended."""

    @property
    def row(self) -> str:
        """In Markdown."""
        told = "<br>".join(re.sub(r"/\S*/", "", text) for text, _ in self.told.most_common(3)) or "0"
        if self.without_blocks:
            return f"| {self.fault} | {self.how} | {self.times} | - | - | {self.hung or 'no'} | - | {told} |"
        twice = f"{self.in_flight} in flight, {self.again} finished"
        same = "no: " + ", ".join(self.differing[:3]) if self.differing else "yes"
        return (
            f"| {self.fault} | {self.how} | {self.times} | {self.lost} | {twice} | {self.hung or 'no'} | {same} | "
            f"{told} |"
        )

    def check(self, most_in_flight: int) -> None:
        """Fail unless all promises were kept. ``most_in_flight``: blocks that the faults could catch."""
        assert self.times > 0
        assert (self.lost, self.again, self.hung, self.differing) == (0, 0, 0, [])
        assert self.in_flight <= most_in_flight

    def tell(self, done: Ended) -> None:
        """Keep exit code and message of a process, without what differs from one time to the other."""
        self.told[f"{done.code}: {done.message}" if done.message else str(done.code)] += 1

    def tell_of_one_block(self, done: Ended, why: str) -> None:
        """Count a trial in which one of 24 blocks could not be computed, and the others could."""
        self.times += 1
        self.tell(done)
        assert done.code == 1
        assert "1 of 24 blocks could not be computed" in done.message
        assert why in done.stderr


@dataclass(frozen=True)
class InBucket:
    """Where a run's outputs are, on an object store."""

    bucket: Bucket
    key: str

    def __str__(self) -> str:
        return self.bucket.url(self.key)

    @property
    def name(self) -> str:
        """As of a folder."""
        return self.key

    def resolve(self) -> str:
        """Its address."""
        return str(self)


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    stderr: str

    @property
    def message(self) -> str:
        """Its last complaint."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("tileseg: ")]
        return lines[-1].removeprefix("tileseg: ") if lines else ""


@dataclass(frozen=True)
class Bed:
    """A folder with scenes, a model, and what comes out of them undisturbed."""

    folder: Path
    scenes: tuple[str, ...]
    blocks: int
    """Of each scene."""

    @staticmethod
    def make(folder: Path, scenes: int = 1, height: int = 500, width: int = 700) -> Bed:
        """Scenes that are not alike, in blocks of 128; the undisturbed result of each in ``undisturbed``."""
        save_tiny_onnx(folder / "tiny")
        names = tuple(f"scene{i}" for i in range(scenes))
        (folder / "in").mkdir()
        for seed, name in enumerate(names):
            write_scene(folder / "in" / f"{name}.tif", smooth_noise(height, width, 3, seed))
        bed = Bed(folder, names, -(-height // 128) * -(-width // 128))
        done = bed.finish(bed.batch("undisturbed", "--workers", "0"))
        assert done.code == 0, done.stderr
        return bed

    def scene(self, name: str = "scene0") -> Path:
        """The file of a scene."""
        return self.folder / "in" / f"{name}.tif"

    @property
    def _options(self) -> list[str]:
        return ["--model", "tiny", "--block", "128", "--precision", "float32", "--format", "geojson,gpkg"]

    def run(
        self, out: Path | InBucket, *more: str, program: Sequence[str] = _TILESEG, scene: str = "", **env: str
    ) -> Process:
        """Begin (or go on with) the run of the first scene, which may also be read elsewhere."""
        scene = scene or str(self.scene())
        return self.start("run", scene, "--out", str(out), *self._options, "-q", *more, program=program, **env)

    def batch(self, out: str | Path, *more: str, **env: str) -> Process:
        """Begin (or go on with) a batch of all scenes."""
        return self.start("batch", "in", "--out", str(out), *self._options, "--no-catalogue", "-q", *more, **env)

    def start(self, *arguments: str, program: Sequence[str] = _TILESEG, **env: str) -> Process:
        """A process of tileseg, and workers that note what they do."""
        command = [sys.executable, *program, *arguments]
        found = {
            **os.environ,
            "FAULT_LOG": str(self.log),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": f"['{_AFFLICT}']",
            **env,
        }
        return Process(command, self.folder, found)

    @property
    def log(self) -> Path:
        """A line for every block that is begun."""
        return self.folder / "begun.log"

    @staticmethod
    def finish(process: Process, tally: Tally | None = None) -> Ended:
        """Wait for a process to end; one that hangs is counted and killed."""
        try:
            process.wait(BOUND)
        except subprocess.TimeoutExpired:
            if tally is None:
                raise
            tally.hung += 1
            process.kill()
        return Ended(process.wait(), process.complaints.read_text())

    def begun(self, folder: Path | InBucket) -> list[tuple[int, int, int]]:
        """(nanoseconds, process, block) of all blocks of a run that were begun."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [(int(t), int(process), int(block)) for t, process, out, block in lines if out == str(folder.resolve())]

    def compare(
        self, folder: Path | InBucket, tally: Tally, name: str = "scene0", known: Sequence[Snapshot] = ()
    ) -> None:
        """Count what was lost or done twice in a run that is finished, and the files that are not as they should be.

        ``known``: what was there at each fault.
        """
        expected, found = digest(self.folder / "undisturbed" / f"{name}.tileseg"), digest(folder)
        names = sorted({*expected, *found})
        tally.differing += [f"{folder.name}/{p}" for p in names if expected.get(p) != found.get(p)]
        now = records(folder)
        tally.lost += self.blocks - len(now)
        again = {i for before in known for i, facts in before.records.items() if now.get(i) != facts}
        begun = self.begun(folder)
        again |= {i for before in known for t, _, i in begun if t > before.time and i in before.records}
        tally.again += len(again)
        tally.in_flight += len(begun) - len({i for _, _, i in begun}) - len(again)


class Process(subprocess.Popen[bytes]):
    """A process whose complaints go to a file: a pipe that nobody reads would stop it."""

    def __init__(self, command: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self.complaints = Path(tempfile.mkstemp(dir=folder, prefix="stderr-")[1])
        with self.complaints.open("w") as file:
            super().__init__(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=file)


@dataclass(frozen=True)
class Snapshot:
    """What a run had finished at a moment."""

    time: int
    """Nanoseconds."""
    records: dict[int, tuple[object, ...]]


def snapshot(folder: Path | InBucket) -> Snapshot:
    """What is finished now; blocks begun later must not be among it."""
    found = records(folder)
    return Snapshot(time.time_ns(), found)


def records(folder: Path | InBucket) -> dict[int, tuple[object, ...]]:
    """Finished blocks: (time of change, inode) of their records; in a bucket, (ETag, time of change)."""
    if isinstance(folder, InBucket):
        keys = folder.bucket.keys(f"{folder.key}/.state/done/")
        return {int(Path(key).stem): folder.bucket.stat(key) for key in keys}
    found: dict[int, tuple[object, ...]] = {}
    for path in (folder / ".state" / "done").glob("*/*.json"):
        facts = path.stat()
        found[int(path.stem)] = (facts.st_mtime_ns, facts.st_ino)
    return found


def digest(folder: Path | InBucket) -> dict[str, str]:
    """SHA-256 of every file that a run delivers, by relative path; of the summary, that it is there."""
    if isinstance(folder, InBucket):
        contents = folder.bucket.contents(f"{folder.key}/")
        kept = {
            name: data
            for name, data in contents.items()
            if not name.startswith((".state/", "summary.json", "scene.qgz"))
        }
        there = {"summary.json": str("summary.json" in contents)}
        return {name: hashlib.sha256(data).hexdigest() for name, data in kept.items()} | there
    files = [p for p in (folder / "mosaic.zarr").rglob("*") if p.is_file()]
    files += [p for p in folder.iterdir() if p.is_file() and p.name not in _TOLD]
    found = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}
    return {**found, "summary.json": str((folder / "summary.json").exists())}


def wait_until(condition: Callable[[], bool], process: Process | None = None) -> bool:
    """Wait for something; False if the process ended before."""
    end = time.monotonic() + BOUND
    while not condition():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return True


def wait_for_blocks(process: Process, folder: Path | InBucket, goal: int) -> bool:
    """Wait until so many blocks are finished; False if the run ended before."""
    return wait_until(lambda: len(records(folder)) >= goal, process)


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes that a run, or ``tileseg worker``, has started."""
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return []


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Workers end by themselves when their driver is gone."""
    _, alive = psutil.wait_procs(processes, timeout=BOUND)
    assert not alive, f"outlived their driver: {alive}"


@contextmanager
def ending(process: Process) -> Iterator[Process]:
    """Ends a process, and what it has started, with the ``with`` block."""
    try:
        yield process
    finally:
        left = workers_of(process.pid)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        kill(left)


@dataclass
class Cluster:
    """A Dask scheduler and ``tileseg worker`` processes, started by hand."""

    bed: Bed
    folder: Path
    scheduler: Process
    workers: list[Process]

    @property
    def place(self) -> list[str]:
        """Options that lead a run there. Workers may take their time to come."""
        spec = self.folder / "cluster.yaml"
        spec.write_text(f"scheduler_file: {self.folder / 'scheduler.json'}\nwait: {BOUND:.0f}\n")
        return ["--cluster", str(spec)]

    def kill(self) -> None:
        """Let nothing of it live on."""
        for process in (*self.workers, self.scheduler):
            left = workers_of(process.pid)
            process.kill()
            process.wait()
            kill(left)


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that may be gone already."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def cluster(bed: Bed, folder: Path, workers: int = 2, *options: str, **env: str) -> Iterator[Cluster]:
    """A scheduler with workers, until the ``with`` block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    command += ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = Process(command, folder, {**os.environ, **env})
    found = Cluster(bed, folder, scheduler, [])
    try:
        assert wait_until(file.exists, scheduler)
        for _ in range(workers):
            start = ["worker", "--scheduler-file", str(file), "--device", "cpu", "--threads", "1", *options]
            found.workers.append(bed.start(*start, **env))
        yield found
    finally:
        found.kill()
