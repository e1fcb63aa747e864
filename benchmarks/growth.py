"""What many blocks, many workers and many records cost.

    python benchmarks/growth.py scheduling [--blocks 100000] [--ledger]
    python benchmarks/growth.py ledger [--blocks 1000,10000,100000]
    python benchmarks/growth.py finish [--blocks 1000,10000,100000]
    python benchmarks/growth.py catalogue [--scenes 100,1000,4000]
    python benchmarks/growth.py workers [--seconds 2,0.45] [--numbers 1,2,4,8,16,32,64,128,256]
    python benchmarks/growth.py pair [--repeat 3]

scheduling: blocks that do nothing, fed by tileseg's own loop through Dask's scheduler to worker processes; what the
driver takes for each, in time and memory, tenth by tenth. ledger, finish: what is done once per run, by the number of
blocks. catalogue: what is done once per batch, by the number of scenes. workers: workers that sleep instead of
computing, on the real scheduler; the ideal time over the real one. pair: a scene with two workers and with one, on this
machine, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import logging
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import psutil
import rasterio
from distributed import LocalCluster, Worker, get_worker
from rasterio.transform import from_origin
from setup import save_cheap, tileseg_run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.cluster import hardware, schedule
from tileseg.cluster.admission import RESOURCE
from tileseg.cluster.client import Workers
from tileseg.cluster.local import local_cluster
from tileseg.cluster.settings import SETTINGS
from tileseg.labels import NODATA
from tileseg.polygons.fragment import save_fragments
from tileseg.polygons.trace import trace_block
from tileseg.run.block import Job
from tileseg.run.compute import make_job
from tileseg.run.finish import Stopwatch, write_outputs
from tileseg.run.folder import OpenRun, begin, hold
from tileseg.run.ledger import BlockRecord, Ledger
from tileseg.run.prepare import prepare
from tileseg.run.report import Silent
from tileseg.window import Window

SIDE = 64
"""Pixels of a block's side where only the number of blocks matters."""


# --- Blocks that stand for real ones --------------------------------------------------------------------------------


def nothing(job: Job | None, index: int) -> BlockRecord:
    """A block that costs nothing; its record is as large as a real one."""
    del job
    stages = ("read", "wait", "load", "network", "labels", "polygons", "write")
    return BlockRecord(index, 1, dict.fromkeys(stages, 0.123456789))


def recorded(job: Job, index: int) -> BlockRecord:
    """The same, and its record goes into the ledger."""
    record = nothing(job, index)
    job.ledger.record_done(record)
    return record


