"""Small stand-ins: networks that are quick, scenes that are made on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.transform import from_origin

from tileseg.card import ClassInfo, ModelCard, Scaling
from tileseg.errors import UsageError
from tileseg.grid import Grid
from tileseg.source.protocol import Mask, Pixels
from tileseg.window import Window

if TYPE_CHECKING:
    from tileseg.nn.description import Description

CLASSES = (
    ClassInfo(name="ground", color="#c8b48c", background=True),
    ClassInfo(name="roof", color="#d73027"),
    ClassInfo(name="water", color="#4575b4"),
)


def save_tiny(folder: Path, *, bands: int = 3, seed: int = 3) -> ModelCard:
    """A two-level U-Net (stride 4) with random weights in Keras: everything a large one has, in milliseconds.

    Where the engine is beside the point take :func:`save_tiny_onnx`: processes that load TensorFlow take long to start.
    """
    from tileseg.nn.backend import keras
    from tileseg.nn.bundle import save_bundle

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    image = keras.Input((None, None, bands))
    skips, x = [], image
    for level, width in enumerate((6, 8)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"down{level}")(x)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{level}")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottom")(x)
    for level in (1, 0):
        x = layers.UpSampling2D(interpolation="bilinear", name=f"up{level}")(x)
        x = layers.Concatenate(name=f"join{level}")([x, skips[level]])
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"after{level}")(x)
    logits = layers.Conv2D(len(CLASSES), 1, name="logits")(x)
    return save_bundle(keras.Model(image, logits), folder, _described(bands))


def save_tiny_onnx(folder: Path, *, bands: int = 3, seed: int = 15) -> ModelCard:
    """As :func:`save_tiny`, in ONNX; of the weights of seed 15 every class has a share of noise."""
    import tempfile

    from nets import Net

    from tileseg.nn.packing import pack

    net = Net(bands, seed=seed)

    def conv(x: str, given: int, made: int, size: int = 3) -> str:
        # Without biases no class is everywhere.
        return net("Conv", x, net.random(made, given, size, size) * np.float32(1.4), pads=[size // 2] * 4)

    skips, x, given = [], "image", bands
    for width in (6, 8):
        x = net("Relu", conv(x, given, width))
        skips.append((x, width))
        x, given = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), width
    x = net("Relu", conv(x, given, 8))
    for skip, width in reversed(skips):
        x = net("Relu", conv(net("Concat", net.up(x), skip, axis=1), 8 + width, 8))
    with tempfile.TemporaryDirectory() as drawn:
        return pack(net.save(Path(drawn) / "tiny.onnx", conv(x, 8, len(CLASSES), 1)), folder, _described(bands))


def _described(bands: int) -> Description:
    from tileseg.nn.description import Description

    return Description(
        name="tiny",
        bands=("red", "green", "blue", "nir")[:bands],
        classes=CLASSES,
        scaling=Scaling(divisor=255, mean=(0.4,), std=(0.2,)),
    )


def smooth_noise(height: int, width: int, bands: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(y, x, band) pixels of 1 to 255 with structure at several sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, bands))
    for cell in (2, 8, 32):
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2, bands))
        total += np.repeat(np.repeat(coarse, cell, 0), cell, 1)[:height, :width]
    return np.clip(total * 28 + 110, 1, 255).astype(np.uint8)


def write_scene(
    path: Path,
    pixels: npt.NDArray[np.generic],
    *,
    crs: str | None = "EPSG:32637",
    nodata: float | None = None,
) -> Path:
    """Write (y, x, band) pixels as a tiled GeoTIFF."""
    height, width, bands = pixels.shape
    placed = {"crs": crs, "transform": from_origin(500_000, 4_000_000, 0.5, 0.5)} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=pixels.dtype,
        nodata=nodata, tiled=True, blockxsize=128, blockysize=128, compress="deflate", **placed,
    ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, -1, 0))
    return path


@dataclass(frozen=True)
class FakeSource:
    """A :class:`tileseg.source.protocol.PixelSource` without files and without GDAL: (y, x, band) pixels in memory."""

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    path: str = "fake"
    transform: Affine = field(default_factory=Affine.identity)
    crs_wkt: str | None = None
    palette: bool = False
    notes: tuple[str, ...] = ()

    @property
    def storage(self) -> str:
        return self.path

    @property
    def grid(self) -> Grid:
        return Grid(*self.pixels.shape[:2], self.transform, self.crs_wkt)

    @property
    def bands(self) -> tuple[int, ...]:
        return tuple(range(1, self.pixels.shape[2] + 1))

    @property
    def dtype(self) -> str:
        return self.pixels.dtype.name

    @property
    def has_gaps(self) -> bool:
        return self.valid is not None

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def read(self, window: Window, fill: Sequence[float] | None = None) -> tuple[Pixels, Mask]:
        if self.grid.extent.intersection(window) != window:
            raise UsageError(f"{window} is not inside the scene")
        pixels = np.ascontiguousarray(self.pixels[window.slices])
        valid = np.ones(pixels.shape[:2], bool) if self.valid is None else self.valid[window.slices].copy()
        if fill is not None:
            pixels[~valid] = np.asarray(fill, pixels.dtype)
        return pixels, valid

    def read_thinned(self, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Mask]:
        pixels, valid = self.read(window)
        rows, cols = (np.arange(n) * size // n for n, size in zip(shape, pixels.shape[:2], strict=True))
        return pixels[rows][:, cols], valid[rows][:, cols]
