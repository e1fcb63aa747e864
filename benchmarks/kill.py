"""Kill runs at random moments, resume them, and compare what comes out with an undisturbed run, byte for byte.

    python benchmarks/kill.py --driver 20 --worker 20

Exit code 1 if anything differs, a finished block was computed again, or a resumed run failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

TIMEOUT = 300.0
BLOCKS = 96


@dataclass(slots=True)
class Tally:
    """What happened."""

    kills: int = 0
    runs: int = 0
    computed_twice: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    """Blocks finished at the moment of each kill."""


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a run delivers, by relative path."""
    files = [p for p in (folder / "mosaic.zarr").rglob("*") if p.is_file()]
    files += [folder / "labels.tif", *folder.glob("polygons.*")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def records(folder: Path) -> dict[str, tuple[int, int]]:
    """(time of change, inode) of every finished block's record: computing it again would change both."""
    found = {}
    for path in (folder / ".state" / "done").glob("*/*.json"):
        facts = path.stat()
        found[path.stem] = (facts.st_mtime_ns, facts.st_ino)
    return found


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Begin (or resume) a run."""
    return subprocess.Popen([*command, "--out", str(folder), "-q"], stderr=subprocess.PIPE)


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes of a run."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return []


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Workers end by themselves when their driver is gone."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    if alive:
        raise RuntimeError(f"workers outlived their driver by a minute: {[p.pid for p in alive]}")


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that must end well."""
    _, errors = process.communicate(timeout=TIMEOUT)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors.decode()}")


def torment(command: Sequence[str], work: Path, victim: str, kills: int, seed: int, tally: Tally) -> None:
    """Kill the driver or workers of runs at random moments until there were ``kills``; compare each finished run."""
    moments = random.Random(seed)
    finish(start(command, work / "undisturbed"))
    expected = digest(work / "undisturbed")
    while tally.kills < kills:
        folder = work / f"{victim}-{tally.runs}"
        tally.runs += 1
        process, known = start(command, folder), records(folder)
        for _ in range(5):
            # Some kills fall on starting up, most on blocks being computed, some on joining and writing at the end.
            goal = moments.randint(min(len(known), BLOCKS - 20), BLOCKS)
            if not wait_for_blocks(process, folder, goal, moments.uniform(0, 0.5)):
                break
            targets = workers(process)
            if victim == "driver":
                process.send_signal(signal.SIGKILL)
                process.communicate()
                wait_until_gone(targets)
            elif targets:
                moments.choice(targets).send_signal(signal.SIGKILL)
            else:
                continue
            tally.kills += 1
            now = records(folder)
            tally.stages.append(len(now))
            tally.computed_twice += [i for i, before in known.items() if now.get(i) != before]
            known = now
            if victim == "driver":
                process = start(command, folder)
            if tally.kills >= kills:
                break
        finish(process)
        now = records(folder)
        tally.computed_twice += [i for i, before in known.items() if now.get(i) != before]
        found = digest(folder)
        tally.differing += [f"{folder.name}/{p}" for p in {*expected, *found} if expected.get(p) != found.get(p)]


def wait_for_blocks(process: subprocess.Popen[bytes], folder: Path, goal: int, more: float) -> bool:
    """Wait until so many blocks are finished, and a moment longer; False if the run ended before."""
    end = time.monotonic() + TIMEOUT
    while len(records(folder)) < goal:
        if process.poll() is not None:
            return False
        if time.monotonic() > end:
            raise RuntimeError(f"no {goal} blocks after {TIMEOUT:.0f} s")
        time.sleep(0.01)
    time.sleep(more)
    return process.poll() is None


def prepare(work: Path) -> list[str]:
    """A scene of 96 blocks and a small network; the command that runs them."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from fakes import save_tiny, smooth_noise, write_scene

    save_tiny(work / "model")
    write_scene(work / "scene.tif", smooth_noise(1000, 1500, 3))
    return [
        sys.executable, "-m", "tileseg", "run", str(work / "scene.tif"), "--model", str(work / "model"),
        "--block", "128", "--workers", "2", "--format", "geojson,gpkg",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", type=int, default=20, help="kills of the driver")
    parser.add_argument("--worker", type=int, default=20, help="kills of workers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    bad = False
    for victim, kills in (("driver", options.driver), ("worker", options.worker)):
        with tempfile.TemporaryDirectory(prefix="tileseg-kill-") as folder:
            work, tally = Path(folder), Tally()
            if kills:
                torment(prepare(work), work, victim, kills, options.seed, tally)
            print(
                f"{victim}: {tally.kills} kills in {tally.runs} runs; blocks finished at each: {tally.stages}; "
                f"finished blocks computed again: {len(tally.computed_twice)}; "
                f"files that differ: {len(tally.differing)}",
                flush=True,
            )
            for name in [*tally.computed_twice, *tally.differing]:
                print(f"  {name}")
            bad |= bool(tally.computed_twice or tally.differing)
    sys.exit(bad)


if __name__ == "__main__":
    main()
