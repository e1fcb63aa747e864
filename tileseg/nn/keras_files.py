"""Keras models as files for other programs: Keras archives, SavedModels, LiteRT. Keras's own exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tileseg.card import Scaling
from tileseg.errors import InputError, TilesegError, UsageError, first_line
from tileseg.nn import backend
from tileseg.nn.backend import keras
from tileseg.nn.keras_export import quiet
from tileseg.nn.twin import inference_twin

if TYPE_CHECKING:
    import numpy.typing as npt

Precision = Literal["float32", "float16", "int8"]


def wrapped(
    model: keras.Model, size: tuple[int, int] | None, scaling: Scaling | None, *, probabilities: bool
) -> keras.Model:
    """A model of images (n, rows, columns, bands) of one size, or any, with scaling and probabilities inside or not.

    Args:
        model: As :mod:`tileseg.nn.bundle` opens it.
        size: Rows and columns; normalisation is then folded into the convolutions.
        scaling: Applied to pixel values; None: the image has to be scaled already.
        probabilities: Whether a softmax follows the logits, or a sigmoid the single one.
    """
    layers = keras.layers
    network = model if size is None else inference_twin(model, *size, 0, "float32")
    bands = model.inputs[0].shape[-1]
    image = keras.Input((*(size or (None, None)), bands), name="image", dtype="float32")
    x = image
    if scaling is not None:
        if scaling.kind == "window":
            low, high = scaling.limits
            # To 0...1, and what lies outside is cut off.
            x = layers.ReLU(max_value=1.0)(layers.Rescaling(1 / (high - low), -low / (high - low))(x))
            gain = [1 / std for std in _each(scaling.std, bands)]
            offset = [-mean * g for mean, g in zip(_each(scaling.mean, bands), gain, strict=True)]
        else:
            gain = [1 / unit for unit in _each(scaling.unit, bands)]
            offset = [-zero * g for zero, g in zip(_each(scaling.zero, bands), gain, strict=True)]
        x = layers.Rescaling(gain, offset)(x)
    x = network(x)
    if probabilities:
        x = layers.Activation("sigmoid")(x) if x.shape[-1] == 1 else layers.Softmax()(x)
    return keras.Model(image, x, name=model.name)


def write_keras(model: keras.Model, path: Path) -> None:
    """A ``.keras`` archive, which Keras 3 opens with any backend."""
    model.save(path)


def write_savedmodel(model: keras.Model, path: Path) -> None:
    """A folder that TensorFlow serves; its signature takes ``image``. Raises InputError if it cannot be said in it."""
    _export(model, path, "tf_saved_model", {})


def write_litert(
    model: keras.Model, path: Path, precision: Precision, images: Sequence[npt.NDArray[np.float32]] = ()
) -> None:
    """A ``.tflite`` file of LiteRT's own operators, whose image and map are float32.

    Args:
        model: For images of one size.
        path: The file.
        precision: Of weights (float16), or of weights and values (int8).
        images: (rows, columns, bands) each, as the file will be given them: for int8 they give the ranges of values.

    Raises:
        InputError: If an operator is none of LiteRT's.
        UsageError: If Keras's backend is not TensorFlow.
    """
    if backend.NAME != "tensorflow":
        raise UsageError(f"--to litert: Keras exports it from TensorFlow, not from {backend.NAME}: unset KERAS_BACKEND")
    import tensorflow as tf

    lite = tf.lite
    operators = lite.OpsSet.TFLITE_BUILTINS_INT8 if precision == "int8" else lite.OpsSet.TFLITE_BUILTINS
    target: dict[str, Any] = {"supported_ops": [operators]}
    options: dict[str, Any] = {"target_spec": target, "experimental_enable_resource_variables": False}
    if precision != "float32":
        options["optimizations"] = [lite.Optimize.DEFAULT]
    if precision == "float16":
        target["supported_types"] = [tf.float16]
    if precision == "int8":
        options["representative_dataset"] = lambda: ([image[None]] for image in images)
    _export(model, path, "litert", options)


def _export(model: keras.Model, path: Path, kind: str, options: dict[str, Any]) -> None:
    shape = model.inputs[0].shape
    signature = [keras.InputSpec(shape=(1, *shape[1:]), dtype="float32", name="image")]
    try:
        with quiet():
            model.export(path, format=kind, verbose=False, input_signature=signature, **options)
    except Exception as error:  # layers and converters of all versions raise what they like
        if isinstance(error, TilesegError) or backend.is_out_of_memory(error):
            raise
        raise InputError(f"model {model.name} cannot be exported to {kind}: {first_line(error)}") from error


def _each(values: Sequence[float], bands: int) -> list[float]:
    return [float(value) for value in np.broadcast_to(np.asarray(values, np.float64), bands)]
