"""U-Nets as one functional Keras graph: an encoder of five blocks, a decoder of four stages, logits out.

The decoder is that of U-Net (Ronneberger et al., 2015, arXiv:1505.04597) with padded convolutions. Layers are named
``block1_...`` to ``block5_...`` (encoder, finest first), ``decoder4_...`` to ``decoder1_...`` and ``logits``.
"""

from __future__ import annotations

import math
from typing import Any

from tileseg.errors import UsageError
from tileseg.nn.backend import keras
from tileseg.nn.options import Encoder, NetworkSpec

layers = keras.layers

_MOMENTUM = 0.9
"""How slowly batch normalisation's means follow. Keras's own 0.99 trails a hundred steps behind."""

ENCODERS: dict[Encoder, tuple[tuple[int, int], ...]] = {
    "vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "unet": ((64, 2), (128, 2), (256, 2), (512, 2), (1024, 2)),
    "mobile": ((16, 1), (32, 2), (64, 2), (128, 2), (256, 4)),
}
"""(filters, convolutions) of each block.

vgg16: Simonyan and Zisserman, 2015 (arXiv:1409.1556), configuration D, to conv5_3 and with Keras's layer names.
unet: Ronneberger et al., 2015. mobile: the blocks of MobileNet (Howard et al., 2017, arXiv:1704.04861), thinner, and
starting at full resolution, so that outlines stay sharp.
"""


BLOCKS = tuple(f"block{i}" for i in range(1, 6))
"""What the names of an encoder's layers begin with, finest first."""


def build_network(spec: NetworkSpec, bands: int, classes: int, *, name: str | None = None) -> keras.Model:
    """Build a network: (n, rows, columns, ``bands``) -> float32 logits (n, rows, columns, ``classes``).

    Rows and columns must be multiples of 16 (8 where ``spec.dilated``).

    Args:
        spec: What it is made of.
        bands: Channels of the input.
        classes: Channels of the output.
        name: Of the model; default: that of its encoder.

    Raises:
        UsageError: If there is no band or class.
    """
    if bands < 1 or classes < 1:
        raise UsageError(f"a network with {bands} bands and {classes} classes cannot be built: expected one at least")
    filters = [_scaled(count, spec.width) for count, _ in ENCODERS[spec.encoder]]
    image = keras.Input((None, None, bands), name="image")
    *skips, x = _encode(image, filters, spec)
    x = _drop(x, "block5_dropout", spec)
    for stage in range(len(skips), 0, -1):
        count, _ = ENCODERS[spec.encoder][stage - 1]
        x = _decode(x, skips[stage - 1], stage, _scaled(count, spec.width * spec.decoder_width), spec)
    x = _drop(x, "logits_dropout", spec)
    logits = layers.Conv2D(classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name=name or ("unet" if spec.encoder == "unet" else f"{spec.encoder}_unet"))


def training_model(model: keras.Model) -> keras.Model:
    """A network of :func:`build_network` with deep supervision (Lee et al., 2015, arXiv:1409.5185).

    It shares its layers with ``model``, and has besides a 1x1 convolution ``auxiliary2`` to ``auxiliary4`` for each
    coarser decoder stage. Train and checkpoint this one; save ``model``.

    Returns:
        A model with four outputs, all float32 logits of full size (n, rows, columns, classes): ``model``'s own, then
        those of the stages at a half, a quarter and an eighth of the resolution, enlarged by interpolation.
    """
    logits = model.outputs[0]
    outputs = [logits]
    for stage in range(2, 5):
        coarse = model.get_layer(f"decoder{stage - 1}_up").input
        x = layers.Conv2D(logits.shape[-1], 1, dtype="float32", name=f"auxiliary{stage}")(coarse)
        enlarged = layers.UpSampling2D(
            2 ** (stage - 1), interpolation="bilinear", dtype="float32", name=f"auxiliary{stage}_up"
        )
        outputs.append(enlarged(x))
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_training")


def output_weights(outputs: int) -> tuple[float, ...]:
    """Weights of the losses of a training model's outputs: each coarser one counts half, and all sum to 1.

    As in nnU-Net (Isensee et al., 2021, Nature Methods 18).
    """
    total = sum(0.5**i for i in range(outputs))
    return tuple(0.5**i / total for i in range(outputs))


def part_of(layer: str) -> str:
    """The part of the network that a layer of this name belongs to: ``block1`` to ``block5``, or ``decoder``."""
    first = layer.partition("_")[0]
    return first if first.startswith("block") else "decoder"


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _encode(x: Any, filters: list[int], spec: NetworkSpec) -> list[Any]:
    """The maps that the blocks give, finest first."""
    mobile = spec.encoder == "mobile"
    maps: list[Any] = []
    for block, (_, convolutions) in enumerate(ENCODERS[spec.encoder], start=1):
        # Dilation in place of the last halving, as in DeepLab (Chen et al., 2018, arXiv:1606.00915).
        holes = 2 if spec.dilated and block == len(filters) else 1
        halve = block > 1 and holes == 1
        if halve and not mobile:
            x = layers.MaxPooling2D(2, name=f"block{block - 1}_pool")(x)
        for conv in range(1, convolutions + 1):
            name = f"block{block}_conv{conv}"
            if mobile and block > 1:
                x = _mobile(x, filters[block - 1], name, spec, strides=2 if halve and conv == 1 else 1, holes=holes)
            else:
                # The first layer mixes the bands: there is nothing to separate in three of them.
                whole = block == conv == 1
                x = _convolve(x, filters[block - 1], name, spec, separable=spec.separable and not whole, holes=holes)
        maps.append(x)
    return maps


