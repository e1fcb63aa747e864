"""What a Keras graph ends in, and what images it takes: for :mod:`tileseg.nn.activation`."""

from __future__ import annotations

from typing import Any

from tileseg.nn.activation import Ending, EndingKind, RandomImages
from tileseg.nn.backend import keras
from tileseg.nn.keras_graph import Graph

layers = keras.layers

_FUNCTIONS: dict[object, EndingKind] = {
    keras.activations.softmax: "softmax",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.hard_sigmoid: "sigmoid",
}
_OPERATIONS: dict[str, EndingKind] = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid",
}  # fmt: skip
_PASSING = (
    layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout,
    layers.ActivityRegularization, layers.Cropping2D, layers.UpSampling2D, layers.Resizing,
)  # fmt: skip
"""Layers after which probabilities are still probabilities."""


def random_images(model: keras.Model) -> RandomImages:
    """Images as a model takes them."""
    whole = "int" in keras.backend.standardize_dtype(model.inputs[0].dtype)
    return RandomImages(model.inputs[0].shape[-1], whole)


def ending(graph: Graph) -> Ending | None:
    """The last step that changes what the output means; None where there is none."""
    makers = {value: step for step in graph.steps for value in step.outputs}
    value = graph.output
    while value in makers:
        step = makers[value]
        operation: Any = step.operation
        function = getattr(operation, "activation", None)
        passing = isinstance(operation, _PASSING) or type(operation).__name__ == "Cast"
        passing |= type(operation) is layers.Activation and function is keras.activations.linear
        if not passing:
            break
        value = step.inputs[0]
    else:
        return None
    kind: EndingKind | None = (
        _FUNCTIONS.get(function) if function is not None else _OPERATIONS.get(type(operation).__name__)
    )
    axis = getattr(operation, "axis", -1)
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
    if kind == "softmax" and function is None and any(a not in (-1, 3) for a in axes):
        kind = "softmax elsewhere"
    return Ending(step.title, kind)
