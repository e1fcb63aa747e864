"""The embedded network as an ONNX graph: whether ONNX Runtime's run gives the labels of Keras's.

    pip install 'tileseg[export]'
    python benchmarks/onnx_labels.py                   # sample_rasters/settlement.tif
    python benchmarks/onnx_labels.py --scene my.tif

The graph is exported for images of any size, normalisation folded in and channels last; both models segment the scene
in float32. Prints one Markdown row: labels that differ, the largest difference of a logit in deviations, and what the
graph was found to be.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, default=ROOT / "sample_rasters" / "settlement.tif")
    scene = parser.parse_args().scene
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder / "embedded.onnx")
        for model, out in (("embedded", "keras"), (str(folder / "model"), "onnx")):
            arguments = ["run", str(scene), "--model", model, "--precision", "float32", "--out", str(folder / out)]
            subprocess.run(
                [sys.executable, "-m", "tileseg", *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
            )
        compare(folder, scene)


def export(path: Path) -> None:
    """The embedded model exported and packed with what its card says."""
    from dataclasses import fields

    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.description import Description
    from tileseg.nn.folder import resolve_model
    from tileseg.nn.keras_export import export_onnx
    from tileseg.nn.packing import pack

    model, card = load_bundle(resolve_model("embedded"))
    export_onnx(model, path)
    pack(path, path.parent / "model", Description(**{f.name: getattr(card, f.name) for f in fields(Description)}))


def compare(folder: Path, scene: Path) -> None:
    """Print the row."""
    from tileseg.mosaic import Mosaic
    from tileseg.nn.folder import load_card
    from tileseg.window import Window

    with rasterio.open(folder / "keras" / "labels.tif") as labels:
        window = Window(0, 0, labels.height, labels.width)
    keras, onnx = (
        Mosaic(folder / name / "mosaic.zarr").read_logits(window).astype(np.float32) for name in ("keras", "onnx")
    )
    differ = int((keras.argmax(0) != onnx.argmax(0)).sum())
    card = load_card(folder / "model")
    print("| scene | labels that differ | largest difference of a logit (float16) | stride | radius |")
    print("| --- | --- | --- | --- | --- |")
    largest = float(np.nanmax(np.abs(keras - onnx)) / np.nanstd(keras))
    print(f"| {scene.name} | {differ} of {keras[0].size:,} | {largest:.1e} | {card.stride} | {card.radius} |")


if __name__ == "__main__":
    main()
