"""Small images, labels and polygons for tests of datasets: non-square, and different in every pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

UTM = "EPSG:32737"
NORTH_UP = Affine(0.5, 0, 534_000, 0, -0.5, 9_318_000)
CLASSES = """
[[classes]]
name = "ground"
color = "#c8b99a"
background = true
[[classes]]
name = "building"
color = "#d9544d"
[[classes]]
name = "water"
color = "#3f7fbf"
"""


def write(path: Path, pixels: npt.NDArray[Any], **options: Any) -> Path:
    """Pixels (y, x) or (y, x, band) as a raster of the kind that the suffix says; a GeoTIFF is georeferenced."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    driver = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    place = {"crs": UTM, "transform": NORTH_UP} if driver == "GTiff" else {}
    profile = {"driver": driver, "dtype": pixels.dtype.name, **place, **options}
    palette, mask = profile.pop("palette", None), profile.pop("mask", None)
    height, width, bands = pixels.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", height=height, width=width, count=bands, **profile) as raster,
    ):
        raster.write(np.moveaxis(pixels, -1, 0))
        if palette is not None:
            raster.write_colormap(1, palette)
        if mask is not None:
            raster.write_mask(mask)
    return path


def noise(height: int, width: int, bands: int = 3, dtype: str = "uint8", seed: int = 0) -> npt.NDArray[Any]:
    """(y, x, band) pixels of 1 to 249."""
    return np.random.default_rng(seed).integers(1, 250, (height, width, bands)).astype(dtype)


def patchy(height: int, width: int, classes: int = 3, cell: int = 7, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(y, x) labels in patches of about ``cell`` pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (height // cell + 1, width // cell + 1))
    return np.repeat(np.repeat(coarse, cell, 0), cell, 1)[:height, :width].astype(np.uint8)


def polygons(path: Path, shapes: list[tuple[list[tuple[float, float]], dict[str, Any]]], crs: str | None = UTM) -> Path:
    """Rings (x, y) with properties as GeoJSON."""
    features = [
        {
            "type": "Feature",
            "properties": properties,
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        }
        for ring, properties in shapes
    ]
    text: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is not None:
        text["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path.write_text(json.dumps(text))
    return path


def box(left: float, top: float, width: float, height: float) -> list[tuple[float, float]]:
    """A rectangle given in pixels of NORTH_UP, as a ring of coordinates."""
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return [NORTH_UP @ corner for corner in corners]


def dataset(folder: Path, text: str, classes: str = CLASSES) -> Path:
    """Write ``dataset.toml``; ``text`` comes first, so that it may begin with keys of the whole."""
    head, bracket, rest = text.partition("[[")
    path = folder / "dataset.toml"
    path.write_text(f"{head}\n{classes}\n{bracket}{rest}\n")
    return path
