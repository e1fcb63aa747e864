"""The embedded network by every engine and precision that this machine has: start, speed, memory, labels.

    python benchmarks/engines.py                       # windows of 1024 pixels, 5 calls each, two passes
    python benchmarks/engines.py --model my-model/ --side 512

Each engine works in a process of its own, over a whole window (nothing cropped) of an orthophoto of Zanzibar, or of a
drawn settlement where the real rasters are missing. "First answer" is from the process's first line to the first map;
MPix/s is the median of the later calls; memory is the most that was resident; labels are compared with Keras in
float32. Engines take turns in every pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "sample_rasters"), str(ROOT / "benchmarks")]

ONE = """
import time
begun = time.perf_counter()
import json, resource, sys
import numpy as np
model, engine, form, precision, image, found, calls, threads = sys.argv[1:]
from pathlib import Path
from tileseg.engine.protocol import WindowSpec
from tileseg.engine.registry import open_network
from tileseg.nn.folder import load_card
card = load_card(Path(model))
network = open_network(Path(model), card, int(threads), engine=engine, form=form)
pixels = np.load(image)
compute = network.arrays.compile(network.engine(WindowSpec(*pixels.shape[1:3], 0, 1, precision)))
logits = np.asarray(network.arrays.to_numpy(compute(pixels)))
first = time.perf_counter() - begun
seconds = []
for _ in range(int(calls)):
    start = time.perf_counter()
    network.arrays.to_numpy(compute(pixels))
    seconds.append(time.perf_counter() - start)
np.save(found, logits.argmax(-1).astype(np.uint8))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"first": first, "seconds": seconds, "peak": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--passes", type=int, default=2)
    asked = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import numpy as np
    from exactness import real_crop, scaled, settlement

    from tileseg.cluster import hardware
    from tileseg.engine.choice import Device
    from tileseg.engine.kinds import ENGINES
    from tileseg.nn.folder import load_card, resolve_model

    model = resolve_model(asked.model)
    card, machine = load_card(model), hardware.detect()
    device = Device(False, hardware.default_precision(machine), machine.cpu.flags)
    pixels = real_crop(asked.side, asked.side)
    pixels = settlement(asked.side, asked.side) if pixels is None else pixels
    chosen = [
        (engine, form.file, precision)
        for engine, kind in ENGINES.items()
        for form in card.forms
        for precision in (kind.int8 if form.precision == "int8" else kind.float32)
        if form.suffix in kind.suffixes and not kind.missing and device.has(precision)
    ]
    told: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    labels = {}
    with tempfile.TemporaryDirectory(prefix="tileseg-engines-") as name:
        work = Path(name)
        np.save(work / "image.npy", scaled(pixels, card.scaling)[None])
        for _ in range(asked.passes):
            for each in chosen:
                told[each].append(measured(model, each, work, asked.calls, machine.cpu.cores))
                labels[each] = np.load(work / "found.npy")
    print(f"{machine.cpu.model}, {machine.cpu.cores} cores; windows of {asked.side} pixels\n")
    print("| engine | form | precision | first answer, s | MPix/s | memory, GiB | labels that differ |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for each, results in told.items():
        rate = asked.side**2 / 1e6 / statistics.median(s for result in results for s in result["seconds"])
        first = min(result["first"] for result in results)
        peak = max(result["peak"] for result in results) / 2**30
        differ = 100 * float((labels[each] != labels[chosen[0]]).mean())
        print(f"| {' | '.join(each)} | {first:.1f} | {rate:.2f} | {peak:.2f} | {differ:.2f} % |")


def measured(model: Path, chosen: tuple[str, str, str], work: Path, calls: int, threads: int) -> dict[str, Any]:
    """One engine in a process of its own."""
    command = [sys.executable, "-c", ONE, str(model), *chosen, str(work / "image.npy"), str(work / "found.npy")]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, str(calls), str(threads)], cwd=ROOT, env=quiet, check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
