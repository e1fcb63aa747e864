"""tileseg and MONAI's sliding window, side by side: the same weights, the same real scene.

    python benchmarks/peer.py                      # both of these:
    python benchmarks/peer.py speed --repeat 3     # the whole command and the network; memory
    python benchmarks/peer.py speed --pairs default,float32 --best float32    # on a processor without bfloat16
    python benchmarks/peer.py seams                # against the network run once over the whole scene

The scene is made of drone orthophotos of Zanzibar, mirrored downwards to 52 MPix. The network is the embedded model
(VGG16-Unet, width 0.25). The peer is monai_peer.py: windows of 512 pixels, a quarter of overlap, Gaussian weights.
`default` is tileseg as it is (--engine auto, --precision auto) against the peer in its best precision; the other pairs
have both in the same. Both take turns in every round, because the machine's speed drifts; ratios are those within a
round.

The peer writes labels and polygons with their class. tileseg also writes the logits, a pyramid, a COG and a quicklook,
and measures every polygon.

Needs the extra `bench` (torch, monai) and the real rasters (TILESEG_TEST_DATA).
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
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
DATA = Path(os.environ.get("TILESEG_TEST_DATA", ROOT.parent / "shared" / "data")) / "buildings"
ROWS, COLS = 6400, 8192
SEAM = (2816, 3584)
"""Rows and columns of the scene whose seams are looked at: multiples of the stride, so that nobody pads them."""


def orthophoto(rows: int, cols: int) -> npt.NDArray[np.uint8]:
    """(band, y, x): the scene of Zanzibar, and its mirror image below it."""
    import rasterio

    with rasterio.open(DATA / "zanzibar_0_rgb.tif") as file:
        pixels = file.read((1, 2, 3))
    return np.ascontiguousarray(np.concatenate([pixels, pixels[:, ::-1]], axis=1)[:, :rows, :cols])


def write(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A GeoTIFF in Web Mercator, as the orthophotos are."""
    import rasterio

    with rasterio.open(DATA / "zanzibar_0_rgb.tif") as file:
        placed = {"crs": file.crs, "transform": file.transform}
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype="uint8", tiled=True, blockxsize=256,
        blockysize=256, compress="deflate", predictor=2, photometric="rgb", **placed,
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


