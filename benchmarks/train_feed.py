"""What both sides of train_peer.py share: the batches that they learn from, and how they are timed and scored.

    python benchmarks/train_feed.py DATASET.toml --steps 60 --crop 128 --batch 4   # binary, on standard output

The feed draws and augments patches as `tileseg train` does, in a process of its own, and writes a line of JSON, all
batches, and the validation windows. So both sides see the same bytes, and neither holds the other's library.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

Images = npt.NDArray[np.float32]
"""(n, y, x, band), about 0 to 1."""
Labels = npt.NDArray[np.uint8]
"""(n, y, x), 255 where unknown."""
Logits = npt.NDArray[np.float32]
"""(n, y, x, class)."""

_TIMED, _WARM = 12, 3
"""Steps timed after the training, on one batch that lies in memory; and before them, untimed."""


@dataclass(frozen=True)
class Header:
    """What a side has to know before the first batch."""

    classes: list[str]
    background: list[bool]
    bands: int
    mean: list[float]
    std: list[float]
    """Per band, of 0 to 1: what the network sees is (value - mean) / std."""
    rates: list[float]
    """Learning rate of each step."""
    windows: int
    """Validation windows that follow the batches."""
    weight_decay: float
    """Of kernels only, times the rate."""
    clip: float
    """Largest norm of all gradients."""


class Side(Protocol):
    """A network being trained."""

    parameters: int
    flops_per_pixel: float
    """Of the network, forwards only; a multiply-add is two."""

    def loss(self, labels: Labels, logits: Logits) -> float:
        """The loss of given logits."""

    def step(self, images: Images, labels: Labels, rate: float) -> float:
        """Learn from a batch; its loss."""

    def labels_of(self, images: Images) -> Labels:
        """The labels that the network gives images."""


def follow(make: Any, stream: BinaryIO) -> dict[str, Any]:
    """Train the side that ``make(header)`` gives on a feed, score it, time its step."""
    from tileseg.evaluate.confusion import confusion

    header = Header(**json.loads(stream.readline()))
    side: Side = make(header)
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([*range(len(header.classes)), 255], np.uint8), (2, 9, 7))
    checked = side.loss(labels, rng.normal(0, 2, (2, 9, 7, len(header.classes))).astype(np.float32))
    losses = []
    for rate in header.rates:
        images, labels = _read(stream), _read(stream)
        losses.append(side.step(images, labels, rate))
    matrix = np.zeros((len(header.classes),) * 2, np.int64)
    for _ in range(header.windows):
        pixels, truth = _read(stream), _read(stream)
        matrix += confusion(truth, side.labels_of(pixels), len(header.classes))
    seconds = []
    for _ in range(_WARM + _TIMED):
        start = time.perf_counter()
        side.step(images, labels, header.rates[-1])
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": side.parameters,
        "flops_per_pixel": side.flops_per_pixel,
        "loss_of_fixed_logits": checked,
        "first_loss": losses[0],
        "last_loss": statistics.mean(losses[-max(1, len(losses) // 10) :]),
        "matrix": matrix.tolist(),
        "mpix_per_second": labels.size / 1e6 / statistics.median(seconds[_WARM:]),
    }


def _write(stream: BinaryIO, array: npt.NDArray[Any]) -> None:
    # With its length before it: NumPy reads and writes files on its own, and a pipe is none.
    held = io.BytesIO()
    np.save(held, array, allow_pickle=False)
    stream.write(held.tell().to_bytes(8) + held.getvalue())


def _read(stream: BinaryIO) -> Any:
    return np.load(io.BytesIO(stream.read(int.from_bytes(stream.read(8)))), allow_pickle=False)


def feed(asked: argparse.Namespace, stream: BinaryIO) -> None:
    """Write a feed."""
    import pyogrio  # noqa: F401 - before TensorFlow: its libraries do not bear each other the other way round

    from tileseg.ahead import computed_ahead
    from tileseg.dataset.dataset import load_dataset
    from tileseg.dataset.patches import PatchSampler, read_patch, validation_windows
    from tileseg.dataset.statistics import statistics as found_in
    from tileseg.spec import read_config
    from tileseg.train.augment import Augmenter
    from tileseg.train.normalisation import normalisation_of
    from tileseg.train.rates import Plateau, learning_rate
    from tileseg.train.spec import TrainSpec
    from tileseg.train.validation import window_side

    options = read_config(asked.config) | {
        "dataset": asked.dataset, "out": Path(), "steps": asked.steps, "crop": asked.crop, "batch": asked.batch,
        "seed": asked.seed, "rate": asked.rate, "warmup": min(asked.steps // 10, 50),
    }  # fmt: skip
    spec = TrainSpec.parse(options)
    dataset = load_dataset(spec.dataset, gsd=spec.gsd)
    found = found_in(dataset.train, classes=len(dataset.classes), limits=spec.value_limits)
    values = normalisation_of(spec, dataset.dtype, found)
    side = window_side(max(max(s.grid.height, s.grid.width) for s in dataset.validate), spec.crop)
    places = validation_windows(dataset.validate, side)
    header = Header(
        classes=[info.name for info in dataset.classes],
        background=[info.background for info in dataset.classes],
        bands=len(dataset.bands),
        mean=list(values.mean),
        std=list(values.std),
        rates=[learning_rate(spec, step, step / asked.steps, Plateau()) for step in range(asked.steps)],
        windows=len(places),
        weight_decay=spec.weight_decay,
        clip=spec.clip or 0.0,
    )
    stream.write(json.dumps(asdict(header)).encode() + b"\n")
    margin = spec.crop // 8
    sampler = PatchSampler(dataset.train, spec.crop + 2 * margin, spec.batch, spec.seed, spec.balance)
    augmenter = Augmenter(spec.augment, len(dataset.bands), spec.seed, size=spec.crop)

    def make(step: int) -> tuple[Images, Labels]:
        images, labels = sampler.batch(step)
        return augmenter(values.to_unit(images), labels, step)

    def all_arrays() -> Iterator[npt.NDArray[Any]]:
        for images, labels in computed_ahead(make, range(asked.steps), ahead=3, threads=2):
            yield from (images, labels)
        for place in places:
            pixels, labels = read_patch(*place, side)
            yield from (values.to_unit(pixels)[None], labels[None])

    for array in all_arrays():
        _write(stream, np.ascontiguousarray(array))
    stream.flush()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that decide what is fed."""
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("config", type=Path, help="train.toml: its augmentation, loss and balance")
    add_options(parser)
    # Whatever a library prints goes elsewhere: standard output is the feed.
    stream, sys.stdout = sys.stdout.buffer, sys.stderr
    feed(parser.parse_args(), stream)


if __name__ == "__main__":
    main()
