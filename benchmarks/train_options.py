"""What each choice of a training, and of a run, gives in validation IoU.

    python benchmarks/train_options.py                                  # all, on the buildings recipe
    python benchmarks/train_options.py --steps 1500 --seeds 1,2
    python benchmarks/train_options.py --steps 4 --crop 64 --batch 2 --only loss    # whether it works at all

Short trainings with `tileseg train`, alike in all but one choice, with the recipe's dataset and augmentation: the
loss, batch normalisation, the running mean of the weights. Then `tileseg evaluate` of the first one's model, with
flips and scales. Trainings are kept in --work: the same command goes on where it was stopped.

IoU is that of the classes that are no background, on all validation scenes. Differences between two seeds say how much
of a difference means nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "workflows" / "buildings"


@dataclass(frozen=True)
class Choice:
    """One training."""

    group: str
    name: str
    options: tuple[str, ...]


TRAININGS = (
    Choice("base", "ce+dice, batch norm, no running mean", ()),
    Choice("loss", "ce", ("--loss", "ce")),
    Choice("loss", "focal+dice", ("--loss", "focal+dice")),
    Choice("batch norm", "none", ("batch_norm=false",)),
    Choice("running mean", "decay 0.99", ("--ema", "0.99")),
    Choice("running mean", "decay 0.998", ("--ema", "0.998")),
)
VIEWS = (
    ("one look", ()),
    ("flips d4", ("--flips", "d4")),
    ("scales 3/4, 1, 5/4", ("--scales", "3/4,1,5/4")),
    ("both", ("--flips", "d4", "--scales", "3/4,1,5/4")),
)


def tileseg(*arguments: object) -> dict[str, Any]:
    """Run a command that prints JSON."""
    command = [sys.executable, "-m", "tileseg", *map(str, arguments), "--json"]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(told.stdout)
    return result


def train(choice: Choice, seed: int, asked: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The report of a training, and its model's folder."""
    out = asked.work / "-".join([choice.group, choice.name, str(seed)]).replace(" ", "_").replace(",", "")
    network = ",".join([f"width={asked.width}", *(o for o in choice.options if "=" in o)])
    others = [o for o in choice.options if "=" not in o]
    report = tileseg(
        "train", RECIPE / "dataset.toml", "--config", RECIPE / "train.toml", "--out", out, "--network", network,
        "--crop", asked.crop, "--batch", asked.batch, "--steps", asked.steps, "--steps-per-epoch",
        max(1, asked.steps // 10), "--rate", asked.rate, "--precision", asked.precision, "--seed", seed,
        "--panel-every", 0, "--loss", "ce+dice", "--ema", 0, *others,
    )  # fmt: skip
    if report["already_finished"]:
        report = json.loads((out / "training" / "summary.json").read_text(encoding="utf-8"))
    return report, out


def compare_trainings(seeds: list[int], asked: argparse.Namespace) -> None:
    """Print the table of trainings."""
    print("| | | IoU by seed | mean | minutes |\n| --- | --- | --- | --- | --- |")
    for choice in TRAININGS:
        if asked.only and choice.group not in {"base", *asked.only}:
            continue
        reports = [train(choice, seed, asked)[0] for seed in seeds]
        scores = [report["iou_building"] for report in reports]
        each = ", ".join(f"{score:.3f}" for score in scores)
        minutes = statistics.mean(report["minutes"] for report in reports)
        print(
            f"| {choice.group} | {choice.name} | {each} | {statistics.mean(scores):.3f} | {minutes:.1f} |", flush=True
        )


def compare_views(model: Path, asked: argparse.Namespace) -> None:
    """Print the table of flips and scales."""
    print("\n| looks | IoU | boundary IoU | F1 of polygons | ECE | by scene |\n| --- | --- | --- | --- | --- | --- |")
    for name, options in VIEWS:
        out = asked.work / f"evaluation {name}".replace(" ", "_").replace(",", "").replace("/", "")
        found = tileseg(
            "evaluate", RECIPE / "dataset.toml", "--model", model, "--out", out, "--overwrite", "--workers", 0,
            "--precision", asked.precision, "--no-distances", *options,
        )  # fmt: skip
        means = found["mean_without_background"]
        f1 = found["polygons"]["building"]["at_iou_0.5"]["f1"]
        calibration = found["calibration"]["expected_calibration_error"]
        scenes = ", ".join(f"{s['name']} {s['by_class']['building']['iou']:.3f}" for s in found["scenes"])
        print(
            f"| {name} | {means['iou']:.3f} | {means['boundary_iou']:.3f} | {'-' if f1 is None else f'{f1:.3f}'} "
            f"| {calibration:.3f} | {scenes} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/train_options"), help="folder for all models")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seeds", default="1", help="such as 1,2,3")
    parser.add_argument("--model", type=Path, help="of which flips and scales are compared; default the first trained")
    parser.add_argument(
        "--only", action="append", choices=("loss", "batch norm", "running mean", "views"), help="may be repeated"
    )
    asked = parser.parse_args()
    asked.work = asked.work.resolve()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    if asked.only != ["views"] or asked.model is None:
        compare_trainings(seeds, asked)
    if not asked.only or "views" in asked.only:
        compare_views(asked.model.resolve() if asked.model else train(TRAININGS[0], seeds[0], asked)[1], asked)


if __name__ == "__main__":
    main()
