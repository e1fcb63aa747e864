"""Networks that are not ours, exported with random weights: what is derived of them, against what is true.

    pip install -r benchmarks/foreign.txt           # in an environment of its own: it is large
    python benchmarks/foreign.py                    # all
    python benchmarks/foreign.py --only resnet34,FPN

For each: whether its card says local, and whether it is (the gradient of single logits in float64 by PyTorch or
TensorFlow, on strips along both axes: how far from the logit pixels matter); the radius in the card against the
farthest pixel that matters; and whether tiles equal the whole in a run at scale 1 and at scales 1/2, 1 and 3/2, as
`tileseg.engine.proof` and `tileseg run` compute them. Prints a Markdown row each.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

CLASSES = 3
FAR = 1.6
"""Strips are this many times as long as the network's stated radius would need, and at least 2048 pixels."""


class Subject(Protocol):
    """A network of another project."""

    suffix: str
    """Of the file that it is handed over as."""

    def write(self, file: Path) -> None:
        """Export it as docs/models.md says."""
        ...

    def gradient(self, shape: tuple[int, int], axis: int, place: int, seed: int) -> npt.NDArray[np.float64]:
        """How much pixels matter to the logits at one row or column, in float64: the largest along that axis (1 or 2).

        ``shape``: rows and columns of a random image.
        """
        ...


def subjects() -> dict[str, Callable[[], Subject]]:
    """Name -> a function that builds it."""
    import segmentation_models_pytorch as smp
    import torchvision

    def of(kind: Callable[..., torch.nn.Module], encoder: str) -> Callable[[], Subject]:
        return lambda: TorchSubject(kind(encoder, encoder_weights=None, classes=CLASSES))

    fcn = torchvision.models.segmentation.fcn_resnet50
    return {
        "smp Unet, resnet34": of(smp.Unet, "resnet34"),
        "smp Unet, vgg16_bn": of(smp.Unet, "vgg16_bn"),
        "smp Unet, mobilenet_v2": of(smp.Unet, "mobilenet_v2"),
        "smp Unet, efficientnet-b0": of(smp.Unet, "efficientnet-b0"),
        "smp UnetPlusPlus, resnet18": of(smp.UnetPlusPlus, "resnet18"),
        "smp FPN, resnet34": of(smp.FPN, "resnet34"),
        "smp DeepLabV3Plus, resnet18": of(smp.DeepLabV3Plus, "resnet18"),
        "smp PSPNet, resnet18": of(smp.PSPNet, "resnet18"),
        "smp Segformer, mit_b0": of(smp.Segformer, "mit_b0"),
        "smp Unet, HRNet w18 (timm)": of(smp.Unet, "tu-hrnet_w18"),
        "torchvision FCN, resnet50": lambda: TorchSubject(
            _Only(fcn(weights=None, weights_backbone=None, num_classes=CLASSES))
        ),
        "ViT encoder, convolutional decoder": lambda: TorchSubject(_Vit()),
        "keras-hub DeepLabV3+, ResNet": HubSubject,
    }


class TorchSubject:
    """A PyTorch network, handed over as ONNX."""

    suffix = ".onnx"

    def __init__(self, network: torch.nn.Module) -> None:
        """Statistics of normalisation become as after training, not 0 and 1, so that no signal dies on its way."""
        self._network = network.eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)

    def write(self, file: Path) -> None:
        """Export it as docs/models.md says."""
        sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        torch.onnx.export(
            self._network.float(), (torch.zeros(1, 3, 256, 320),), file, input_names=["image"], output_names=["map"],
            dynamic_shapes=(sides,), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip

    def gradient(self, shape: tuple[int, int], axis: int, place: int, seed: int) -> npt.NDArray[np.float64]:
        """By PyTorch."""
        noise = torch.Generator().manual_seed(seed)
        image = torch.randn((1, 3, *shape), dtype=torch.float64, generator=noise, requires_grad=True)
        logits = self._network.double()(image).select(1 + axis, place)
        (found,) = torch.autograd.grad(logits.sum(), image)
        return found.abs().amax((0, 1, 4 - axis)).numpy()


class HubSubject:
    """DeepLabV3+ of keras-hub with a narrow ResNet, handed over as a Keras archive."""

    suffix = ".keras"

    def _built(self, dtype: str) -> Callable[..., object]:
        import keras
        import keras_hub

        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        encoder = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 64, 128, 128],
            stackwise_num_blocks=[1, 1, 1, 1], stackwise_num_strides=[1, 2, 2, 2], block_type="basic_block",
            image_shape=(None, None, 3),
        )  # fmt: skip
        backbone = keras_hub.models.DeepLabV3Backbone(
            image_encoder=encoder, projection_filters=16, low_level_feature_key="P2",
            spatial_pyramid_pooling_key="P5", upsampling_size=8, dilation_rates=[6, 12, 18],
            image_shape=(None, None, 3),
        )  # fmt: skip
        made = keras_hub.models.DeepLabV3ImageSegmenter(
            backbone=backbone, num_classes=CLASSES, activation=None, preprocessor=None
        )
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        return made

    def write(self, file: Path) -> None:
        """As Keras saves it."""
        self._built("float32").save(file)

    def gradient(self, shape: tuple[int, int], axis: int, place: int, seed: int) -> npt.NDArray[np.float64]:
        """By TensorFlow."""
        import tensorflow as tf

        image = tf.constant(np.random.default_rng(seed).normal(size=(1, *shape, 3)))
        model = self._built("float64")
        with tf.GradientTape() as tape:
            tape.watch(image)
            logits = tf.reduce_sum(tf.gather(model(image, training=False), place, axis=axis))
        assert logits.dtype == tf.float64
        found = np.abs(tape.gradient(logits, image).numpy())
        return found.max((0, 3 - axis, 3))


