"""Training with tileseg and with segmentation-models-pytorch, side by side on the same batches.

    python benchmarks/train_peer.py                                    # buildings and membranes
    python benchmarks/train_peer.py buildings --precision bfloat16 --steps 200
    python benchmarks/train_peer.py membranes --steps 4 --crop 64 --batch 2    # whether it works at all

tileseg's VGG16-Unet at its full width against smp's Unet with a VGG16-bn encoder (smp_peer.py); neither starts from
pretrained weights. Both get the same patches, augmented by tileseg, in the same order (train_feed.py), the same loss
(ce+dice, compared on fixed logits first), AdamW with the same learning rates, decay and clipping, and are scored on
the same validation windows. Speed is that of a step on a batch in memory, when the feed has ended.

Needs the extra `bench` (torch, segmentation-models-pytorch) and the real data that the recipes in workflows/ name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from train_feed import ROOT, Header, Images, Labels, Logits, add_options, follow

RECIPES = {name: ROOT / "workflows" / name for name in ("buildings", "membranes")}
SIDES = {"tileseg": ("train_peer.py", "--side"), "smp": ("smp_peer.py",)}


class Tileseg:
    """Our side: what `tileseg train` does with a batch."""

    def __init__(self, header: Header, precision: str, width: float) -> None:
        from tileseg.nn.backend import configure, keras
        from tileseg.nn.fused import fuse
        from tileseg.nn.keras_graph import analyse
        from tileseg.nn.options import NetworkSpec
        from tileseg.nn.unet import build_network
        from tileseg.train.losses import parse_loss
        from tileseg.train.optimizer import PartwiseAdam
        from tileseg.train.step import TrainingModel, compile_labels, compile_step, computing_in

        configure()
        keras.utils.set_random_seed(1)
        classes = len(header.classes)
        with computing_in(precision):
            built = build_network(NetworkSpec(width=width), header.bands, classes)
            network = fuse(built)
        self.flops_per_pixel = analyse(built).flops_per_pixel
        self.criterion = parse_loss("ce+dice", classes=classes)
        self.trained = TrainingModel(network, self.criterion, tuple(header.mean), tuple(header.std))
        self.optimizer = PartwiseAdam(rate=header.rates[0], decay=header.weight_decay, clip=header.clip or None)
        compile_step(self.trained, self.optimizer)
        self.parameters = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
        self.found = compile_labels(self.trained)

    def loss(self, labels: Labels, logits: Logits) -> float:
        """The loss of given logits."""
        return float(self.criterion(labels, logits))

    def step(self, images: Images, labels: Labels, rate: float) -> float:
        """Learn from a batch; its loss."""
        self.optimizer.learning_rate = rate
        return self.trained.step(images, labels)

    def labels_of(self, images: Images) -> Labels:
        """The labels that the network gives images."""
        return self.found(images)


def train(side: str, recipe: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train one side on a feed of its own: the same bytes as the other's."""
    scripts = ROOT / "benchmarks"
    wanted = [f"--{name}={getattr(asked, name)}" for name in ("steps", "crop", "batch", "rate", "seed")]
    source = [sys.executable, str(scripts / "train_feed.py"), str(recipe / "dataset.toml"), str(recipe / "train.toml")]
    script, *marks = SIDES[side]
    options = [f"--precision={asked.precision}", *([f"--width={asked.width}"] if side == "tileseg" else [])]
    with subprocess.Popen([*source, *wanted], stdout=subprocess.PIPE) as fed:
        told = subprocess.run(
            [sys.executable, str(scripts / script), *marks, *options],
            stdin=fed.stdout, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    result: dict[str, Any] = json.loads(told.stdout.strip().splitlines()[-1])
    return result


def compare(name: str, recipe: Path, asked: argparse.Namespace) -> None:
    """Train both sides, and print their rows."""
    from tileseg.dataset.spec import read_spec
    from tileseg.evaluate.confusion import iou

    classes = read_spec(recipe / "dataset.toml").classes
    results = {side: train(side, recipe, asked) for side in SIDES}
    ours, theirs = (result["loss_of_fixed_logits"] for result in results.values())
    if abs(ours - theirs) > 1e-4:
        sys.exit(f"the losses are not the same: {ours} and {theirs} for the same logits")
    foreground = [i for i, info in enumerate(classes) if not info.background]
    for side, result in results.items():
        scores = iou(np.array(result["matrix"]))
        each = ", ".join(f"{classes[i].name} {scores[i]:.3f}" for i in range(len(classes)))
        size = f"{result['parameters'] / 1e6:.1f} M | {result['flops_per_pixel'] / 1e6:.2f}"
        print(
            f"| {name} | {side} | {size} | {np.nanmean(scores[foreground]):.3f} ({each}) "
            f"| {result['first_loss']:.3f} → {result['last_loss']:.3f} | {result['mpix_per_second']:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], help="which data; both where none is named")
    add_options(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--width", type=float, default=1.0, help="of our network; smp's has only the full one")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        made = follow(lambda header: Tileseg(header, asked.precision, asked.width), sys.stdin.buffer)
        print(json.dumps(made))
        return
    print(f"{asked.steps} steps of {asked.batch} crops of {asked.crop}², {asked.precision}\n")
    print("| data | | parameters | TFLOP / MPix | validation IoU | loss, first step and last tenth | trained, MPix/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.names or RECIPES:
        compare(name, RECIPES[name], asked)


if __name__ == "__main__":
    main()
