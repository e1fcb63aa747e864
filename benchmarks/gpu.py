"""What a device is worth: exact or not, the bare network, a run, and the time to polygons, in one table of Markdown.

    python benchmarks/gpu.py                                # every engine and precision that is there; gpu.md
    KERAS_BACKEND=jax python benchmarks/gpu.py              # or torch, where TensorFlow is not
    python benchmarks/gpu.py --engine onnx --side 4096 --minutes 3

It is done in under eight minutes: every step is a process of its own with a limit, and what does not fit is left out
and said. Without a GPU it measures the processor, on small sizes.

- exact: `tileseg model check` by this engine: tiles against one window, in deviations of the logits, and what is
  promised; and the labels of a window that differ from those of the first line.
- bare: the network alone, over and over on one scaled image in float32, whole windows of three sizes; the best counts.
- turn: the same with all that a block has the device for: pixels in as bytes, scaled there, float16 logits out.
- run: `tileseg run` on a scene at its defaults, as a process of its own. "Busy" is the share of the time between the
  first and the last block in which a block had the device; "in flight" what the plan allows.
- to polygons: the whole command, from the shell to the last file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "sample_rasters"), str(ROOT / "benchmarks")]

LIMIT = 7.5
"""Minutes that all of it takes at most, unless more are given."""
HEADER = (
    "| engine | precision | tiles against one window / promised; ends | labels that differ | bare, MPix/s (window) "
    "| turn, MPix/s | run, MPix/s | busy | in flight | to polygons, s | first answer, s |"
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one line is about."""

    engine: str
    form: str
    precision: str


@dataclass(slots=True)
class Clock:
    """How much time is left."""

    end: float

    def left(self, share: float = 1.0) -> float:
        """Seconds, or a share of them."""
        return max(0.0, self.end - time.monotonic()) * share


def candidates(model: Path, wanted: Sequence[str]) -> tuple[list[Chosen], list[str]]:
    """Engines, forms and precisions that this machine has in hardware; and what is missing, in a line each."""
    from tileseg.engine.kinds import ENGINES, how_to_get
    from tileseg.nn.folder import load_card
    from tileseg.run.prepare import device_of, this_machine

    machine, notes = this_machine()
    device, card = device_of(machine), load_card(model)
    found = []
    for form in card.forms:
        for name, kind in ENGINES.items():
            if form.suffix not in kind.suffixes or (wanted and name not in wanted):
                continue
            if kind.missing:
                if name in wanted:
                    notes = [*notes, how_to_get(name)]
                continue
            on_gpu = device.gpu and form.precision != "int8" and kind.on_gpu()
            if device.gpu and not on_gpu:
                continue
            if form.precision == "int8":
                precisions = [each for each in kind.int8 if device.has(each)]
            elif on_gpu:
                precisions = [each for each in kind.gpu if each != "float16" or name != "keras"]
            else:
                precisions = [each for each in kind.float32 if device.has(each)]
            found += [Chosen(name, form.file, each) for each in precisions]
    # Whole numbers last; the first line is what the others' labels are compared with.
    return sorted(found, key=lambda each: (each.precision != "float32", each.precision == "int8")), notes


