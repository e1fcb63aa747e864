"""Draw settlements with their buildings, for the dataset beside this file.

    python workflows/buildings/draw_scenes.py

Writes drawn/<number>_rgb.tif and <number>_buildings.tif (0 other, 1 building), 0.3 m per pixel. The same --scenes give
the same files. The seeds are not those of the sample rasters, which stay unseen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.crs import CRS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sample_rasters.generate import BUILDING, SEEDS, render

GSD = 0.3
SIZE = (768, 896)
"""Height, width: a street plan, light and palette of its own for each two thirds of a megapixel."""
FIRST_SEED = 1000


def write(path: Path, pixels: npt.NDArray[np.uint8], number: int) -> None:
    """Write (band, y, x) as a tiled GeoTIFF; scenes stand in a row, none over another."""
    profile = {
        "driver": "GTiff",
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": "uint8",
        "crs": CRS.from_epsg(32737),
        "transform": Affine(GSD, 0, 534210.0 + 300 * number, 0, -GSD, 9400000.0),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "predictor": 2,
        "interleave": "pixel",
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(pixels)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "drawn")
    parser.add_argument("--scenes", type=int, default=32)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for number in range(asked.scenes):
        seed = FIRST_SEED + number
        assert seed not in SEEDS.values()
        rgb, labels = render(*SIZE, seed, GSD)
        write(asked.out / f"{number:03}_rgb.tif", np.moveaxis(rgb, -1, 0), number)
        write(asked.out / f"{number:03}_buildings.tif", (labels == BUILDING).astype(np.uint8)[None], number)
    print(f"{asked.out}: {asked.scenes} scenes of {SIZE[1]} x {SIZE[0]} pixels")


if __name__ == "__main__":
    main()
