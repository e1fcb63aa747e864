"""The VGG16-Unet as one functional Keras graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras

Decoder = Literal["bilinear", "transpose"]

ENCODER = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(filters, convolutions) of VGG16's five blocks: Simonyan and Zisserman, 2015 (arXiv:1409.1556), configuration D."""


def vgg16_unet(
    bands: int,
    classes: int,
    *,
    width: float = 1.0,
    decoder: Decoder = "bilinear",
    align_skips: int | bool | None = None,
    batch_norm: bool = False,
    name: str = "vgg16_unet",
) -> keras.Model:
    """Build the network: (n, rows, columns, ``bands``) -> float32 logits (n, rows, columns, ``classes``).

    Rows and columns must be multiples of 16. The encoder is VGG16 up to conv5_3 with its layer names, so that its
    ImageNet weights load by name (see :func:`load_vgg16_weights`); the decoder is that of U-Net (Ronneberger et al.,
    2015, arXiv:1505.04597) with padded convolutions.

    Args:
        bands: Channels of the input.
        classes: Channels of the output.
        width: Multiplier of every layer's filters; 1.0 is VGG16 itself and has 24.9 M parameters.
        decoder: ``bilinear`` enlarges by interpolation, ``transpose`` by a transposed convolution with batch
            normalisation.
        align_skips: Pass each skip through a 1x1 convolution: True keeps its filters, a number sets them.
        batch_norm: Normalise after each 3x3 convolution: trains faster, and costs nothing once it is folded away.
        name: Of the model.

    Raises:
        UsageError: If a number makes no sense.
    """
    if bands < 1 or classes < 1 or not 0 < width <= 4:
        raise UsageError(
            f"a network with {bands} bands, {classes} classes and width {width} cannot be built: "
            "expected at least one band and class, and a width above 0 and at most 4"
        )
    filters = [max(1, round(count * width)) for count, _ in ENCODER]

    image = keras.Input((None, None, bands), name="image")
    x = image
    skips: list[Any] = []
    for block, (count, (_, convolutions)) in enumerate(zip(filters, ENCODER, strict=True), start=1):
        if skips:
            x = keras.layers.MaxPooling2D(2, name=f"block{block - 1}_pool")(x)
        for conv in range(1, convolutions + 1):
            x = _convolve(x, count, f"block{block}_conv{conv}", batch_norm)
        skips.append(x)

    for block in range(4, 0, -1):
        stage, count, skip = f"decoder{block}", filters[block - 1], skips[block - 1]
        if decoder == "bilinear":
            x = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"{stage}_up")(x)
        else:
            x = keras.layers.Conv2DTranspose(count, 2, strides=2, use_bias=False, name=f"{stage}_up")(x)
            x = keras.layers.BatchNormalization(name=f"{stage}_up_bn")(x)
            x = keras.layers.Activation("relu", name=f"{stage}_up_relu")(x)
        if align_skips:
            aligned = count if align_skips is True else max(1, round(align_skips * width))
            skip = keras.layers.Conv2D(aligned, 1, activation="relu", name=f"{stage}_align")(skip)
        x = keras.layers.Concatenate(name=f"{stage}_concat")([x, skip])
        for conv in (1, 2):
            x = _convolve(x, count, f"{stage}_conv{conv}", batch_norm)

    logits = keras.layers.Conv2D(classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name=name)


def _convolve(x: Any, filters: int, name: str, batch_norm: bool) -> Any:
    """A padded 3x3 convolution and ReLU, started so that signals keep their size through all of them (He, 2015)."""
    activation = None if batch_norm else "relu"
    x = keras.layers.Conv2D(
        filters, 3, padding="same", activation=activation, kernel_initializer="he_normal", name=name
    )(x)
    if not batch_norm:
        return x
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.Activation("relu", name=f"{name}_relu")(x)


def load_vgg16_weights(model: keras.Model, path: Path) -> None:
    """Fill the encoder from the weights of ``keras.applications.VGG16`` (a ``.keras`` file or the ``.weights.h5``).

    Layers are matched by name. Where the input is not RGB, the first convolution's kernels are averaged over colour
    and shared among the bands, so that the layer's response keeps its size.

    Raises:
        InputError: If the file cannot be read as VGG16, or ``model`` is not of width 1.
    """
    source = keras.applications.VGG16(include_top=False, weights=None)
    try:
        if path.suffix == ".keras":
            source.set_weights(keras.models.load_model(path, compile=False, safe_mode=True).get_weights())
        else:
            source.load_weights(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not the weights of keras.applications.VGG16 without top: {reason}") from error
    bands = model.input_shape[-1]
    for layer in source.layers:
        if not isinstance(layer, keras.layers.Conv2D):
            continue
        kernel, bias = layer.get_weights()
        if layer.name == "block1_conv1" and bands != kernel.shape[2]:
            kernel = kernel.mean(axis=2, keepdims=True).repeat(bands, axis=2) * (kernel.shape[2] / bands)
        target = model.get_layer(layer.name)
        if tuple(target.kernel.shape) != kernel.shape:
            raise InputError(
                f"{layer.name} has a kernel of {tuple(target.kernel.shape)}, VGG16's is {kernel.shape}: "
                "its weights fit a network of width 1 only"
            )
        target.set_weights([kernel, bias])
