"""Logits computed block by block against the network run once over the whole scene, in float32.

    python benchmarks/exactness.py --quick      # less than a minute
    python benchmarks/exactness.py --full       # the table of RESULTS.md

The networks are the VGG16-Unet with random weights, with both decoders, and the embedded model. Every line is one
combination of network, scene and views, over several blocks, windows and batches:

- against one window: the largest difference of a float32 logit, in standard deviations of the logits, from the run
  whose single window holds the whole scene, and the labels (argmax) that differ. Same kernels, so both ought to be 0.
- against the oracle: the same against tests/oracle.py, which is written without the code under test: dense resampling
  matrices, nothing cropped, batch normalisation not folded into the convolutions. The promise is 1e-5. Sums are rounded
  in another order there, so a label may differ, but only at a tie: where two logits are closer than the promise.
- float16: values of the mosaic that differ from the oracle's rounded to float16. One is expected wherever two float32
  values, as near as they are, lie on both sides of the middle between two float16 ones.
- workers: whether unmodified workers (1 and 2 processes) wrote the same bytes as the serial run.

The logits of a serial run are taken as the predictor hands them back, before the engine rounds them to float16.
The whole scene's pixels are scaled by the same two float32 operations as a tile's. (Dividing by 255 first, say, rounds
otherwise in the last bit; through 18 layers of random weights that alone moves a logit by up to 7e-5 deviations.)

Exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "sample_rasters")]

if TYPE_CHECKING:
    from distributed import Client

    from tileseg.card import Scaling
    from tileseg.engine.protocol import Network
    from tileseg.run.block import Job
    from tileseg.tta import Flips

PROMISE = 1e-5
THREE = (Fraction(1, 2), Fraction(1), Fraction(3, 2))

Array = npt.NDArray[np.float32]
Network = Literal["bilinear", "transpose", "embedded"]
"""The decoder with random weights, or the model that comes with tileseg."""


@dataclass(frozen=True)
class Tiling:
    """How a scene is cut. A block that holds the scene and nothing else given: one window."""

    block: int
    window: int | None = None
    """At scale 1, halo included; None: chosen by the plan."""
    batch: int | None = None


@dataclass(frozen=True)
class Case:
    """What the network is asked for; the tilings must not matter."""

    network: Network
    scene: str
    pixels: npt.NDArray[np.uint8]
    scales: tuple[Fraction, ...]
    flips: Flips
    tilings: tuple[Tiling, ...]
    """The first is one window."""
    workers: tuple[int, ...]
    """Numbers of worker processes to compare with the serial run, on the last tiling."""


@dataclass
class Finding:
    """What came out, the worst over tilings."""

    case: Case
    once: float = 0.0
    relabelled: int = 0
    """Against one window."""
    apart: float = 0.0
    labels: int = 0
    untied: int = 0
    """Against the oracle; ``untied``: labels that differ where there is no tie."""
    halves: int = 0
    values: int = 0
    """Stored logits that differ from the oracle's, of how many."""
    same_bytes: dict[int, bool] = field(default_factory=dict)
    """Worker processes -> whether the mosaic's bytes equal the serial run's."""
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether the promise is."""
        equal = self.once == 0 and self.relabelled == 0 and all(self.same_bytes.values())
        return equal and self.apart <= PROMISE and self.untied == 0


def save_network(folder: Path, decoder: Literal["bilinear", "transpose"], width: float, seed: int = 7) -> None:
    """A VGG16-Unet with random weights, and random statistics where it normalises."""
    from tileseg.card import ClassInfo, Scaling
    from tileseg.nn.backend import keras
    from tileseg.nn.bundle import save_bundle
    from tileseg.nn.description import Description
    from tileseg.nn.options import NetworkSpec
    from tileseg.nn.unet import build_network

    keras.utils.set_random_seed(seed)
    model = build_network(NetworkSpec(width=width, decoder=decoder, batch_norm=False), 3, 3)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([
                rng.uniform(0.7, 1.4, gamma.shape), rng.normal(0, 0.1, beta.shape),
                rng.normal(0, 0.1, mean.shape), rng.uniform(0.6, 1.6, variance.shape),
            ])  # fmt: skip
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0, 0.05, bias.shape)])
    described = Description(
        name=f"random-{decoder}", bands=("red", "green", "blue"),
        classes=tuple(ClassInfo(name=f"class {i}", color=f"#{i:02x}8040") for i in range(3)),
        scaling=Scaling(divisor=255, mean=(0.45, 0.42, 0.38), std=(0.2,)),
    )  # fmt: skip
    save_bundle(model, folder, described)


def compiled(model: Any, *, folded: bool = False) -> Callable[..., Any]:
    """The whole network, compiled: called layer by layer it would keep every map of a large scene.

    ``folded``: with batch normalisation folded into the convolutions, as runs have it.
    """
    from tileseg.nn.backend import compile as compile_function
    from tileseg.nn.twin import inference_twin

    functions: dict[tuple[int, ...], Callable[..., Any]] = {}

    def call(images: Array) -> Any:
        if images.shape not in functions:
            whole = inference_twin(model, *images.shape[1:3], 0, "float32") if folded else model
            functions[images.shape] = compile_function(partial(whole, training=False))
        return functions[images.shape](images)

    return call


def scaled(pixels: npt.NDArray[np.uint8], scaling: Scaling) -> Array:
    """What the network is given, rounded as the predictor rounds it."""
    gain = (1 / (scaling.divisor * np.asarray(scaling.std))).astype(np.float32)
    return (pixels.astype(np.float32) - np.float32(np.asarray(scaling.mean) * scaling.divisor)) * gain


@contextmanager
def unrounded(shape: tuple[int, int, int]) -> Iterator[Array]:
    """While it is open, serial runs put their logits (class, y, x), as the predictor gave them, into what it yields.

    The engine itself is the one of every run: it rounds what it is handed while placing it.
    """
    from tileseg.engine import predictor, tiled
    from tileseg.run import block as segment

    kept = np.full(shape, np.nan, np.float32)
    handed: list[Array] = []

    class Unrounded(predictor.Predictor):
        def __init__(self, network: Network, spec: predictor.PredictorSpec) -> None:
            super().__init__(network, replace(spec, output="float32"))

        def __call__(self, tiles: npt.NDArray[np.generic]) -> npt.NDArray[np.floating[Any]]:
            found = super().__call__(tiles)
            handed.extend(found)
            return found

    class Keeping(tiled.TiledNetwork):
        def _compute(self, cut: tiled.Cut, notes: tuple[str, ...]) -> tiled.Pieces:
            handed.clear()
            rounded = super()._compute(cut, notes)
            for tile, logits in zip(cut.inference.plan.tiles(cut.core), handed, strict=True):
                inside = tile.intersection(cut.core)
                assert inside is not None
                source, target = inside.relative_to(tile).slices, inside.slices
                kept[(slice(None), *target)] = logits[(slice(None), *source)]
            return rounded

    with (
        mock.patch.object(tiled, "Predictor", Unrounded),
        mock.patch.object(segment, "TiledNetwork", Keeping),
        mock.patch.object(segment, "_loaded", None),
    ):
        yield kept


def make_job(folder: Path, scene: Path, model: Path, case: Case, tiling: Tiling, workers: int) -> Job:
    """One run: blocks to logits and labels."""
    from tileseg.mosaic import create_mosaic
    from tileseg.nn.folder import load_card
    from tileseg.run.block import Job
    from tileseg.run.ledger import Ledger
    from tileseg.source.scene import open_scene
    from tileseg.tiling import Resources, SceneShape, TilingChoice, ViewChoice, make_plan

    card = load_card(model)
    opened = open_scene(scene, expected=3)
    plan = make_plan(
        SceneShape((opened.grid.height, opened.grid.width), 3, 1),
        card,
        ViewChoice(case.scales, flips=case.flips),
        TilingChoice(block=tiling.block, window=tiling.window, batch=tiling.batch),
        Resources(workers=workers),
    )
    return Job(
        key=str(folder), scene=opened, plan=plan, model=model, scaling=card.scaling, merge="logits",
        mosaic=create_mosaic(folder / "mosaic.zarr", opened.grid, plan.block, card.classes, "logits", {}),
        ledger=Ledger(folder / ".state"), aoi=None, ignore=frozenset(range(len(card.classes))), connectivity=4,
        compute_threads=max(1, (os.cpu_count() or 1) // max(1, workers)),
    )  # fmt: skip


def compute(job: Job, clients: Callable[[int], Client]) -> str:
    """Run it; the digest of its mosaic."""
    from tileseg.cluster.schedule import run_on_cluster
    from tileseg.cluster.threads import run_in_threads
    from tileseg.run.block import segment_block

    workers, stop, blocks = job.plan.workers, threading.Event(), range(job.plan.blocks)
    if workers == 0:
        failures = run_in_threads(segment_block, job, blocks, lambda _: None, stop)
    else:
        failures = run_on_cluster(clients(workers), segment_block, job, blocks, lambda _: None, stop)
    if failures:
        raise RuntimeError(str(failures[0])) from failures[0].error
    digest = hashlib.sha256()
    for path in sorted(p for p in job.mosaic.path.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(job.mosaic.path)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure(case: Case, folder: Path, model: Path, clients: Callable[[int], Client]) -> Finding:
    """Compare all tilings of a case with the whole scene."""
    from fakes import write_scene
    from oracle import whole_scene_logits

    from tileseg.card import Scaling
    from tileseg.nn.bundle import load_bundle
    from tileseg.tta import views
    from tileseg.window import Window

    begun = time.perf_counter()
    folder.mkdir(parents=True)
    scene = write_scene(folder / "scene.tif", case.pixels)
    network, card = load_bundle(model)
    whole = whole_scene_logits(
        compiled(network), card, Scaling(), scaled(case.pixels, card.scaling), views(case.scales, case.flips)
    )
    height, width = whole.shape[1:]
    std, labels = float(whole.std()), whole.argmax(axis=0)
    best = np.partition(whole, -2, axis=0)
    tied = best[-1] - best[-2] <= 2 * PROMISE * std
    finding, first, serial = Finding(case, values=whole.size), None, ""
    for number, tiling in enumerate(case.tilings):
        job = make_job(folder / f"serial-{number}", scene, model, case, tiling, 0)
        with unrounded(whole.shape) as found:
            serial = compute(job, clients)
        if first is None:
            assert job.plan.tile_count == 1, f"{tiling} is not one window"
            first = found
        finding.once = max(finding.once, float(np.abs(found - first).max()) / std)
        finding.relabelled = max(finding.relabelled, int((found.argmax(axis=0) != first.argmax(axis=0)).sum()))
        finding.apart = max(finding.apart, float(np.abs(found - whole).max()) / std)
        other = found.argmax(axis=0) != labels
        finding.labels = max(finding.labels, int(other.sum()))
        finding.untied = max(finding.untied, int((other & ~tied).sum()))
        stored = job.mosaic.read_logits(Window(0, 0, height, width))
        finding.halves = max(finding.halves, int((stored != whole.astype(np.float16)).sum()))
    for workers in case.workers:
        job = make_job(folder / f"workers-{workers}", scene, model, case, case.tilings[-1], workers)
        finding.same_bytes[workers] = compute(job, clients) == serial
    finding.seconds = time.perf_counter() - begun
    return finding


def settlement(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A drawn settlement."""
    from generate import render

    return render(height, width, seed=11)[0]


