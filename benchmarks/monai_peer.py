"""What a practitioner writes with MONAI, PyTorch and rasterio to segment a scene: the other side of peer.py.

    python benchmarks/monai_peer.py SCENE WEIGHTS.npz OUT --precision bfloat16

The scene is read whole, the network slides over it (512 pixels, a quarter of overlap, Gaussian weights), and GDAL
polygonizes the labels. Needs the extra `bench` (torch, monai). Prints one line of JSON: seconds by stage.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

ROI, OVERLAP = 512, 0.25
ENCODER = (2, 2, 3, 3, 3)
"""Convolutions in VGG16's blocks."""


class Unet(nn.Module):
    """The VGG16-Unet with the bilinear decoder: (n, bands, y, x) -> logits (n, classes, y, x)."""

    def __init__(self, weights: dict[str, npt.NDArray[np.float32]]) -> None:
        """``weights``: those of Keras's layers as ``<layer>/kernel``, ``<layer>/bias``, ``<layer>_bn/gamma``, ..."""
        super().__init__()
        self.layers = nn.ModuleDict()
        for name in (key.removesuffix("/kernel") for key in weights if key.endswith("/kernel")):
            kernel = weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
            layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding=kernel.shape[2] // 2)
            layer.weight.data = torch.from_numpy(np.ascontiguousarray(kernel))
            layer.bias.data = torch.from_numpy(weights.get(f"{name}/bias", np.zeros(len(kernel), np.float32)))
            if f"{name}_bn/gamma" in weights:
                gamma, beta, mean, variance, epsilon = (
                    torch.from_numpy(weights[f"{name}_bn/{what}"])
                    for what in ("gamma", "beta", "moving_mean", "moving_variance", "epsilon")
                )
                norm = nn.BatchNorm2d(len(gamma), eps=float(epsilon))
                norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = gamma, beta, mean, variance
                layer = fuse_conv_bn_eval(layer.eval(), norm.eval())
            self.layers[name] = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        skips = []
        for block, convolutions in enumerate(ENCODER, start=1):
            if skips:
                x = functional.max_pool2d(x, 2)
            for conv in range(1, convolutions + 1):
                x = functional.relu(self.layers[f"block{block}_conv{conv}"](x), inplace=True)
            skips.append(x)
        for block in range(4, 0, -1):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = torch.cat([x, skips[block - 1]], dim=1)
            for conv in (1, 2):
                x = functional.relu(self.layers[f"decoder{block}_conv{conv}"](x), inplace=True)
        return self.layers["logits"](x)


def load(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network, ready to be run, and the facts of its card."""
    arrays = dict(np.load(path))
    card = json.loads(bytes(arrays.pop("card")))
    return Unet(arrays).eval().to(memory_format=torch.channels_last), card


def images(pixels: npt.NDArray[np.uint8], card: dict[str, Any]) -> torch.Tensor:
    """(band, y, x) pixels as the network wants them: (1, band, y, x)."""
    scaling = card["scaling"]
    mean, std = (torch.tensor(scaling[name], dtype=torch.float32).view(1, -1, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(pixels)[None].float().div_(scaling["divisor"]).sub_(mean)).div_(std)


def slide(network: nn.Module, image: torch.Tensor, precision: str, batch: int) -> torch.Tensor:
    """Logits (1, classes, y, x) of the whole image."""
    from monai.inferers import sliding_window_inference

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return network(tiles).float()

    with torch.inference_mode():
        return sliding_window_inference(image, (ROI, ROI), batch, predict, overlap=OVERLAP, mode="gaussian")


def segment(scene: Path, weights: Path, out: Path, precision: str, batch: int) -> dict[str, float]:
    """Labels and polygons of a scene; seconds by stage."""
    import geopandas
    import rasterio
    from rasterio.features import shapes

    clock = {}
    start = time.perf_counter()
    network, card = load(weights)
    with rasterio.open(scene) as file:
        pixels, profile = file.read((1, 2, 3)), file.profile
    clock["read"] = time.perf_counter() - start
    start = time.perf_counter()
    image = images(pixels, card)
    del pixels
    labels = slide(network, image, precision, batch)[0].argmax(dim=0).to(torch.uint8).numpy()
    clock["network"] = time.perf_counter() - start
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    kept = {name: profile[name] for name in ("height", "width", "crs", "transform")}
    with rasterio.open(
        out / "labels.tif", "w", driver="GTiff", count=1, dtype="uint8", compress="deflate", tiled=True, **kept
    ) as file:
        file.write(labels, 1)
    names = [info["name"] for info in card["classes"]]
    wanted = np.isin(labels, [i for i, info in enumerate(card["classes"]) if not info["background"]])
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {"class": int(value), "class_name": names[int(value)]}}
        for geometry, value in shapes(labels, mask=wanted, transform=profile["transform"])
    ]
    frame = geopandas.GeoDataFrame.from_features(features, crs=profile["crs"])
    frame.to_crs(4326).to_file(out / "polygons.geojson", driver="GeoJSON")
    clock["polygons"] = time.perf_counter() - start
    return {**clock, "count": len(frame)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=1, help="windows per call (sw_batch_size)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(segment(options.scene, options.weights, options.out, options.precision, options.batch)))


if __name__ == "__main__":
    main()
