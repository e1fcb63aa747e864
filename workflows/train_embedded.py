"""Train the small model that comes with tileseg, on settlements drawn by sample_rasters/generate.py.

    python workflows/train_embedded.py --minutes 12 --out tileseg/models/embedded

Everything follows from --seed but the number of steps, which follows from the minutes: give --steps to repeat a
training exactly. Nothing is downloaded; the model knows drawn settlements, not the world.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sample_rasters.generate import CLASS_COLORS, CLASS_NAMES, render
from tileseg.nn.backend import keras
from tileseg.nn.bundle import save_bundle
from tileseg.nn.card import ClassInfo, Scaling
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network

ops = keras.ops
Images = npt.NDArray[np.uint8]

SCALING = Scaling(divisor=255, mean=(0.5,), std=(0.25,))
CLASSES = len(CLASS_NAMES)
GSD = 0.3
SCENE = 1024
UNSEEN = range(900_000, 900_006)
"""Seeds of the scenes that the scores are of."""


def loss(labels: object, logits: object) -> object:
    """Cross-entropy plus soft Dice (Milletari et al., 2016, arXiv:1606.04797), each class of the batch alike."""
    truth = ops.one_hot(ops.cast(labels, "int32"), CLASSES)
    chance = ops.softmax(logits)
    both = ops.sum(truth * chance, axis=(0, 1, 2))
    dice = (2 * both + 1) / (ops.sum(truth, axis=(0, 1, 2)) + ops.sum(chance, axis=(0, 1, 2)) + 1)
    entropy = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(entropy) + 1 - ops.mean(dice)


def normalise(images: Images | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As the card says."""
    return ((images.astype(np.float32) / SCALING.divisor - SCALING.mean[0]) / SCALING.std[0]).astype(np.float32)


def batch_of(
    scenes: list[tuple[Images, Images]], count: int, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], Images]:
    """Random crops, turned and mirrored, with another exposure, contrast and tint."""
    images = np.empty((count, size, size, 3), np.float32)
    labels = np.empty((count, size, size), np.uint8)
    for i in range(count):
        rgb, truth = scenes[rng.integers(len(scenes))]
        row, col = (int(rng.integers(side - size + 1)) for side in truth.shape)
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        crop = np.rot90(rgb[row : row + size, col : col + size], turns)
        mask = np.rot90(truth[row : row + size, col : col + size], turns)
        images[i], labels[i] = (crop[:, ::-1], mask[:, ::-1]) if mirror else (crop, mask)
        tint = rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)
        images[i] = np.clip((images[i] - 128) * rng.uniform(0.85, 1.15) + 128 * tint, 0, 255)
    return normalise(images), labels


def scores(model: keras.Model) -> dict[str, float]:
    """Intersection over union of each class on scenes that were never seen."""
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for seed in UNSEEN:
        rgb, truth = render(512, 768, seed, GSD)
        logits = np.asarray(ops.convert_to_numpy(model(normalise(rgb[None]), training=False)))[0]
        found = logits.argmax(-1)
        counts += np.bincount(truth.ravel() * CLASSES + found.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return {name: round(float(counts[i, i] / max(1, union[i])), 3) for i, name in enumerate(CLASS_NAMES)}


def main() -> None:
    """Train, score and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tileseg/models/embedded"))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()

    keras.utils.set_random_seed(asked.seed)
    rng = np.random.default_rng(asked.seed)
    scenes = [render(SCENE, SCENE, seed, GSD) for seed in range(asked.scenes)]
    model = build_network(NetworkSpec(width=0.25), 3, CLASSES, name="settlement")
    optimizer = keras.optimizers.AdamW(asked.rate, weight_decay=1e-4, clipnorm=1.0)
    model.compile(optimizer, loss, jit_compile=False)

    began, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        # Cosine, after a short start: Loshchilov and Hutter, 2017 (arXiv:1608.03983).
        optimizer.learning_rate = asked.rate * min(1.0, (step + 1) / 30) * (0.5 + 0.5 * np.cos(np.pi * share)) + 1e-6
        found = model.train_on_batch(*batch_of(scenes, asked.batch, asked.crop, rng))
        step += 1
        share = step / asked.steps if asked.steps else (time.monotonic() - began) / (60 * asked.minutes)
        if step % 25 == 1:
            print(f"step {step}, {100 * share:.0f} %, loss {float(np.ravel(found)[0]):.3f}", flush=True)

    iou = scores(model)
    print(iou)
    card = save_bundle(
        model,
        asked.out,
        name="settlement",
        description="Small VGG16-Unet for drawn settlements: a model to try tileseg with, not one of the real world.",
        bands=("red", "green", "blue"),
        classes=tuple(
            ClassInfo(name=name, color=color, background=i == 0)
            for i, (name, color) in enumerate(zip(CLASS_NAMES, CLASS_COLORS, strict=True))
        ),
        scaling=SCALING,
        ground_sample_distance=GSD,
        credits=("Trained on scenes drawn by sample_rasters/generate.py; no imagery was used.",),
        training={
            "steps": step,
            "batch": asked.batch,
            "crop": asked.crop,
            "seed": asked.seed,
            "mean_iou": round(sum(iou.values()) / CLASSES, 3),
            **{f"iou_{name}": value for name, value in iou.items()},
        },
    )
    print(f"{asked.out}: {card.parameters} parameters, halo {card.halo}")


if __name__ == "__main__":
    main()
