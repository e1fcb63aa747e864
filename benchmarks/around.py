"""Speed of everything around the network: a 1x1 convolution from deflate GeoTIFFs to logits, labels, COG, polygons.

    python benchmarks/around.py

Two natural scenes: NASA's Black Marble (smooth, 67 MPix) and a drone mosaic of Zanzibar at 7 cm (34 MPix; a
threshold on its brightness is far noisier than a segmentation). Steady state leaves out what starting takes: Python,
TensorFlow, the model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from setup import DATA, deflated, save_cheap, tileseg_run

SCENES = {
    "Black Marble": ("throughput/nasa_black_marble_8192x8192.tif", 0.4),
    "Zanzibar": ("buildings/zanzibar_0_rgb.tif", 2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3, help="runs of each; the median counts")
    options = parser.parse_args()
    print(
        "| scene | MPix | polygons | whole command | steady state | read | network | labels | trace | write | finish |"
    )
    print("| --- |" + " --- |" * 10)
    with tempfile.TemporaryDirectory(prefix="tileseg-around-") as folder:
        work = Path(folder)
        for name, (path, threshold) in SCENES.items():
            scene = deflated(DATA / path, work / "scene.tif")
            model = save_cheap(work / name, threshold=threshold)
            runs = [tileseg_run(scene, work / "out", "--model", str(model)) for _ in range(options.n)]
            report = min(runs, key=lambda run: run.wall).report
            mpix = sum(report["pixels"].values()) / 1e6
            spent = report["seconds"]
            stages = [spent[f"blocks: {stage}"] for stage in ("read", "network", "labels", "polygons", "write")]
            print(
                f"| {name} | {mpix:.0f} | {sum(report['polygons'].values())} "
                f"| {mpix / statistics.median(r.wall for r in runs):.1f} MPix/s "
                f"| {mpix / statistics.median(r.wall - r.start for r in runs):.1f} MPix/s | "
                + " | ".join(f"{s:.2f} s" for s in (*stages, spent["finish"]))
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