def _decode(x: Any, skip: Any, stage: int, filters: int, spec: NetworkSpec) -> Any:
    """One stage: enlarge, join the encoder's map of that size, convolve to so many ``filters``."""
    name = f"decoder{stage}"
    enlarge = not (spec.dilated and stage == 4)
    if spec.squeeze_excite:
        skip = _squeeze_excite(skip, name)
    if spec.attention:
        skip = _attend(skip, x, max(1, filters // 2), name, 2 if enlarge else 1)
    if enlarge and spec.decoder == "bilinear":
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(x)
    elif enlarge:
        x = layers.Conv2DTranspose(filters, 2, strides=2, use_bias=False, name=f"{name}_up")(x)
        x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_up_bn")(x)
        x = layers.Activation("relu", name=f"{name}_up_relu")(x)
    if spec.align_skips:
        aligned = skip.shape[-1] if spec.align_skips is True else _scaled(spec.align_skips, spec.width)
        skip = layers.Conv2D(aligned, 1, activation="relu", name=f"{name}_align")(skip)
    x = layers.Concatenate(name=f"{name}_concat")([x, skip])
    for conv in range(1, spec.decoder_convs + 1):
        separable = spec.separable or spec.encoder == "mobile"
        x = _convolve(x, filters, f"{name}_conv{conv}", spec, separable=separable)
    return x


def _convolve(x: Any, filters: int, name: str, spec: NetworkSpec, *, separable: bool, holes: int = 1) -> Any:
    """A padded 3x3 convolution and ReLU, started so that signals keep their size through all of them (He, 2015)."""
    activation = None if spec.batch_norm else "relu"
    if separable:
        x = layers.SeparableConv2D(
            filters, 3, padding="same", dilation_rate=holes, activation=activation,
            depthwise_initializer=_each_channel(1), pointwise_initializer="he_normal", name=name,
        )(x)  # fmt: skip
    else:
        x = layers.Conv2D(
            filters, 3, padding="same", dilation_rate=holes, activation=activation,
            kernel_initializer="he_normal", name=name,
        )(x)  # fmt: skip
    return _normalise(x, name) if spec.batch_norm else x


def _mobile(x: Any, filters: int, name: str, spec: NetworkSpec, *, strides: int, holes: int) -> Any:
    """A block of MobileNet: a 3x3 convolution of each channel alone, then a 1x1 of all, each with its ReLU."""
    activation = None if spec.batch_norm else "relu"
    x = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", dilation_rate=holes, activation=activation,
        depthwise_initializer=_each_channel(2), name=f"{name}_depthwise",
    )(x)  # fmt: skip
    x = _normalise(x, f"{name}_depthwise") if spec.batch_norm else x
    x = layers.Conv2D(filters, 1, activation=activation, kernel_initializer="he_normal", name=name)(x)
    return _normalise(x, name) if spec.batch_norm else x


def _each_channel(gain: float) -> keras.initializers.Initializer:
    """For 3x3 kernels of one channel alone: Keras's own would count the inputs of all channels.

    ``gain``: 2 where a ReLU follows, which halves the signal's power; 1 where none does.
    """
    return keras.initializers.RandomNormal(stddev=math.sqrt(gain / 9))


def _normalise(x: Any, name: str) -> Any:
    x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _squeeze_excite(skip: Any, name: str) -> Any:
    """Weigh channels by their mean over the window: Hu et al., 2018 (arXiv:1709.01507)."""
    channels = skip.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(skip)
    gate = layers.Conv2D(max(4, channels // 16), 1, activation="relu", name=f"{name}_excite1")(gate)
    gate = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_excite2")(gate)
    return layers.Multiply(name=f"{name}_excited")([skip, gate])


def _attend(skip: Any, context: Any, filters: int, name: str, factor: int) -> Any:
    """Weigh pixels by an additive attention gate: Oktay et al., 2018 (arXiv:1804.03999).

    ``context`` is the coarser map, ``factor`` times smaller than ``skip``; the gate is computed at its size.
    """
    x = layers.Conv2D(filters, factor, strides=factor, use_bias=False, name=f"{name}_gate_skip")(skip)
    y = layers.Conv2D(filters, 1, name=f"{name}_gate_context")(context)
    x = layers.Activation("relu", name=f"{name}_gate_relu")(layers.Add(name=f"{name}_gate_add")([x, y]))
    gate = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_gate")(x)
    if factor > 1:
        gate = layers.UpSampling2D(factor, interpolation="bilinear", name=f"{name}_gate_up")(gate)
    return layers.Multiply(name=f"{name}_gated")([skip, gate])


def _drop(x: Any, name: str, spec: NetworkSpec) -> Any:
    """Drop whole channels, since neighbouring pixels know each other: Tompson et al., 2015 (arXiv:1411.4280)."""
    return layers.SpatialDropout2D(spec.dropout, name=name)(x) if spec.dropout else x