class _Only(torch.nn.Module):
    """The map of a network that gives several things."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)["out"]


class _Vit(torch.nn.Module):
    """As in TransUNet: convolutions, attention over all positions of their map, convolutions again."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        nn = torch.nn
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(width, width, 4, 4),
        )  # fmt: skip
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, dropout=0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, 4), nn.ReLU(), nn.ConvTranspose2d(width, CLASSES, 4, 4)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.down(image)
        n, c, rows, cols = x.shape
        x = self.encoder(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, rows, cols)
        return self.up(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of names, with commas")
    wanted = [part for part in parser.parse_args().only.split(",") if part]
    warnings.simplefilter("ignore")
    print("| network | stride | local: card, truth | radius: card, farthest pixel | tiles = whole | at 1/2, 1, 3/2 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, build in subjects().items():
        if not wanted or any(part in name for part in wanted):
            try:
                print(row(name, build), flush=True)
            except Exception as error:  # noqa: BLE001 - a row of its own, and the next network
                print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0]} |", flush=True)


def row(name: str, build: Callable[[], Subject]) -> str:
    """Export one network, pack it, and compare."""
    from tileseg.card import ClassInfo, Scaling
    from tileseg.engine.proof import Provable, prove
    from tileseg.engine.registry import open_network
    from tileseg.nn.description import Description
    from tileseg.nn.packing import pack

    torch.manual_seed(0)
    network = build()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"network{network.suffix}"
        network.write(file)
        described = Description(
            name="net", bands=("red", "green", "blue"), scaling=Scaling(divisor=255, mean=(0.45,), std=(0.25,)),
            classes=tuple(ClassInfo(name=f"c{i}", color="#d9544d") for i in range(CLASSES)),
        )  # fmt: skip
        card = pack(file, Path(folder) / "model", described)
        reach, bounded = influence(network, card.stride, card.radius if card.local else 0)
        proved, scales = "blended", "blended"
        if card.local:
            opened = open_network(Path(folder) / "model", card, 2, engine="onnx")
            assert isinstance(opened, Provable)
            proof = prove(opened)
            proved = f"{'yes' if proof.holds else 'NO'} ({max(proof.relative, proof.far):.0e})"
            scales = at_scales(Path(folder))
        blamed = "" if card.local else f" ({card.nonlocal_layers[0].rpartition('(')[2].rstrip(')')})"
        said = ("yes" if card.local else "no") + blamed
        radius = f"{card.radius if card.local else '-'}, {reach if bounded else 'all'}"
        return f"| {name} | {card.stride} | {said}, {'yes' if bounded else 'no'} | {radius} | {proved} | {scales} |"


def influence(network: Subject, stride: int, radius: int) -> tuple[int, bool]:
    """How far the farthest pixel that matters to a logit is from it; and whether there is such a distance.

    Logits at both ends of a stride, on strips along both axes whose other side is two strides. Some networks insist on
    multiples of 32, whatever their graphs say.
    """
    stride = math.lcm(stride, 32)
    long = max(2048, int(FAR * 2 * radius)) // stride * stride
    farthest, bounded = 0, True
    for axis in (1, 2):
        for phase in sorted({0, stride - 1}):
            place = long // 2 // stride * stride + phase
            shape = (long, 2 * stride) if axis == 1 else (2 * stride, long)
            touched = np.flatnonzero(network.gradient(shape, axis, place, phase))
            farthest = max(farthest, place - int(touched[0]), int(touched[-1]) - place)
            bounded = bounded and touched[0] > 0 and touched[-1] < long - 1
    return farthest, bounded


def at_scales(folder: Path) -> str:
    """Whether a run in small blocks gives the logits of a run in one window."""
    import rasterio

    from tileseg import RunSpec, run
    from tileseg.mosaic import Mosaic
    from tileseg.window import Window

    rng = np.random.default_rng(0)
    rows, cols = 224, 352
    scene = folder / "scene.tif"
    with rasterio.open(scene, "w", driver="GTiff", height=rows, width=cols, count=3, dtype="uint8") as target:
        target.write(rng.integers(0, 256, (3, rows, cols), np.uint8))
    found = []
    for name, block in (("tiles", 96), ("whole", 512)):
        scales = (Fraction(1, 2), Fraction(1), Fraction(3, 2))
        run(
            RunSpec(
                scene=scene, model=str(folder / "model"), out=folder / name, workers=0, block=block, scales=scales,
                engine="onnx",
            )
        )  # fmt: skip
        found.append(Mosaic(folder / name / "mosaic.zarr").read_logits(Window(0, 0, rows, cols)).astype(np.float32))
    largest = float(np.abs(found[0] - found[1]).max() / found[1].std())
    labels = int((found[0].argmax(0) != found[1].argmax(0)).sum())
    return f"{labels} labels, {largest:.0e}"


if __name__ == "__main__":
    main()
