"""How long a user waits for the help, and for a whole run on a small sample.

    python benchmarks/start.py

Wall time of `tileseg --help` (promise: half a second) and of `tileseg run sample_rasters/settlement.tif` as `make demo`
calls it (promise: 20 seconds), from starting the process to its end. The help is asked for once more than counted,
so that the files are in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds(command: list[str]) -> tuple[float, str]:
    """Wall time and standard output of a command that must end well."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    start = time.perf_counter()
    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helps", type=int, default=10, help="times that the help is asked for")
    parser.add_argument("--runs", type=int, default=3, help="runs on the sample")
    options = parser.parse_args()
    tileseg = [sys.executable, "-m", "tileseg"]
    helps = [seconds([*tileseg, "--help"])[0] for _ in range(options.helps + 1)][1:]
    runs = []
    with tempfile.TemporaryDirectory(prefix="tileseg-start-") as folder:
        sample = str(ROOT / "sample_rasters" / "settlement.tif")
        for _ in range(options.runs):
            wall, told = seconds([*tileseg, "run", sample, "--out", str(Path(folder) / "out"), "--overwrite", "--json"])
            runs.append((wall, json.loads(told)))
    print("| command | median, s | range, s |")
    print("| --- | --- | --- |")
    walls = [wall for wall, _ in runs]
    for name, values in (("`tileseg --help`", helps), ("`tileseg run sample_rasters/settlement.tif`", walls)):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    report = min(runs, key=lambda run: run[0])[1]
    longest = sorted(report["seconds"].items(), key=lambda stage: -stage[1])[:6]
    print("\nOf the fastest run: " + ", ".join(f"{stage} {spent:.1f} s" for stage, spent in longest))


if __name__ == "__main__":
    main()