def real_crop(height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """A part of a drone orthophoto of Zanzibar; None where the real rasters are missing."""
    import rasterio
    from rasterio.windows import Window

    folder = Path(os.environ.get("TILESEG_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "buildings" / "zanzibar_1_rgb.tif"
    if not path.is_file():
        return None
    with rasterio.open(path) as file:
        return np.ascontiguousarray(np.moveaxis(file.read((1, 2, 3), window=Window(2011, 307, width, height)), 0, -1))


ONE = (Fraction(1),)
NETWORKS: tuple[Network, ...] = ("bilinear", "transpose", "embedded")


def quick_cases() -> Iterator[Case]:
    """A few of everything, small."""
    scene, small = settlement(203, 331), settlement(131, 193)
    yield Case("bilinear", "settlement", scene, ONE, "none", (Tiling(512), Tiling(128, 416, 2)), (1,))
    yield Case("transpose", "settlement", scene, ONE, "none", (Tiling(512), Tiling(256, 480)), ())
    yield Case(
        "bilinear", "settlement", small, (Fraction(1, 2), Fraction(1)), "h", (Tiling(512), Tiling(128, 416, 2)), ()
    )
    apart = (Fraction(1, 2), Fraction(3, 2))
    yield Case("transpose", "tiny", settlement(61, 97), apart, "d4", (Tiling(128), Tiling(64)), ())


def full_cases() -> Iterator[Case]:
    """The matrix of RESULTS.md."""
    scenes = {"settlement": settlement(1103, 1501), "tiny": settlement(61, 97), "Zanzibar": real_crop(607, 911)}
    all_views: tuple[tuple[tuple[Fraction, ...], Flips], ...] = tuple(itertools.product((ONE, THREE), ("none", "d4")))
    for network, (name, pixels), (scales, flips) in itertools.product(NETWORKS, scenes.items(), all_views):
        plain, most = scales == ONE and flips == "none", scales == THREE and flips == "d4"
        few = name == "tiny" or network == "embedded"
        if pixels is None or (few and not plain and not most) or (network == "embedded" and name != "Zanzibar"):
            continue
        tilings = [Tiling(2048), Tiling(512, batch=2), Tiling(1024, 800)]
        if plain:
            tilings += [Tiling(2048, 1312), Tiling(512, 416, 5), Tiling(1024, 800, 2), Tiling(512)]
        if name == "tiny":
            tilings = [Tiling(512), Tiling(64), Tiling(32, batch=4)]
        yield Case(network, name, pixels, scales, flips, tuple(tilings), (1, 2) if plain else (2,))


def findings(cases: Sequence[Case], width: float) -> Iterator[Finding]:
    """Measure them one by one, with a cluster per number of workers that all share."""
    from tileseg.cluster.local import local_cluster
    from tileseg.nn.folder import resolve_model

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tileseg-exact-")))
        clusters: dict[int, Client] = {}

        def client(workers: int) -> Client:
            if workers not in clusters:
                threads = max(1, (os.cpu_count() or 1) // workers)
                clusters[workers] = stack.enter_context(local_cluster(workers, 2, threads))
            return clusters[workers]

        models: dict[Network, Path] = {"embedded": resolve_model("embedded")}
        for case in cases:
            if case.network not in models:
                models[case.network] = work / case.network
                save_network(models[case.network], case.network, width)
        for number, case in enumerate(cases):
            yield measure(case, work / str(number), models[case.network], client)


HEADER = """\
| network | scene | scales | flips | tilings | one window: apart / std, labels | oracle: apart / std, labels (of them \
no ties) | float16 | workers |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def row(finding: Finding) -> str:
    """A line of the table."""
    case = finding.case
    height, width = case.pixels.shape[:2]
    same = ", ".join(f"{n}: {'same' if same else 'OTHER'}" for n, same in finding.same_bytes.items()) or "-"
    return (
        f"| {case.network} | {case.scene} {width}x{height} | {', '.join(map(str, case.scales))} | {case.flips} "
        f"| {len(case.tilings)} | {finding.once:.0e}, {finding.relabelled} "
        f"| {finding.apart:.1e}, {finding.labels} ({finding.untied}) "
        f"| {finding.halves} of {finding.values / 1e6:.2f} M | {same} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small scenes and few tilings (the default)")
    size.add_argument("--full", action="store_true", help="the whole matrix")
    parser.add_argument("--width", type=float, help="of the network; 1/16 for --quick, 1/4 for --full")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    cases = list(full_cases() if options.full else quick_cases())
    print(HEADER)
    bad, begun = False, time.perf_counter()
    for finding in findings(cases, options.width or (0.25 if options.full else 0.0625)):
        print(row(finding), flush=True)
        print(f"  {finding.seconds:.0f} s", file=sys.stderr)
        bad |= not finding.kept
    print(f"{'BROKEN' if bad else 'kept'}; {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    sys.exit(bad)


if __name__ == "__main__":
    main()
