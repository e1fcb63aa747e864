"""Two batches on two machines share an archive; one of them dies in the middle of a scene."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.bed import SLOTS, TIMES, Bed, Process, ending, records, snapshot, wait_until, wait_until_gone, workers_of

pytestmark = pytest.mark.faults

ELSEWHERE = str(Path(__file__).with_name("elsewhere.py"))
EXPIRES = 6.0
"""Seconds after which a lease that nobody renews is dead: a tenth of what it is in earnest."""
SLEEP = "0.15"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed.make(tmp_path_factory.mktemp("shared"), scenes=4)


@pytest.fixture
def batches(bed) -> Iterator[list[Process]]:
    """Ended with the test, whatever comes."""
    found: list[Process] = []
    yield found
    for process in found:
        with ending(process):
            pass


def on(machine: str, bed: Bed, out: Path) -> Process:
    """A batch of all scenes by a process of another machine: no lock of the kernel's tells that it is dead."""
    given = ["batch", "in", "--out", str(out), *bed._options, "--no-catalogue", "-q", "--workers", "1"]
    program = (ELSEWHERE, machine, "0", str(EXPIRES), "tileseg")
    return bed.start(*given, program=program, FAULT_SLEEP=SLEEP)


def owner(folder: Path) -> str | None:
    """The machine that holds a scene's folder."""
    found = [json.loads(path.read_text() or "{}") for path in sorted(folder.glob(".state/lease-*"))]
    return found[-1].get("host") if found and not found[-1].get("released") else None


def test_the_other_takes_over_what_the_dead_one_held(bed, batches, tally) -> None:
    row = tally(
        "one of two batches on an archive is killed", f"kill -9; leases that expire in {EXPIRES:.0f} s, no flock"
    )
    moments = random.Random(8)
    while row.times < TIMES:
        out = bed.folder / f"out-{row.times}"
        folders = {name: out / f"{name}.tileseg" for name in bed.scenes}
        first, second = on("first", bed, out), on("second", bed, out)
        batches += [first, second]
        goal = moments.randint(2, bed.blocks - SLOTS)

        def amid(folders: dict[str, Path] = folders, goal: int = goal) -> bool:
            return any(owner(f) == "first" and goal <= len(records(f)) < bed.blocks for f in folders.values())

        if not wait_until(amid, first):
            continue  # the second was so quick that the first had no scene for long enough
        left = workers_of(first.pid)
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until_gone(left)
        known = {name: snapshot(folder) for name, folder in folders.items()}
        row.times += 1
        done = bed.finish(second, row)
        row.tell(done)
        assert done.code == 0, done.stderr
        report = json.loads((out / "batch.json").read_text())
        assert report["counts"]["done"] + report["counts"]["skipped"] == len(bed.scenes)
        for name, folder in folders.items():
            bed.compare(folder, row, name, [known[name]])
    row.check(SLOTS * 2 * row.times)  # the dead one had the next scene's blocks in flight, too