def empty_scene(path: Path, blocks: int) -> int:
    """A raster without pixels, of about so many blocks; exactly how many."""
    across = round(blocks**0.5 * 1.25)
    down = -(-blocks // across)
    with rasterio.open(
        path, "w", driver="GTiff", height=down * SIDE, width=across * SIDE, count=3, dtype="uint8", tiled=True,
        crs="EPSG:32637", transform=from_origin(500_000, 4_000_000, 0.2, 0.2), sparse_ok=True, bigtiff="yes",
        compress="deflate",
    ):  # fmt: skip
        pass
    return down * across


@contextmanager
def begun_run(folder: Path, blocks: int, model: str, **options: object) -> Iterator[OpenRun]:
    """A run of so many blocks that is about to compute the first one."""
    empty_scene(folder / "scene.tif", blocks)
    given = {"scene": folder / "scene.tif", "out": folder / "out", "model": model, "block": SIDE, "gsd": "native"}
    prepared = prepare(RunSpec.parse({**given, **options}))
    with hold(prepared, lambda: None) as ledger:
        yield begin(prepared, ledger)


# --- scheduling -----------------------------------------------------------------------------------------------------


def scheduling(told: argparse.Namespace) -> None:
    """Milliseconds and memory of the driver per block, tenth by tenth."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
        folder = Path(name)
        with begun_run(folder, told.blocks, "embedded", workers=told.workers) as begun:
            job = make_job(begun)
            pending = begun.pending
            rows = []

            def look() -> None:
                busy = process.cpu_times()
                workers = sum(_resident(child) for child in process.children(recursive=True))
                rows.append((time.perf_counter(), busy.user + busy.system, process.memory_info().rss, workers))

            tenth = -(-len(pending) // 10)
            done = itertools.count(1)

            def on_done(_: BlockRecord) -> None:
                if next(done) % tenth == 0:
                    look()

            with local_cluster(told.workers, 2, 1) as client:
                # All is imported, and first caches are filled.
                schedule.run_on_cluster(client, nothing, job, pending[:1000], lambda _: None, threading.Event())
                look()
                work = recorded if told.ledger else nothing
                failures = schedule.run_on_cluster(client, work, job, pending, on_done, threading.Event())
                if len(rows) < 11:
                    look()
            if failures:
                sys.exit(f"{len(failures)} blocks failed: {failures[0]}")
    print(f"{len(pending)} blocks, {told.workers} workers of two threads{', ledger written' if told.ledger else ''}\n")
    print("| blocks | ms per block | driver's processor ms per block | driver, MiB | workers, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for number, (before, now) in enumerate(itertools.pairwise(rows), start=1):
        count = min(tenth, len(pending) - tenth * (number - 1))
        print(
            f"| {min(tenth * number, len(pending))} | {1e3 * (now[0] - before[0]) / count:.2f} "
            f"| {1e3 * (now[1] - before[1]) / count:.2f} | {now[2] / 2**20:.0f} | {now[3] / 2**20:.0f} |"
        )
    wall, busy = (1e3 * (rows[-1][i] - rows[0][i]) / len(pending) for i in (0, 1))
    print(f"\nall: {wall:.2f} ms per block, {busy:.2f} ms of the driver's processors")


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


# --- finish ---------------------------------------------------------------------------------------------------------


def ledger(told: argparse.Namespace) -> None:
    """Processor seconds of the ledger, by the number of records."""
    print("| blocks | write a record | look for done blocks | read all records |")
    print("| --- | --- | --- | --- |")
    for blocks in told.blocks:
        with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
            kept = Ledger(Path(name))
            record = nothing(None, 0)
            writing = _seconds(lambda: [kept.finish(replace(record, index=i)) for i in range(blocks)])  # noqa: B023
            looking = _seconds(kept.done)
            reading = _seconds(lambda: sum(record.valid for record in kept.records()))  # noqa: B023
        print(f"| {blocks} | {1e3 * writing / blocks:.2f} ms | {looking:.3f} s | {reading:.2f} s |", flush=True)


def finishing(told: argparse.Namespace) -> None:
    """Processor seconds of what the driver does once per run, by the number of blocks."""
    print("| blocks | MPix | polygons | files per block | all of the finish | ms per block |")
    print("| --- |" + " --- |" * 5)
    for blocks in told.blocks:
        with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
            _finish(Path(name), blocks)


def _finish(folder: Path, blocks: int) -> None:
    model = save_cheap(folder / "model")
    with begun_run(folder, blocks, str(model), workers=1, keep="labels") as begun:
        begun.preview.result()  # it is read, and everything compiled, while blocks are computed
        plan, job = begun.prepared.plan, make_job(begun)
        parts = [(job, begun.pending[i : i + 250]) for i in range(0, plan.blocks, 250)]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            deque(pool.map(_drawn, *zip(*parts, strict=True)), maxlen=0)
        files = sum(path.is_file() for path in begun.prepared.folder.rglob("*")) / plan.blocks
        clock = Stopwatch(time.perf_counter())
        with hardware.PeakMemory() as memory:
            busy = time.process_time()
            report = write_outputs(begun, Silent(), clock, plan.blocks, memory)
            busy = time.process_time() - busy
    print(
        f"| {plan.blocks} | {plan.scene[0] * plan.scene[1] / 1e6:.0f} | {sum(report.polygons.values())} | {files:.1f} "
        f"| {busy:.2f} s | {1e3 * busy / plan.blocks:.2f} |",
        flush=True,
    )


def _drawn(job: Job, blocks: Sequence[int]) -> None:
    """Blocks as the network might have left them: a rectangle in each, every other one across the right seam."""
    for index in blocks:
        core = job.plan[index].core
        labels = np.zeros((core.height, core.width), np.uint8)
        labels[10:30, 20 + index % 7 : None if index % 2 else 50] = 1
        if index % 2 == 0:
            labels[10:30, :5] = 1
        confidence = np.full(labels.shape, 50_000, np.uint16)
        fragments = trace_block(
            labels, confidence, core, Window(0, 0, *job.plan.scene), connectivity=4, ignore=job.ignore, nodata=NODATA
        )
        job.mosaic.write_block(core, None, labels)
        path = job.ledger.fragment(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_fragments(path, fragments)
        recorded(job, index)


def _seconds(work: Callable[[], object]) -> float:
    """Of this process's processors: they say something on a busy machine, too."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


# --- catalogue ------------------------------------------------------------------------------------------------------


def catalogue(told: argparse.Namespace) -> None:
    """Processor seconds and bytes of the catalogue of an archive, by the number of scenes: copies of one small run."""
    from tileseg.batch.catalogue import write_catalogue

    print("| scenes | write the catalogue | ms per scene | collection.json, KiB | item.json, KiB | index.gpkg, KiB |")
    print("| --- |" + " --- |" * 5)
    with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
        folder = Path(name)
        model = save_cheap(folder / "model")
        scene = write_scene(folder / "scene.tif", smooth_noise(200, 300, 3))
        given = {"scene": scene, "model": str(model), "out": folder / "one", "workers": 0}
        one = run(RunSpec.parse(given)).folder
        for scenes in told.scenes:
            archive = folder / f"archive-{scenes}"
            for i in range(scenes):
                shutil.copytree(one, archive / f"scene{i:06d}.tileseg")
            spent = _seconds(functools.partial(write_catalogue, archive))
            sizes = [
                (archive / name).stat().st_size / 1024
                for name in ("collection.json", "scene000000.tileseg/item.json", "index.gpkg")
            ]
            told_sizes = " | ".join(f"{size:.1f}" for size in sizes)
            print(f"| {scenes} | {spent:.1f} s | {1e3 * spent / scenes:.1f} | {told_sizes} |", flush=True)


# --- workers --------------------------------------------------------------------------------------------------------


def workers(told: argparse.Namespace) -> None:
    """Ideal over real time with more and more workers, each with one device and two blocks in flight."""
    print("| seconds of a block | workers | blocks | ideal, s | real, s | efficiency | scheduler and driver busy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for seconds in told.seconds:
        for number in told.numbers:
            # Enough for a steady state: a run of hours has no noticeable beginning and end.
            blocks = number * max(4, round(told.span / seconds))
            with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
                real, busy = _simulated(Path(name), number, blocks, seconds)
            ideal = blocks / number * seconds + seconds / 2  # the first block is read, and the last written
            print(
                f"| {seconds:g} | {number} | {blocks} | {ideal:.1f} | {real:.1f} | {ideal / real:.3f} | {busy:.2f} |",
                flush=True,
            )


def _simulated(folder: Path, number: int, blocks: int, seconds: float) -> tuple[float, float]:
    """Wall seconds of a run, and the share of one processor that driver and scheduler took."""
    process = psutil.Process()
    with begun_run(folder, blocks, "embedded", workers=1) as begun:
        job = make_job(begun)
        pending = begun.pending[:blocks]
        block = functools.partial(sleeping, seconds=seconds)
        with sleepers(number) as client:
            began, busy = time.perf_counter(), sum(process.cpu_times()[:2])
            failures = schedule.run_on_cluster(client, block, job, pending, lambda _: None, threading.Event())
            wall = time.perf_counter() - began
            used = sum(process.cpu_times()[:2]) - busy
    if failures:
        sys.exit(f"{len(failures)} blocks failed: {failures[0]}")
    return wall, used / wall


def sleeping(job: Job, index: int, seconds: float) -> BlockRecord:
    """A block that has its worker's device for so long, and reads and writes for half of that beside another one."""
    worker = get_worker()
    device = vars(worker).setdefault("pretended_device", threading.Lock())
    time.sleep(seconds / 4)
    with device:
        time.sleep(seconds)
    time.sleep(seconds / 4)
    return nothing(job, index)


@contextmanager
def sleepers(number: int) -> Iterator[Workers]:
    """A scheduler in this process, and so many workers in a few others."""
    with dask.config.set(SETTINGS), LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        context = multiprocessing.get_context("spawn")
        shares = [number // 4 + (i < number % 4) for i in range(4)]
        processes = [context.Process(target=_host, args=(cluster.scheduler_address, n)) for n in shares if n]
        for process in processes:
            process.start()
        try:
            with Workers(cluster, set_as_default=False) as client:
                client.wait_for_workers(number, timeout=300)
                client.own_slots = 2 * number
                yield client
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _host(address: str, number: int) -> None:
    """Several workers in one process: they only sleep."""

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(number):
                worker = Worker(address, nthreads=2, resources={RESOURCE: 2}, memory_limit=0, dashboard=False)
                await stack.enter_async_context(worker)
            await asyncio.Event().wait()

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set(SETTINGS):
        asyncio.run(serve())


# --- pair -----------------------------------------------------------------------------------------------------------


def pair(told: argparse.Namespace) -> None:
    """Two worker processes against one, on this machine: whole commands and their blocks alone, in turns."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    steady: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="tileseg-growth-") as name:
        folder = Path(name)
        scene = write_scene(folder / "scene.tif", smooth_noise(told.side, told.side * 5 // 4, 3))
        for _ in range(told.repeat):
            for number in (1, 2):
                options = ("--workers", str(number), "--gsd", "native", "--block", "1024", "--window", "1312")
                measured = tileseg_run(scene, folder / "out", *options)
                walls[number].append(measured.wall)
                steady[number].append(measured.report["seconds"]["blocks"])
    print("| | one worker | two workers | two over one |")
    print("| --- | --- | --- | --- |")
    pixels = told.side * (told.side * 5 // 4) / 1e6
    for what, found in (("whole command", walls), ("blocks", steady)):
        one, two = (statistics.median(found[number]) for number in (1, 2))
        print(f"| {what} | {pixels / one:.2f} MPix/s | {pixels / two:.2f} MPix/s | {one / two:.2f} |")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _decimals(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("scheduling")
    one.add_argument("--blocks", type=int, default=100_000)
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--ledger", action="store_true", help="blocks write their record, as real ones do")
    one.set_defaults(run=scheduling)
    one = commands.add_parser("ledger")
    one.add_argument("--blocks", type=_numbers, default=[1000, 10_000, 100_000])
    one.set_defaults(run=ledger)
    one = commands.add_parser("finish")
    one.add_argument("--blocks", type=_numbers, default=[1000, 10_000, 100_000])
    one.set_defaults(run=finishing)
    one = commands.add_parser("catalogue")
    one.add_argument("--scenes", type=_numbers, default=[100, 1000, 4000])
    one.set_defaults(run=catalogue)
    one = commands.add_parser("workers")
    one.add_argument("--seconds", type=_decimals, default=[2.0])
    one.add_argument("--numbers", type=_numbers, default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    one.add_argument("--span", type=float, default=20.0, help="seconds that a run takes about")
    one.set_defaults(run=workers)
    one = commands.add_parser("pair")
    one.add_argument("--repeat", type=int, default=3)
    one.add_argument("--side", type=int, default=4096)
    one.set_defaults(run=pair)
    told = parser.parse_args()
    told.run(told)


if __name__ == "__main__":
    main()
