"""The embedded network in tiles against one window, by every engine and precision that this machine has.

    python benchmarks/exact_engines.py                     # a part of an orthophoto of Zanzibar, or a drawn settlement
    python benchmarks/exact_engines.py --model my-model/

Each line is one engine and precision at scale 1, and at scales 1/2, 1 and 3/2 with all flips: the largest difference of
a logit from the run whose single window holds the whole scene, in standard deviations of the logits, over three ways of
cutting it (blocks, windows, batches); the labels that differ between them; and the labels that differ from Keras in
float32. Logits are taken before they are rounded to float16. `exactness.py` compares Keras with an oracle besides.

Exit code 1 if tiles differ from the whole by more than the engine promises.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from exactness import ONE, THREE, Array, Case, Tiling, compute, make_job, real_crop, settlement, unrounded

from tileseg.cluster import hardware
from tileseg.engine.choice import Device
from tileseg.engine.kinds import ENGINES
from tileseg.engine.proof import TOLERANCES
from tileseg.nn.folder import load_card, resolve_model

TILINGS = (Tiling(512), Tiling(256, 480), Tiling(128, 416, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    model = resolve_model(parser.parse_args().model)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    card, machine = load_card(model), hardware.detect()
    device = Device(False, hardware.default_precision(machine), machine.cpu.flags)
    pixels = real_crop(331, 461)
    name = "settlement" if pixels is None else "Zanzibar"
    if pixels is None:
        pixels = settlement(331, 461)
    print("| engine | form | precision | scales, flips | tiles against one window: apart / std, labels | from Keras |")
    print("| --- | --- | --- | --- | --- | --- |")
    bad = False
    for scales, flips in ((ONE, "none"), (THREE, "d4")):
        case = Case("embedded", name, pixels, scales, flips, TILINGS, ())
        reference: Array | None = None
        for engine, kind in ENGINES.items():
            for form in card.forms:
                for precision in kind.int8 if form.precision == "int8" else kind.float32:
                    if form.suffix not in kind.suffixes or kind.missing or not device.has(precision):
                        continue
                    found = [logits(case, model, (engine, form.file, precision), tiling) for tiling in TILINGS]
                    reference = found[0] if reference is None else reference
                    apart = max(float(np.abs(one - found[0]).max()) for one in found) / float(found[0].std())
                    labels = [one.argmax(0) for one in found]
                    moved = max(int((one != labels[0]).sum()) for one in labels)
                    other = int((labels[0] != reference.argmax(0)).sum())
                    bad = bad or apart > TOLERANCES[precision]
                    views = f"{', '.join(map(str, scales))}; {flips}"
                    print(
                        f"| {engine} | {form.file} | {precision} | {views} | {apart:.1e}, {moved} of {labels[0].size} "
                        f"| {other} ({100 * other / labels[0].size:.2f} %) |",
                        flush=True,
                    )
    sys.exit(bad)


def logits(case: Case, model: Path, chosen: tuple[str, str, str], tiling: Tiling) -> Array:
    """(class, y, x) of a run in one process."""
    from fakes import write_scene

    engine, form, precision = chosen
    with tempfile.TemporaryDirectory(prefix="tileseg-engines-") as name:
        folder = Path(name)
        scene = write_scene(folder / "scene.tif", case.pixels)
        job = make_job(folder / "run", scene, model, case, tiling, 0)
        job = replace(job, plan=replace(job.plan, engine=engine, form=form, precision=precision))
        height, width = case.pixels.shape[:2]
        with unrounded((len(job.plan.card.classes), height, width)) as found:
            compute(job, lambda _: sys.exit("no workers are asked for"))
        return found


if __name__ == "__main__":
    main()
