"""Whether reading and augmenting patches keeps the trainer busy.

    python benchmarks/train_input.py                                   # the buildings recipe
    python benchmarks/train_input.py membranes --steps 100 --threads 1
    python benchmarks/train_input.py --steps 6 --crop 64 --batch 2     # whether it works at all

First alone: patches per second that one thread reads and augments, with cold and with warm caches. Then within
`tileseg train`: the share of time that the trainer waited for its patches (training/steps.csv), the first steps left
out, in which files are read for the first time and functions are compiled.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

_SKIPPED = 0.2
"""Share of the steps that are not counted."""


def alone(recipe: Path, asked: argparse.Namespace) -> None:
    """Print how fast patches are made when nothing else happens."""
    import pyogrio  # noqa: F401 - before TensorFlow

    from tileseg.dataset.dataset import load_dataset
    from tileseg.dataset.patches import PatchSampler
    from tileseg.nn.backend import configure
    from tileseg.spec import read_config
    from tileseg.train.augment import Augmenter
    from tileseg.train.spec import TrainSpec

    configure(1)
    options = read_config(recipe / "train.toml") | {"dataset": recipe / "dataset.toml", "out": Path()}
    spec = TrainSpec.parse(options)
    dataset = load_dataset(spec.dataset)
    margin = asked.crop // 8
    start = time.perf_counter()
    sampler = PatchSampler(dataset.train, asked.crop + 2 * margin, asked.batch, 1, spec.balance)
    print(f"labels counted in {time.perf_counter() - start:.1f} s\n")
    augmenter = Augmenter(spec.augment, len(dataset.bands), 1, size=asked.crop)
    images, labels = sampler.batch(0)
    augmenter(images.astype("float32") / 255, labels, 0)  # compiles
    print("| one thread | reading, patches/s | augmenting, patches/s | both, MPix/s |\n| --- | --- | --- | --- |")
    for caches in ("cold", "warm"):
        reading = augmenting = 0.0
        for step in range(asked.batches):
            start = time.perf_counter()
            images, labels = sampler.batch(step)
            reading += time.perf_counter() - start
            unit = images.astype("float32") / 255
            start = time.perf_counter()
            augmenter(unit, labels, step)
            augmenting += time.perf_counter() - start
        patches = asked.batches * asked.batch
        pixels = patches * asked.crop**2 / 1e6 / (reading + augmenting)
        print(f"| {caches} caches | {patches / reading:.0f} | {patches / augmenting:.0f} | {pixels:.2f} |")


def training(recipe: Path, asked: argparse.Namespace) -> None:
    """Print how long a training waits."""
    from tileseg.train.journal import STEPS, read_columns

    with tempfile.TemporaryDirectory(prefix="tileseg-input-") as folder:
        command = [
            sys.executable, "-m", "tileseg", "train", str(recipe / "dataset.toml"), "--out", folder, "--config",
            str(recipe / "train.toml"), "--steps", str(asked.steps), "--steps-per-epoch", str(asked.steps), "--crop",
            str(asked.crop), "--batch", str(asked.batch), "--threads", str(asked.threads), "--panel-every", "0",
            "--precision", asked.precision, "--json",
        ]  # fmt: skip
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)
        steps, seconds, waited = read_columns(Path(folder) / "training" / STEPS, "step", "seconds", "waited")
    first = int(_SKIPPED * len(steps))
    spent, lost = seconds[-1] - seconds[first], waited[-1] - waited[first]
    patches = (steps[-1] - steps[first]) * asked.batch
    print(f"\n| tileseg train, {asked.precision}, {asked.threads} threads | |\n| --- | --- |")
    print(f"| patches/s | {patches / spent:.1f} |")
    print(f"| MPix/s | {patches * asked.crop**2 / 1e6 / spent:.2f} |")
    print(f"| waiting for patches, after the first {first} steps | {100 * lost / spent:.2f} % |")
    print(f"| waiting for patches, all steps | {100 * waited[-1] / seconds[-1]:.2f} % |")
    print(f"| validating, of all time | {100 * report['validating']:.2f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=("buildings", "landcover", "membranes"), default="buildings")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batches", type=int, default=30, help="that are made alone")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    asked = parser.parse_args()
    recipe = ROOT / "workflows" / asked.recipe
    # In turn and apart: the first holds caches and a compiled augmentation of its own.
    alone(recipe, asked)
    training(recipe, asked)


if __name__ == "__main__":
    main()
