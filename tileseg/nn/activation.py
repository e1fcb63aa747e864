"""Whether a model gives what its card says: logits, or the probabilities of a softmax or a sigmoid."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import Activation
from tileseg.errors import InputError, first_line
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.graph import Graph, Step, flatten

layers = keras.layers

_Ending = Literal["softmax", "softmax elsewhere", "log_softmax", "sigmoid"]

_FUNCTIONS: dict[object, _Ending] = {
    keras.activations.softmax: "softmax",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.hard_sigmoid: "sigmoid",
}
_OPERATIONS: dict[str, _Ending] = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid",
}  # fmt: skip
_PASSING = (
    layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout,
    layers.ActivityRegularization, layers.Cropping2D, layers.UpSampling2D, layers.Resizing,
)  # fmt: skip
"""Layers after which probabilities are still probabilities."""

_PROBABILITY = 1e-3
"""How far a probability may lie beyond 0 or 1, by rounding."""
_SUM = 2e-2
"""How far probabilities of 16 bits may add up to anything but 1."""
_BRIGHT = 1e3
"""Deviation of a random image so bright that logits leave 0 to 1 where they can."""
_SPAN = 0.5
"""How much of 0 to 1 must be taken then, to tell a sigmoid from a network that is nearly constant."""


def contradiction(model: keras.Model, claim: Activation) -> str | None:
    """What the end of the graph says against the card's activation, and what to do; None where they agree.

    Only layers and operations of Keras are understood: see :func:`contradiction_of_outputs` for the rest.
    """
    step, kind = _ending(flatten(model))
    channels = model.outputs[0].shape[-1]
    if step is None or kind is None:
        return None
    where = f"its last activation is {kind.removesuffix(' elsewhere')} (layer {step.title})"
    if kind == "softmax" and channels == 1:
        return f"{where}: of one channel it is always 1; one channel takes a sigmoid, and --activation sigmoid"
    if kind == claim and (kind != "sigmoid" or channels == 1):
        return None
    if kind == "softmax elsewhere":
        return f"{where}, over rows or columns instead of channels; take it over the last axis"
    if kind == "log_softmax":
        return None if claim == "logits" else f"{where}, not {claim}; its logarithms are logits: --activation logits"
    if kind == "sigmoid" and channels > 1:
        return (
            f"{where}, of each of {channels} channels by itself; classes that exclude each other need a softmax, or no "
            "activation and --activation logits"
        )
    return f"{where}, so it gives probabilities, not {claim}; say --activation {kind}"


def _ending(graph: Graph) -> tuple[Step | None, _Ending | None]:
    """The last step that changes what the output means, and what it makes of it if that is known."""
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
        return None, None
    kind = _FUNCTIONS.get(function) if function is not None else _OPERATIONS.get(type(operation).__name__)
    axis = getattr(operation, "axis", -1)
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)
    if kind == "softmax" and function is None and any(a not in (-1, 3) for a in axes):
        kind = "softmax elsewhere"
    return step, kind


def contradiction_of_outputs(model: keras.Model, claim: Activation, stride: int, *, seed: int = 0) -> str | None:
    """What a few random images show against the card's activation, and what to do; None where they agree.

    ``stride``: windows are multiples of it. Raises InputError where the model does not take such images.
    """
    rows = -(-32 // stride) * stride
    rng = np.random.default_rng(seed)
    shape = (1, rows, rows + stride, model.inputs[0].shape[-1])
    images = np.concatenate([random_images(model, rng, shape, gain) for gain in (1, 4, _BRIGHT)])
    try:
        *found, bright = to_numpy(model(images, training=False)).astype(np.float64)
    except Exception as error:  # layers of all origins raise what they like
        raise InputError(
            f"model {model.name} does not take images of {rows} x {rows + stride}: {first_line(error)}"
        ) from error
    if np.isnan(found).all():
        return "it gives nothing but NaN for random images, so its weights are no numbers"
    low, high, channels = np.min(found), np.max(found), bright.shape[-1]
    total = np.sum(found, axis=-1)
    within = low >= -_PROBABILITY and high <= 1 + _PROBABILITY
    adds_up = np.abs(total - 1).max() <= _SUM
    if claim == "logits":
        if channels > 1 and within and adds_up:
            return "its channels always add up to 1: probabilities, not logits; say --activation softmax"
        if within and bright.min() >= -_PROBABILITY and bright.max() <= 1 + _PROBABILITY and np.ptp(bright) > _SPAN:
            whose = "it gives" if channels == 1 else f"each of its {channels} channels gives"
            remedy = "say --activation sigmoid" if channels == 1 else "let the model end before they are computed"
            return f"{whose} 0 to 1 however bright an image is: probabilities of a sigmoid, not logits; {remedy}"
        return None
    if not within:
        return f"it gives {low:.3g} to {high:.3g} for random images: no probabilities; say --activation logits"
    if claim == "softmax" and not adds_up:
        return (
            f"its channels add up to {total.min():.3g} to {total.max():.3g} for random images, where a softmax over "
            "classes gives 1"
        )
    return None


def random_images(
    model: keras.Model, rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.0
) -> npt.NDArray[np.float32]:
    """Images (n, rows, columns, bands) as a model takes them: mean 0 and deviation ``gain``.

    Where it takes integers they are bytes, as float32, which is how a run hands them over.
    """
    if "int" in keras.backend.standardize_dtype(model.inputs[0].dtype):
        return rng.integers(0, 128, shape).astype(np.float32)
    return (gain * rng.normal(size=shape)).astype(np.float32)
