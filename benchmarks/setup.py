"""What the benchmarks share: cheap networks, scenes made on the spot, runs as whole processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as Frame

from tileseg.card import ClassInfo, Scaling
from tileseg.cluster.hardware import PeakMemory

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def save_cheap(folder: Path, gain: float = 4.0, threshold: float = 0.4) -> Path:
    """A network of one 1x1 convolution: light where red + green + blue (0 to 1 each) is over a threshold."""
    from tileseg.nn.backend import keras
    from tileseg.nn.bundle import save_bundle
    from tileseg.nn.description import Description

    image = keras.Input((None, None, 3))
    head = keras.layers.Conv2D(2, 1, name="logits")
    model = keras.Model(image, head(image))
    head.set_weights([np.array([[[[0, gain]] * 3]], np.float32), np.array([0, -gain * threshold], np.float32)])
    classes = (ClassInfo(name="dark", color="#000000", background=True), ClassInfo(name="light", color="#ffcc00"))
    bands = ("red", "green", "blue")
    save_bundle(model, folder, Description(name="1x1", bands=bands, classes=classes, scaling=Scaling(divisor=255)))
    return folder


def deflated(source: Path, target: Path, repeat: tuple[int, int] = (1, 1)) -> Path:
    """A copy as deflate-compressed tiled GeoTIFF, the picture repeated (down, across), every other one mirrored."""
    with rasterio.open(source) as file:
        pixels, crs, transform = file.read(), file.crs, file.transform
    bands, height, width = pixels.shape
    with rasterio.open(
        target, "w", driver="GTiff", height=height * repeat[0], width=width * repeat[1], count=bands,
        dtype=pixels.dtype, crs=crs, transform=transform, tiled=True, blockxsize=512, blockysize=512,
        compress="deflate", zlevel=6, bigtiff="if_safer", num_threads=2, photometric="RGB", interleave="pixel",
    ) as out:  # fmt: skip
        for down in range(repeat[0]):
            for across in range(repeat[1]):
                turned = pixels[:, :: (-1 if down % 2 else 1), :: (-1 if across % 2 else 1)]
                out.write(turned, window=Frame(across * width, down * height, width, height))
    return target


@dataclass(frozen=True)
class Measured:
    """One whole process."""

    wall: float
    peak: int
    """Resident bytes over all its processes."""
    report: dict[str, Any]

    @property
    def start(self) -> float:
        """Seconds of starting processes, loading TensorFlow and the model: the same for every scene."""
        seconds = self.report["seconds"]
        return float(self.wall - self.report["wall_seconds"] + seconds["start"] + seconds.get("blocks: load", 0.0))


def tileseg_run(scene: Path, out: Path, *options: str) -> Measured:
    """``tileseg run`` as a process of its own."""
    command = [sys.executable, "-m", "tileseg", "run", str(scene), "--out", str(out), "--overwrite", "--json", *options]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with PeakMemory(process.pid, interval=0.05) as memory:
        printed, _ = process.communicate()
    wall = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return Measured(wall, memory.peak, json.loads(printed))
