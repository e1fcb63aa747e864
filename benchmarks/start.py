"""How long a user waits for the help, and for a whole run on a small sample.

    python benchmarks/start.py                      # this checkout
    python benchmarks/start.py --against CHECKOUT   # beside another one, in turns, with ratios

Wall time and processor time (of the process and of all that it starts) of `tileseg --help` (promise: 0.3 seconds) and
of `tileseg run sample_rasters/settlement.tif` as `make demo` calls it (promise: 2.5 seconds on two idle cores), from
starting the process to its end; medians. Everything is asked for once more than counted, so that files are in the
system's cache and compiled functions in Numba's. Where other work shares the machine, compare processor times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HELP, RUN = "`tileseg --help`", "`tileseg run sample_rasters/settlement.tif`"


@dataclass(frozen=True)
class Call:
    """What one call of a command took, in seconds."""

    wall: float
    cpu: float
    """Of all processors, in all its processes."""
    stages: dict[str, float]
    """Of a run, by its own report."""


def call(checkout: Path, *arguments: str) -> Call:
    """Run a command of a checkout; it must end well."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "tileseg", *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    told = subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True).stdout
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Call(wall, cpu, json.loads(told)["seconds"] if "--json" in arguments else {})


def measure(checkouts: dict[str, Path], helps: int, runs: int) -> dict[str, dict[str, list[Call]]]:
    """Command -> name of the checkout -> calls, made in turns; the first of each is not counted."""
    sample = str(ROOT / "sample_rasters" / "settlement.tif")
    calls: dict[str, dict[str, list[Call]]] = {HELP: defaultdict(list), RUN: defaultdict(list)}
    with tempfile.TemporaryDirectory(prefix="tileseg-start-") as folder:
        for command, arguments, times in (
            (HELP, ["--help"], helps),
            (RUN, ["run", sample, "--overwrite", "--json", "--out"], runs),
        ):
            for _ in range(times + 1):
                for name, checkout in checkouts.items():
                    out = [str(Path(folder) / name)] if command == RUN else []
                    calls[command][name].append(call(checkout, *arguments, *out))
    return {command: {name: made[1:] for name, made in by.items()} for command, by in calls.items()}


def row(label: str, values: list[list[float]]) -> str:
    """Medians of each checkout, and how many times the last one is faster than the first."""
    medians = [statistics.median(each) for each in values]
    ratio = f" | {medians[0] / max(medians[-1], 1e-3):.2f}" if len(medians) > 1 else ""
    return f"| {label} | " + " | ".join(f"{median:.2f}" for median in medians) + ratio + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helps", type=int, default=10, help="times that the help is asked for")
    parser.add_argument("--runs", type=int, default=3, help="runs on the sample")
    parser.add_argument("--against", type=Path, help="another checkout, such as that before a change")
    options = parser.parse_args()
    checkouts = {"before": options.against.resolve(), "now": ROOT} if options.against else {"now": ROOT}
    calls = measure(checkouts, options.helps, options.runs)
    ratio = ["before / now"] if options.against else []
    print("| seconds | " + " | ".join([*checkouts, *ratio]) + " |")
    print("| --- |" + " --- |" * (len(checkouts) + len(ratio)))
    for command, by in calls.items():
        print(row(f"{command}, wall", [[made.wall for made in by[name]] for name in checkouts]))
        print(row(f"{command}, processors", [[made.cpu for made in by[name]] for name in checkouts]))
    runs = calls[RUN]
    for stage in runs["now"][0].stages:
        print(row(stage, [[made.stages.get(stage, 0.0) for made in runs[name]] for name in checkouts]))


if __name__ == "__main__":
    main()
