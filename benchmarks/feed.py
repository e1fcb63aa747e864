"""How many cores a fast device needs beside it: what blocks cost around the network, and a device that only sleeps.

    python benchmarks/feed.py                         # a device of 150 MPix/s, an orthophoto or a drawn settlement
    python benchmarks/feed.py --rate 300 --side 16384

A run computes one block at a time by an engine that takes as long as such a device would: it sleeps meanwhile, and its
labels are a threshold on green. What reading, labels, writing and tracing took is the first table; the second is
arithmetic with these times and the rule that lets blocks in (`tileseg/run/feeding.py`): how busy the device is beside
so many cores. Last, the same run with as many blocks in flight as it wants, on the cores that there are.

Take a machine that has nothing else to do: beside other work every stage takes as much longer. What a block's turn on
the device costs beyond the device itself counts as time in which it idles.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "sample_rasters"), str(ROOT / "benchmarks")]

SLEEPER = '''
import json
import time

import numpy as np

from tileseg.engine.host import HostArrays


class Sleeper:
    """A device of so many MPix/s: light where green is above a threshold."""

    arrays = HostArrays()

    def __init__(self, folder, card, threads):
        self.card = card
        self.rate = json.loads((folder / "model.sleep").read_text()) * 1e6

    def pixel_engine(self, window, ends):
        kept = slice(window.crop, -window.crop or None)
        table = np.stack([np.zeros(256), (np.arange(256) - 110) / 16])
        table = table.astype(np.float16 if ends.kept else np.float32)

        def compute(pixels):
            end = time.perf_counter() + pixels.shape[1] * pixels.shape[2] / self.rate
            green = pixels[:, kept, kept, 1]
            maps = np.stack([each[green] for each in table], axis=1 if ends.kept else -1)
            time.sleep(max(0.0, end - time.perf_counter()))
            return maps

        return compute

    def is_out_of_memory(self, error):
        return isinstance(error, MemoryError)
'''
"""Module of the engine."""
CORES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32)


def prepared(work: Path, rate: float, halo: int) -> Path:
    """The model folder of the device, and the engine registered; the machine has a GPU from now on."""
    from tileseg.card import ClassInfo, Form, ModelCard, Scaling
    from tileseg.cluster import hardware
    from tileseg.engine.kinds import ENGINES, EngineKind
    from tileseg.nn.folder import save_card

    (work / "sleeping_device.py").write_text(SLEEPER, encoding="utf-8")
    sys.path.insert(0, str(work))
    ENGINES["sleep"] = EngineKind(
        "sleeping_device:Sleeper", (".sleep",), {"float32": 1.0}, {}, gpu={"float32": 1.0}, package="numpy"
    )
    pretended = (hardware.Gpu(0, "", "a device that sleeps", 80 << 30, (9, 0)),)
    hardware.gpus = lambda *_: pretended
    hardware.backend_has_cuda = lambda: True
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    folder = work / "model"
    folder.mkdir()
    (folder / "model.sleep").write_text(json.dumps(rate), encoding="utf-8")
    digest = hashlib.sha256((folder / "model.sleep").read_bytes()).hexdigest()
    card = ModelCard(
        name="sleep", bands=("red", "green", "blue"), scaling=Scaling(divisor=255), output_channels=2, stride=16,
        radius=halo, flops_per_pixel=1, activation_bytes_per_pixel=300, parameters=1,
        classes=(
            ClassInfo(name="dark", color="#000000", background=True), ClassInfo(name="light", color="#ffcc00"),
        ),
        forms=(Form(file="model.sleep", sha256=digest),),
    )  # fmt: skip
    save_card(card, folder)
    return folder


def run_of(scene: Path, out: Path, model: Path, workers: int | None) -> tuple[Any, Any]:
    """The report of a run, and its plan."""
    from tileseg import RunSpec, run
    from tileseg.run.prepare import prepare

    spec = RunSpec(
        scene=scene, model=str(model), out=out, workers=workers, precision="float32", gsd="native", overwrite=True
    )
    return run(spec), prepare(spec).plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=150.0, help="of the device, MPix/s")
    parser.add_argument("--side", type=int, default=8192, help="of the scene")
    parser.add_argument("--halo", type=int, default=144, help="that the network needs: 144 is VGG16-Unet's")
    asked = parser.parse_args()
    from gpu import write_scene
    from simulated import Simulation, Times

    with tempfile.TemporaryDirectory(prefix="tileseg-feed-") as name:
        work = Path(name)
        model = prepared(work, asked.rate, asked.halo)
        write_scene(work / "scene.tif", asked.side)
        run_of(work / "scene.tif", work / "out", model, 0)  # compiles what Numba compiles
        alone, plan = run_of(work / "scene.tif", work / "out", model, 0)
        blocks, megapixels = alone.blocks, asked.side**2 / 1e6
        spent = {stage: alone.seconds[f"blocks: {stage}"] for stage in ("read", "labels", "write", "polygons")}
        device = megapixels * plan.redundancy / asked.rate
        print(f"{blocks} blocks of {plan.block[1]} x {plan.block[0]}; a device of {asked.rate:g} MPix/s\n")
        print("| ms per MPix | " + " | ".join((*spent, "all four", "device", "device's turn")) + " |")
        print("| --- |" + " --- |" * (len(spent) + 3))
        each = (*spent.values(), sum(spent.values()), device, alone.seconds["blocks: network"])
        print("| one block at a time | " + " | ".join(f"{1000 * s / megapixels:.1f}" for s in each) + " |\n")
        before, after = spent["read"] / blocks, (sum(spent.values()) - spent["read"]) / blocks
        many = [Times(before, device / blocks, after)] * 2000
        print("| cores | device busy | MPix/s of the scene | blocks in flight |\n| --- | --- | --- | --- |")
        enough = None
        for cores in CORES:
            fed = Simulation(many, cores=cores, most=2 + 2 * cores).run()
            busy = fed.busy(0.05)
            enough = cores if enough is None and busy >= 0.9 else enough
            print(f"| {cores} | {busy:.2f} | {busy * megapixels / device:.0f} | {fed.pace.limit} |")
        print(f"\n{enough or f'more than {CORES[-1]}'} cores keep it busy to 0.9.")
        fed, plan = run_of(work / "scene.tif", work / "out", model, None)
        seconds, cores = fed.seconds["blocks"] - fed.seconds.get("blocks: load", 0.0), os.cpu_count()
        print(
            f"This machine's {cores} cores, at most {plan.threads} blocks in flight: busy to {device / seconds:.2f}, "
            f"{megapixels / seconds:.0f} MPix/s."
        )


if __name__ == "__main__":
    main()
