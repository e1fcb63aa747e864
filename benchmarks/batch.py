"""Fifty small scenes in one batch, against fifty runs one after the other: seconds of both.

python benchmarks/batch.py [--scenes 50] [--side 512]

Scenes are noise with structure; the model is the embedded one. Every run is a process of its own, as in a shell loop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fakes import smooth_noise, write_scene


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tileseg", *command, "--quiet"], check=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--side", type=int, default=512, help="pixels; scenes are a quarter wider than high")
    parser.add_argument("--model", default="embedded")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        scenes = [
            write_scene(root / "in" / f"{i:03d}.tif", smooth_noise(told.side, told.side * 5 // 4, 3, seed=i))
            for i in range(told.scenes)
        ]
        model = ["--model", told.model]
        together = seconds(["batch", str(root / "in"), "--out", str(root / "batch"), "--no-catalogue", *model])
        apart = sum(seconds(["run", str(scene), "--out", str(root / "runs" / scene.stem), *model]) for scene in scenes)
        pixels = told.scenes * told.side * (told.side * 5 // 4) / 1e6
        print(
            json.dumps(
                {
                    "scenes": told.scenes,
                    "megapixels": round(pixels, 2),
                    "batch_seconds": round(together, 1),
                    "runs_seconds": round(apart, 1),
                    "times_faster": round(apart / together, 2),
                }
            )
        )


if __name__ == "__main__":
    main()