def image_of(side: int) -> npt.NDArray[np.uint8]:
    """(y, x, band): a part of an orthophoto of Zanzibar, or a drawn settlement where the real rasters are missing."""
    from exactness import real_crop, settlement

    found = real_crop(min(side, 2048), min(side, 2048))
    found = settlement(min(side, 2048), min(side, 2048)) if found is None else found
    times = -(-side // found.shape[0])
    mirrored = np.concatenate([found if i % 2 == 0 else found[:, ::-1] for i in range(times)], axis=1)
    return np.concatenate([mirrored if i % 2 == 0 else mirrored[::-1] for i in range(times)], axis=0)[:side, :side]


def write_scene(path: Path, side: int) -> None:
    """A deflated GeoTIFF of square size, with a place on the ground."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    strip = image_of(min(side, 4096))
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", zlevel=1, predictor=2, photometric="rgb", interleave="pixel",
        num_threads="all_cpus", crs="EPSG:32737", transform=from_origin(500_000, 9_300_000, 0.07, 0.07),
    ) as file:  # fmt: skip
        for row in range(0, side, strip.shape[0]):
            for col in range(0, side, strip.shape[1]):
                part = strip[: side - row, : side - col]
                file.write(np.moveaxis(part, -1, 0), window=Window(col, row, part.shape[1], part.shape[0]))


def network_alone(
    model: str, chosen: dict[str, str], sides: Sequence[int], found: str, seconds: float
) -> dict[str, Any]:
    """Proof, speeds and labels of one engine: what a process of its own is asked for."""
    begun = time.perf_counter()
    from tileseg.cluster import hardware
    from tileseg.engine.proof import prove
    from tileseg.engine.registry import open_network
    from tileseg.nn.folder import load_card

    folder, card = Path(model), load_card(Path(model))
    network: Any = open_network(folder, card, hardware.cpu().cores, engine=chosen["engine"], form=chosen["form"])
    result: dict[str, Any] = {"bare": {}, "turn": {}}
    pixels = image_of(max(sides))
    for side in sides:
        if result["bare"] and time.perf_counter() - begun > 0.6 * seconds:
            break
        speeds = Speeds(network, chosen["precision"], pixels[None, :side, :side])
        try:
            labels = speeds.labels()
            if side == sides[0]:
                result["first"] = time.perf_counter() - begun
                np.save(found, labels)
            result["bare"][side] = speeds.bare(seconds / 20)
            result["turn"][side] = speeds.turn(seconds / 20)
        except Exception as error:
            if not network.is_out_of_memory(error):
                raise
            break
    proof = prove(network, chosen["precision"])
    return {**result, "relative": proof.relative, "far": proof.far, "tolerance": proof.tolerance, "holds": proof.holds}


class Speeds:
    """One engine on one window of pixels (1, side, side, band)."""

    def __init__(self, network: Any, precision: Any, window: npt.NDArray[np.uint8]) -> None:
        from tileseg.engine.protocol import WindowSpec

        self.network, self.precision, self.window, self.side = network, precision, window, window.shape[1]
        scaling = network.card.scaling
        values = (window.astype(np.float32) - np.asarray(scaling.zero, np.float32)) / np.asarray(scaling.unit)
        self.image = np.ascontiguousarray(values, np.float32)
        self.engine = network.arrays.compile(network.engine(WindowSpec(self.side, self.side, 0, 1, precision)))

    def labels(self) -> npt.NDArray[np.uint8]:
        """(y, x): the likeliest class."""
        maps = self.network.arrays.to_numpy(self.engine(self.image))[0]
        return (maps.argmax(-1) if maps.shape[-1] > 1 else maps[..., 0] > 0).astype(np.uint8)

    def bare(self, seconds: float) -> float:
        """MPix/s of the network alone."""
        return rate(lambda: self.network.arrays.to_numpy(self.engine(self.image)), self.side**2, seconds)

    def turn(self, seconds: float) -> float:
        """MPix/s, of the window, of all that the device does for it in a run."""
        from tileseg.engine.predictor import Predictor, PredictorSpec
        from tileseg.tta import View

        card = self.network.card
        halo = card.halo if card.local else 0
        core = (self.side - 2 * halo, self.side - 2 * halo)
        spec = PredictorSpec(core, halo, (View(),), card.scaling, precision=self.precision, halo=halo)
        predictor = Predictor(self.network, spec)
        predictor(self.window)
        return rate(lambda: predictor(self.window), self.side**2, seconds)


def rate(call: Callable[[], Any], pixels: int, seconds: float) -> float:
    """MPix/s of the median of at least three calls."""
    took: list[float] = []
    while len(took) < 3 or (sum(took) < seconds and len(took) < 50):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return pixels / 1e6 / float(np.median(took))


def in_process(code: str, arguments: Sequence[Any], seconds: float) -> dict[str, Any] | str:
    """The JSON that a function of this module prints in a process of its own, or why there is none."""
    script = f"import json, sys, gpu; print(json.dumps(gpu.{code}(*json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    return told(command, seconds, ROOT / "benchmarks")


def told(command: Sequence[str], seconds: float, folder: Path) -> dict[str, Any] | str:
    """The JSON that a command prints, or why there is none."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=quiet, capture_output=True, text=True, check=False, timeout=max(1.0, seconds)
        )
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s"
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"ended with code {done.returncode}"
    printed = done.stdout.strip()
    for text in (printed, printed.rpartition("\n")[2]):  # a report in many lines, or one line after others' words
        with contextlib.suppress(ValueError):
            result: dict[str, Any] = json.loads(text)
            return result
    return f"printed no result: {printed[-100:]!r}"


def run_of(scene: Path, out: Path, model: str, chosen: Chosen, seconds: float) -> dict[str, Any] | str:
    """``tileseg run`` on the scene as it is."""
    command = [
        sys.executable, "-m", "tileseg", "run", str(scene), "--out", str(out), "--model", model, "--engine",
        chosen.engine, "--precision", chosen.precision, "--gsd", "native", "--overwrite", "--json",
    ]  # fmt: skip
    begun = time.perf_counter()
    report = told(command, seconds, ROOT)
    if isinstance(report, dict):
        report["whole"] = time.perf_counter() - begun
        terms = json.loads((out / "summary.json").read_text(encoding="utf-8"))["plan"]["memory_terms"]
        report["in_flight"] = max(
            (
                int(name.rpartition(", ")[2].split()[0])
                for part in terms.values()
                for name in part
                if "in flight" in name
            ),
            default=0,
        )
    return report


