"""Scenes with houses in them, drawn on the spot, as a dataset to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from fakes import smooth_noise, write_scene
from rasterio.transform import from_origin

Image = npt.NDArray[np.uint8]

DATASET = """
bands = ["red", "green", "blue"]
credits = ["drawn by tests/drawn.py"]
classes = [
  {{ name = "ground", color = "#c8b48c", background = true }},
  {{ name = "house", color = "#d73027" }},
]
[[folders]]
images = "image_*.tif"
labels = "label_*.tif"
validate = {validate}
"""


def draw(height: int, width: int, seed: int) -> tuple[Image, Image]:
    """Pixels (y, x, 3) and labels (y, x): turned rectangles of other colours than the uneven ground, which are 1."""
    rng = np.random.default_rng(seed)
    pixels = smooth_noise(height, width, 3, seed).astype(np.float64) * 0.5 + (40, 60, 30)
    labels = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    for _ in range(height * width // 1800):
        row, col, turn = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        along = (x - col) * np.cos(turn) + (y - row) * np.sin(turn)
        across = (y - row) * np.cos(turn) - (x - col) * np.sin(turn)
        inside = (np.abs(along) < rng.uniform(7, 14)) & (np.abs(across) < rng.uniform(5, 9))
        pixels[inside] = np.array((190, 90, 80)) * rng.uniform(0.8, 1.2) + rng.normal(0, 8, (int(inside.sum()), 3))
        labels[inside] = 1
    return np.clip(pixels, 1, 255).astype(np.uint8), labels


def write_pair(folder: Path, name: str, height: int, width: int, seed: int) -> tuple[Path, Image]:
    """Write ``image_NAME.tif`` and ``label_NAME.tif``; the image's path and the labels."""
    pixels, labels = draw(height, width, seed)
    image = write_scene(folder / f"image_{name}.tif", pixels)
    with rasterio.open(
        folder / f"label_{name}.tif", "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8",
        crs="EPSG:32637", transform=from_origin(500_000, 4_000_000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(labels, 1)
    return image, labels


def write_dataset(folder: Path, *, train: int = 2, validate: int = 1, height: int = 150, width: int = 190) -> Path:
    """A dataset of small scenes; its TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"t{i}" for i in range(train)] + [f"v{i}" for i in range(validate)]
    for seed, name in enumerate(names):
        write_pair(folder, name, height, width, seed)
    path = folder / "dataset.toml"
    path.write_text(DATASET.format(validate=names[train:]))
    return path
