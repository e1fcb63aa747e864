"""What tileseg adds to the network: whole runs against the bare compiled network.

    python benchmarks/network.py                       # width 0.25: the embedded model
    python benchmarks/network.py --width 1 --rows 4096 --cols 4096

The bare network is the same graph, uncropped, with weights in the run's precision, called over and over on one array of
pixels that are scaled already: nothing is read, cut, merged or written. Its speed counts all pixels of a window.

- wall / bare: the whole command over the time that the bare network takes for the same windows (as many, as large).
  Below 1 is possible, because runs crop the decoder.
- steady / bare: the same without what a run does once (starting processes, loading TensorFlow, compiling, the first
  block's reading): the difference between the scene and about a quarter of it, in time and in windows. Promise: 1.10.
- scene / best: MPix of the scene per second over the bare network's best MPix/s at any size of window. Promise: 0.75
  (again with and without what is done once).

Bare network and runs take turns; numbers are medians. Needs the real rasters (TILESEG_TEST_DATA).
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
if TYPE_CHECKING:
    from tileseg.plan import Precision

SIZES = (512, 800, 1024, 1312, 1536, 2048)
MOST = 9 << 30
"""Bytes of activations that a bare window may take; larger ones are left out."""


def make_model(folder: Path, width: float) -> None:
    """A network of another width than the embedded one, with random weights. Most pixels get the first class."""
    from exactness import save_network

    from tileseg.nn.bundle import load_bundle, save_bundle
    from tileseg.nn.description import Description

    save_network(folder / "random", "bilinear", width)
    model, card = load_bundle(folder / "random")
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel, bias + np.array([1.5, 0, 0], np.float32)])
    described = Description(
        name="wide", bands=card.bands, scaling=card.scaling,
        classes=(card.classes[0].model_copy(update={"background": True}), *card.classes[1:]),
    )  # fmt: skip
    save_bundle(model, folder, described)


def bare(model_folder: str, precision: Precision, windows: list[tuple[int, int]], repeat: int) -> dict[str, float]:
    """Seconds of one call of the bare network by window (``<rows>x<columns>``)."""
    from tileseg.nn import backend
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.twin import inference_twin
    from tileseg.plan import MEMORY_SHARE

    backend.configure(threads=os.cpu_count())
    model, card = load_bundle(Path(model_folder))
    seconds = {}
    for height, width in windows:
        share = MEMORY_SHARE[precision]
        if height * width * card.activation_bytes_per_pixel * share > MOST:
            continue
        network = backend.compile(partial(inference_twin(model, height, width, 0, precision), training=False))
        image = np.random.default_rng(0).normal(size=(1, height, width, len(card.bands))).astype(np.float32)
        np.asarray(network(image))
        took = []
        # Small windows are timed in groups that are as long as large ones.
        calls = max(1, round(1024 * 1024 / (height * width)))
        for _ in range(repeat):
            start = time.perf_counter()
            for _ in range(calls):
                np.asarray(network(image))
            took.append((time.perf_counter() - start) / calls)
        seconds[f"{height}x{width}"] = statistics.median(took)
    return seconds


def bare_alone(*arguments: Any) -> dict[str, float]:
    """:func:`bare` in a process of its own, so that TensorFlow leaves the machine afterwards."""
    code = "import json, sys, network; print(json.dumps(network.bare(*json.loads(sys.argv[1]))))"
    told = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        cwd=ROOT / "benchmarks", check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    found: dict[str, float] = json.loads(told.strip().splitlines()[-1])
    return found


@dataclass(frozen=True)
class Timed:
    """One whole run."""

    wall: float
    """Seconds of the command."""
    network: float
    """Of it, with the device in use."""
    windows: int
    window: tuple[int, int]


def run(scene: Path, out: Path, model: str, precision: str) -> Timed:
    """``tileseg run`` at its defaults but for the precision, on the scene as it is."""
    command = [
        sys.executable, "-m", "tileseg", "run", str(scene), "--out", str(out), "--model", model,
        "--precision", precision, "--gsd", "native", "--overwrite", "--json",
    ]  # fmt: skip
    start = time.perf_counter()
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall = time.perf_counter() - start
    plan = json.loads((out / "summary.json").read_text(encoding="utf-8"))["plan"]
    height, width = plan["window"][0]
    return Timed(wall, json.loads(told)["seconds"]["blocks: network"], plan["windows"], (height, width))


def block_of(scene: Path, model: str, precision: str) -> tuple[int, int]:
    """Size of the blocks that a run would choose."""
    command = [sys.executable, "-m", "tileseg", "run", str(scene), "--model", model, "--precision", precision]
    told = subprocess.run(
        [*command, "--gsd", "native", "--dry-run", "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    height, width = json.loads(told)["block"]
    return height, width


def measure(work: Path, model: str, precision: str, rows: int, cols: int, repeat: int) -> tuple[str, str]:
    """A line of the table of runs, and one of bare speeds."""
    from peer import orthophoto, write

    from tileseg.nn.folder import resolve_model

    folder = str(resolve_model(model))
    whole = write(work / "whole.tif", orthophoto(rows, cols))
    # Half of the blocks down and across: cut in the same way.
    height, width = (
        min(side, block * -(-side // (2 * block)))
        for side, block in zip((rows, cols), block_of(whole, model, precision), strict=True)
    )
    part = write(work / "part.tif", orthophoto(height, width))
    sizes = bare_alone(folder, precision, [(size, size) for size in SIZES], 3)
    best, at = max((side * side / sizes[f"{side}x{side}"] / 1e6, side) for side in SIZES if f"{side}x{side}" in sizes)
    rounds = []
    for _ in range(repeat):
        large, small = (run(scene, work / scene.stem, model, precision) for scene in (whole, part))
        if large.window != small.window:
            raise RuntimeError(f"windows of {large.window} and {small.window}: is other work taking the memory?")
        size = "x".join(map(str, large.window))
        rounds.append((large, small, bare_alone(folder, precision, [large.window], 3)[size]))
        print(f"  {precision}: {large}, part {small.wall:.1f} s, bare {rounds[-1][2]:.3f} s", file=sys.stderr)
    wall = statistics.median(a.wall / (a.windows * call) for a, _, call in rounds)
    steady = statistics.median((a.wall - b.wall) / ((a.windows - b.windows) * call) for a, b, call in rounds)
    rate = statistics.median(rows * cols / 1e6 / a.wall for a, _, _ in rounds)
    lasting = statistics.median((rows * cols - height * width) / 1e6 / (a.wall - b.wall) for a, b, _ in rounds)
    large = rounds[0][0]
    told = ", ".join(f"{k.split('x')[0]}: {int(k.split('x')[0]) ** 2 / v / 1e6:.2f}" for k, v in sizes.items())
    row = (
        f"| {precision} | {large.windows} of {large.window[0]}x{large.window[1]} | {best:.2f} at {at} "
        f"| {rate:.2f}; {lasting:.2f} | {wall:.2f} | {steady:.2f} | {rate / best:.2f}; {lasting / best:.2f} |"
    )
    return row, f"Bare MPix/s in {precision} by side of the window: {told}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25, help="of the VGG16-Unet; 0.25 is the embedded model")
    parser.add_argument("--rows", type=int, default=8192, help="of the scene; at most 8192")
    parser.add_argument("--cols", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", default="bfloat16,float32")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory(prefix="tileseg-network-") as folder:
        work, model = Path(folder), "embedded"
        if options.width != 0.25:
            model = str(work / "model")
            code = f"import network; from pathlib import Path; network.make_model(Path({model!r}), {options.width})"
            subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", check=True)
        lines = [
            measure(work, model, precision, options.rows, options.cols, options.repeat)
            for precision in options.precision.split(",")
        ]
    print(f"Width {options.width:g}, scene {options.cols}x{options.rows}, {options.repeat} rounds. Where there are two")
    print("numbers, the second leaves out what a run does once.\n")
    print("| precision | windows | bare best, MPix/s | scene, MPix/s | wall / bare | steady / bare | scene / best |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row, _ in lines:
        print(row)
    print()
    for _, told in lines:
        print(told)


if __name__ == "__main__":
    main()