def export(path: Path) -> Path:
    """The embedded model's weights and card for the peer."""
    from tileseg.nn.backend import keras
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.folder import resolve_model

    model, card = load_bundle(resolve_model("embedded"))
    arrays = {f"{layer.name}/{weight.name}": np.asarray(weight) for layer in model.layers for weight in layer.weights}
    arrays |= {
        f"{layer.name}/epsilon": np.float32(layer.epsilon)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    np.savez(path, card=np.frombuffer(card.model_dump_json().encode(), np.uint8), **arrays)
    return path


@dataclass(frozen=True)
class Outcome:
    """One command."""

    wall: float
    network: float
    """Seconds."""
    peak: int
    """Resident bytes over the process tree."""
    polygons: int


def timed(command: list[str]) -> tuple[float, int, str]:
    """Seconds, peak memory and standard output of a command."""
    from tileseg.cluster.hardware import PeakMemory

    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with PeakMemory(process.pid) as memory:
        told, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - start, memory.peak, told


def ours(scene: Path, out: Path, *options: str) -> Outcome:
    """``tileseg run``."""
    command = [
        sys.executable, "-m", "tileseg", "run", str(scene), "--out", str(out), "--overwrite", "--json",
        "--gsd", "native", *options,
    ]  # fmt: skip
    wall, peak, told = timed(command)
    report = json.loads(told)
    return Outcome(wall, report["seconds"]["blocks: network"], peak, sum(report["polygons"].values()))


def theirs(scene: Path, weights: Path, out: Path, precision: str, batch: int) -> Outcome:
    """The peer."""
    script = str(ROOT / "benchmarks" / "monai_peer.py")
    options = ["--precision", precision, "--batch", str(batch), "--threads", str(os.cpu_count())]
    wall, peak, told = timed([sys.executable, script, str(scene), str(weights), str(out), *options])
    report = json.loads(told.strip().splitlines()[-1])
    return Outcome(wall, report["network"], peak, int(report["count"]))


def best_batch(work: Path, weights: Path, precision: str) -> int:
    """The peer's fastest windows per call, on a part of the scene."""
    scene = write(work / "part.tif", orthophoto(1920, 1920))
    seconds = {
        batch: min(theirs(scene, weights, work / "part", precision, batch).network for _ in range(2))
        for batch in (1, 2, 4, 8)
    }
    print(f"  {precision}: seconds by sw_batch_size {seconds}", file=sys.stderr)
    return min(seconds, key=lambda batch: seconds[batch])


def speed(work: Path, weights: Path, asked: argparse.Namespace) -> None:
    """Print the table of speed and memory."""
    repeat, batches = asked.repeat, dict(zip(("float32", "bfloat16"), asked.batch, strict=True))
    scene = write(work / "scene.tif", orthophoto(asked.rows, COLS))
    size = asked.rows * COLS / 1e6
    pairs = {pair: asked.best if pair == "default" else pair for pair in asked.pairs.split(",")}
    batch = {p: batches.get(p) or best_batch(work, weights, p) for p in dict.fromkeys(pairs.values())}
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for number in range(repeat):
        for precision, peers in pairs.items():
            options = ["--precision", "auto" if precision == "default" else precision]
            found["tileseg", precision].append(ours(scene, work / "ours", *options))
            found["MONAI", precision].append(theirs(scene, weights, work / "theirs", peers, batch[peers]))
            for who in ("tileseg", "MONAI"):
                print(
                    f"  round {number + 1}, {precision}, {who}: {found[who, precision][-1]}",
                    file=sys.stderr,
                    flush=True,
                )
    print(f"Scene {COLS}x{asked.rows} ({size:.1f} MPix), {repeat} rounds; sw_batch_size {batch}.\n")
    print("| | precision | whole command, MPix/s | network, MPix/s | peak memory, GiB | polygons |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (who, precision), outcomes in found.items():
        rates = [statistics.median(size / value for value in values) for values in (
            [o.wall for o in outcomes], [o.network for o in outcomes])]  # fmt: skip
        peak = max(o.peak for o in outcomes) / 2**30
        print(f"| {who} | {precision} | {rates[0]:.2f} | {rates[1]:.2f} | {peak:.2f} | {outcomes[0].polygons} |")
    print("\n| tileseg against MONAI | whole command | network | memory |")
    print("| --- | --- | --- | --- |")
    for precision in pairs:
        both = list(zip(found["tileseg", precision], found["MONAI", precision], strict=True))
        wall, network, peak = (
            [getattr(b, name) / getattr(a, name) for a, b in both] for name in ("wall", "network", "peak")
        )
        told = ", ".join(f"{r:.2f}" for r in wall)
        print(
            f"| {precision} | {statistics.median(wall):.2f} x ({told}) | {statistics.median(network):.2f} x "
            f"| 1/{statistics.median(peak):.2f} |"
        )


@dataclass(frozen=True)
class Seams:
    """How far a tiled result is from the network run once."""

    apart: float
    """Largest difference of a logit, in standard deviations of the logits."""
    labels: int
    polygons: int
    """Polygons that the whole scene's labels do not have."""


def polygons(labels: npt.NDArray[np.uint8]) -> Counter[tuple[int, bytes]]:
    """GDAL's polygons of a label raster."""
    import shapely
    from rasterio.features import shapes

    found = [(int(value), shapely.geometry.shape(geometry)) for geometry, value in shapes(labels)]
    return Counter((value, shapely.normalize(geometry).wkb) for value, geometry in found)


def compare(tiled: npt.NDArray[np.float32], whole: npt.NDArray[np.float32]) -> Seams:
    """Both (class, y, x)."""
    ours, reference = (logits.argmax(axis=0).astype(np.uint8) for logits in (tiled, whole))
    other = polygons(ours) - polygons(reference)
    apart = float(np.abs(tiled - whole).max()) / float(whole.std())
    return Seams(apart, int((ours != reference).sum()), sum(other.values()))


def seams_of_tileseg(work: Path) -> tuple[Seams, npt.NDArray[np.float32]]:
    """A serial run at its defaults in float32, against the oracle of the tests; and the network on unpadded pixels."""
    from exactness import compiled, scaled, unrounded
    from oracle import whole_scene_logits

    from tileseg import RunSpec, run
    from tileseg.card import Scaling
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.folder import resolve_model
    from tileseg.tta import views

    spec = RunSpec(scene=work / "seams.tif", out=work / "seams", precision="float32", workers=0, block=1024)
    pixels = np.moveaxis(orthophoto(*SEAM), 0, -1)
    model, card = load_bundle(resolve_model("embedded"))
    network, image = compiled(model, folded=True), scaled(pixels, card.scaling)
    whole = whole_scene_logits(network, card, Scaling(), image, views(spec.scales, spec.flips))
    with unrounded(whole.shape) as tiled:
        run(spec)
    plain = np.moveaxis(np.asarray(network(image[None]))[0], -1, 0)
    return compare(tiled, whole), plain


def seams_of_peer(work: Path, plain: npt.NDArray[np.float32]) -> tuple[Seams, float]:
    """The peer in float32 against its own network on the whole image; and how far that is from Keras's."""
    import torch
    from monai_peer import images, load, slide

    torch.set_num_threads(os.cpu_count() or 1)
    network, card = load(work / "weights.npz")
    image = images(orthophoto(*SEAM), card)
    with torch.inference_mode():
        whole = network(image.contiguous(memory_format=torch.channels_last))[0].numpy()
    tiled = slide(network, image, "float32", 1)[0].numpy()
    return compare(tiled, whole), float(np.abs(whole - plain).max()) / float(plain.std())


def seams(work: Path) -> None:
    """Print the table of seams. Each side is compared with its own network on the whole scene."""
    write(work / "seams.tif", orthophoto(*SEAM))
    a, plain = seams_of_tileseg(work)
    b, between = seams_of_peer(work, plain)
    pixels = SEAM[0] * SEAM[1]
    print(f"Scene {SEAM[1]}x{SEAM[0]} ({pixels / 1e6:.1f} MPix), float32; Keras and PyTorch on the whole scene are")
    print(f"{between:.1e} standard deviations apart at the most.\n")
    print("| | largest difference / std | labels that differ | polygons that differ |")
    print("| --- | --- | --- | --- |")
    for who, result in (("tileseg", a), ("MONAI", b)):
        share = f"{100 * result.labels / pixels:.3f} %"
        print(f"| {who} | {result.apart:.1e} | {result.labels} ({share}) | {result.polygons} |")
    if between > 1e-4:
        sys.exit("the peer's network is not the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("speed", "seams", "all"), default="all")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of `speed`")
    parser.add_argument("--pairs", default="default,bfloat16,float32", help="what `speed` compares")
    parser.add_argument("--best", default="bfloat16", help="the peer's best precision on this machine")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the scene")
    parser.add_argument(
        "--batch", type=int, nargs=2, default=(0, 0), metavar=("FLOAT32", "BFLOAT16"),
        help="the peer's windows per call; by default the fastest of 1, 2, 4 and 8",
    )  # fmt: skip
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory(prefix="tileseg-peer-") as folder:
        work = Path(folder)
        weights = work / "weights.npz"
        if options.what != "seams":
            # In a process of its own: TensorFlow would keep its memory while others are measured.
            code = f"import pathlib, peer; peer.export(pathlib.Path({str(weights)!r}))"
            subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", check=True)
            speed(work, weights, options)
            print()
        if options.what != "speed":
            export(weights)
            seams(work)


if __name__ == "__main__":
    main()