def row(chosen: Chosen, alone: dict[str, Any] | str, run: dict[str, Any] | str, labels: str) -> str:
    """One line of the table."""
    if isinstance(alone, str):
        proved = bare = turn = first = alone.replace("|", "/")
    else:
        sign = "" if alone["holds"] else " **fails**"
        proved = f"{alone['relative']:.0e} / {alone['tolerance']:.0e}; {alone['far']:.0e}{sign}"
        side, rate = max(alone["bare"].items(), key=lambda item: item[1])
        bare, turn, first = f"{rate:.2f} ({side})", f"{max(alone['turn'].values()):.2f}", f"{alone['first']:.1f}"
    if isinstance(run, str):
        cells = [run.replace("|", "/"), "", "", ""]
    else:
        seconds = run["seconds"]
        pixels = sum(run["pixels"].values()) / 1e6
        # A model that is loaded keeps its device from nothing that a longer run would not do.
        blocks = max(1e-9, seconds["blocks"] - seconds.get("blocks: load", 0.0))
        busy = min(1.0, seconds["blocks: network"] / blocks)
        cells = [f"{pixels / blocks:.2f}", f"{busy:.2f}", str(run["in_flight"]), f"{run['whole']:.1f}"]
    return f"| {' | '.join((chosen.engine, chosen.precision, proved, labels, bare, turn, *cells, first))} |"


def machine_told() -> list[str]:
    """Date, hardware and versions, a line each."""
    from tileseg.cluster import hardware

    machine = hardware.detect()
    gpus = ", ".join(
        f"{gpu.name}{'' if gpu.memory is None else f' ({gpu.memory / 2**30:.0f} GiB)'}" for gpu in machine.gpus
    )
    names = ("tileseg", "keras", "tensorflow", "jax", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "openvino")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    when = f"{dt.datetime.now(dt.UTC):%d %B %Y, %H:%M} UTC"
    cpu = f"{machine.cpu.model or 'CPU'}, {machine.cpu.cores} cores, {machine.memory.total / 2**30:.0f} GiB"
    python = f"Python {platform.python_version()}"
    return [
        f"{when}; {gpus or 'no GPU'}; {cpu}.",
        f"{', '.join((python, *versions))}; Keras's backend: {backend()}.",
    ]


def backend() -> str:
    """The one that was asked for, or the first that is there."""
    asked = os.environ.get("KERAS_BACKEND")
    there = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name) is not None]
    return asked or (there[0] if there else "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="name or folder")
    parser.add_argument("--engine", action="append", default=[], help="one of several, instead of all that are there")
    parser.add_argument("--precision", action="append", default=[], help="one of several, instead of all")
    parser.add_argument("--side", type=int, help="of the scene; 12288 on a GPU, else 2048")
    parser.add_argument("--window", type=int, action="append", help="sides of windows; 1024, 2048 and 3072 on a GPU")
    parser.add_argument("--minutes", type=float, default=LIMIT, help="that it may take")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    asked = parser.parse_args()
    clock = Clock(time.monotonic() + 60 * asked.minutes - 5)
    os.environ["KERAS_BACKEND"] = backend()  # the processes below take the same

    from tileseg.cluster import hardware
    from tileseg.nn.folder import resolve_model

    model = resolve_model(asked.model)
    gpu = bool(hardware.detect().gpus)
    sides = asked.window or ([1024, 2048, 3072] if gpu else [512, 1024])
    side = asked.side or (12288 if gpu else 2048)
    found, notes = candidates(model, asked.engine)
    chosen = [each for each in found if not asked.precision or each.precision in asked.precision]
    lines = [
        *machine_told(), f"Model {asked.model}; scene of {side} x {side} pixels.", *notes, "", HEADER,
        "|" + " --- |" * HEADER.count(" |"),
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="tileseg-gpu-") as name:
        work = Path(name)
        write_scene(work / "scene.tif", side)
        reference: npt.NDArray[np.uint8] | None = None
        for number, each in enumerate(chosen):
            share = 1 / (len(chosen) - number)
            labelled, begun = work / f"{number}.npy", clock.left()
            values = {"engine": each.engine, "form": each.form, "precision": each.precision}
            budget = begun * share * 0.5
            alone = in_process("network_alone", (str(model), values, sides, str(labelled), budget * 0.6), budget)
            run = run_of(work / "scene.tif", work / "out", str(model), each, begun * share - (begun - clock.left()))
            labels = ""
            if labelled.exists():
                mine = np.load(labelled)
                reference = mine if reference is None else reference
                labels = f"{100 * float((mine != reference).mean()):.2f} %"
            lines.append(row(each, alone, run, labels))
            print(lines[-1], flush=True)
    asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwritten to {asked.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
