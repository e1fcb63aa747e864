"""Fifty small scenes in one batch, against fifty runs one after the other: seconds of both.

    python benchmarks/batch.py [--scenes 50] [--side 512] [--runs 50]

Scenes are noise with structure; the model is the embedded one. Every run is a process of its own, as in a shell loop.
With fewer runs than scenes, their time is scaled up. Processor seconds say something on a busy machine, too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes import smooth_noise, write_scene


def seconds(command: list[str]) -> tuple[float, float]:
    """By the clock, and of processors over all processes."""
    begun, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "tileseg", *command, "--quiet"], check=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begun, now.ru_utime + now.ru_stime - spent.ru_utime - spent.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--side", type=int, default=512, help="pixels; scenes are a quarter wider than high")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--runs", type=int, default=50, help="how many of the separate runs are made")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tileseg-batch-") as folder:
        root = Path(folder)
        (root / "in").mkdir()
        scenes = [
            write_scene(root / "in" / f"{i:03d}.tif", smooth_noise(told.side, told.side * 5 // 4, 3, seed=i))
            for i in range(told.scenes)
        ]
        model = ["--model", told.model, "--gsd", "native"]
        together = seconds(["batch", str(root / "in"), "--out", str(root / "batch"), "--no-catalogue", *model])
        made = scenes[: told.runs]
        apart = [seconds(["run", str(scene), "--out", str(root / "runs" / scene.stem), *model]) for scene in made]
    clock, busy = (sum(part) * len(scenes) / len(made) for part in zip(*apart, strict=True))
    print(f"{told.scenes} scenes of {told.side}x{told.side * 5 // 4} pixels; {len(made)} runs made\n")
    print("| | one batch | separate runs | times |")
    print("| --- | --- | --- | --- |")
    for what, one, many in (("seconds", together[0], clock), ("processor seconds", together[1], busy)):
        print(f"| {what} | {one:.1f} | {many:.1f} | {many / one:.1f} |")


if __name__ == "__main__":
    main()
