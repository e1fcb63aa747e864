"""Draw a whole slide of any size, as a pyramidal TIFF that OpenSlide reads: glass, tissue, nuclei.

``python benchmarks/slide.py slide.tif --side 34000`` makes one of 1.16 gigapixels at 0.25 micrometres, in three sizes.
Nothing of it is held in memory but a tile.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

TILE = 512
MICRONS = 0.25
Pixels = npt.NDArray[np.uint8]


def texture(seed: int, side: int = 1024) -> npt.NDArray[np.float32]:
    """(y, x, 3) stained tissue that goes on at its edges: stroma with nuclei."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(side, side)).astype(np.float32)
    fibres = (
        ndimage.gaussian_filter(noise, (2, 14), mode="wrap") * 5 + ndimage.gaussian_filter(noise, 24, mode="wrap") * 40
    )
    nuclei = ndimage.gaussian_filter((rng.random((side, side)) < 0.0012).astype(np.float32), 7, mode="wrap") * 300
    strength = np.clip(nuclei - 0.35, 0, 1)[..., None]
    stroma = np.array([226, 160, 196], np.float32) + np.clip(fibres, -1.5, 1.5)[..., None] * np.array([8, 20, 12])
    return stroma * (1 - strength) + np.array([88, 56, 140], np.float32) * strength


def tissue(rows: int, cols: int, seed: int) -> npt.NDArray[np.float32]:
    """(rows, cols) how much of each tile's corner is tissue, from 0 to 1: some islands."""
    noise = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, max(rows, cols) / 14)
    return np.clip((smooth / smooth.std() - 0.4) * 6, 0, 1)


def draw(row: int, col: int, step: int, stain: npt.NDArray[np.float32], where: npt.NDArray[np.float32]) -> Pixels:
    """A tile of the level in which every ``step``-th pixel of the slide is kept."""
    ys, xs = (np.arange(TILE) + row * TILE) * step, (np.arange(TILE) + col * TILE) * step
    grid = np.meshgrid(ys / TILE, xs / TILE, indexing="ij")
    share = ndimage.map_coordinates(where, grid, order=1, mode="nearest")[..., None]
    glass = np.float32(242)
    pixels = stain[np.ix_(ys % len(stain), xs % len(stain))] * share + glass * (1 - share)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_slide(path: Path, side: int, seed: int = 14) -> None:
    """Write a slide that is ``side`` pixels wide and seven eighths as high, and its levels of 1/4 and 1/16."""
    size = side * 7 // 8, side
    stain = texture(seed)
    where = tissue(-(-size[0] // TILE) + 1, -(-size[1] // TILE) + 1, seed)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for step in (1, 4, 16):
            shape = size[0] // step, size[1] // step

            def tiles(step: int = step, shape: tuple[int, int] = shape) -> Iterator[Pixels]:
                for row in range(-(-shape[0] // TILE)):
                    for col in range(-(-shape[1] // TILE)):
                        yield draw(row, col, step, stain, where)

            file.write(
                tiles(), shape=(*shape, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", compression="jpeg",
                compressionargs={"level": 80}, subfiletype=int(step > 1), metadata=None,
                resolution=(1e4 / (MICRONS * step),) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--side", type=int, default=34_000)
    asked = parser.parse_args()
    write_slide(asked.path, asked.side)
