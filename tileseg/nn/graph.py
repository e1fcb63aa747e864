"""A Keras graph as a list of steps, and which pixels of its inputs each step's output depends on.

The one propagation core of :mod:`tileseg.nn.receptive` (how far does a logit look?) and :mod:`tileseg.nn.crop`
(which part of every feature map does the core still need?). Both walk the steps backwards with integer ranges, one
axis at a time. A layer that this module does not know is never assumed to be local.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tileseg.errors import InputError, first_line
from tileseg.nn.backend import keras
from tileseg.nn.reach import SAME, Reach, Reaches

layers = keras.layers

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a layer or operation."""

    operation: keras.Operation
    node: Any
    """Keras's record of the call, with its other arguments."""
    inputs: tuple[int, ...]
    """Values that it takes, in the order of ``node.input_tensors``."""
    outputs: tuple[int, ...]
    """Values that it gives."""

    def __call__(self, values: dict[int, Any], operation: Callable[..., Any] | None = None) -> tuple[Any, ...]:
        """Apply ``operation`` (its own by default) to ``values``, with the arguments of the recorded call."""
        known = {id(t): values[v] for t, v in zip(self.node.input_tensors, self.inputs, strict=True)}
        args, kwargs = self.node.arguments.fill_in(known)
        return tuple(keras.tree.flatten((operation or self.operation)(*args, **kwargs)))

    @property
    def title(self) -> str:
        """Name and kind, for a message."""
        return f"{self.operation.name} ({type(self.operation).__name__})"


@dataclass(frozen=True)
class Graph:
    """A model without nesting: its steps in an order in which they can be computed. Value 0 is the input."""

    steps: tuple[Step, ...]
    output: int
    bands: int
    """Channels of the input."""

    def shapes(self, height: int, width: int, dtype: str = "float32") -> list[Shape]:
        """Shape (n, rows, columns, channels) of every value for an input of ``height`` x ``width``.

        Raises:
            InputError: If a layer does not take that size.
        """
        values: dict[int, Any] = {0: keras.KerasTensor((1, height, width, self.bands), dtype=dtype)}
        for step in self.steps:
            try:
                made = step(values, step.operation.compute_output_spec)
            except Exception as error:  # layers of all origins raise what they like
                reason = first_line(error)
                raise InputError(
                    f"layer {step.title} does not take a window of {height} x {width}: {reason}"
                ) from error
            values.update(zip(step.outputs, made, strict=True))
        return [tuple(values[v].shape) for v in range(len(values))]


def flatten(model: keras.Model) -> Graph:
    """Unfold nested models and shared layers into a list of steps.

    Raises:
        InputError: If the model is not a functional graph with one image in and one map out.
    """
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise InputError(f"model {model.name} is not a functional graph: expected keras.Model(inputs, outputs)")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"model {model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: expected one of each"
        )
    shape = model.inputs[0].shape
    if len(shape) != 4 or shape[-1] is None:
        raise InputError(f"model {model.name} takes {shape}: expected images (n, rows, columns, bands)")
    steps: list[Step] = []
    count = [1]
    known = {id(model.inputs[0]): 0}
    _unfold(model, known, steps, count)
    return Graph(tuple(steps), known[id(model.outputs[0])], shape[-1])


def _unfold(model: keras.Model, known: dict[int, int], steps: list[Step], count: list[int]) -> None:
    """Append the steps that compute ``model.outputs`` from the values in ``known`` (tensor id -> value)."""
    pending = list(model.outputs)
    while pending:
        tensor = pending[-1]
        if id(tensor) in known:
            pending.pop()
            continue
        # Keras has no public way to walk a graph; these two names are as old as the functional API.
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        missing = [t for t in node.input_tensors if id(t) not in known]
        if missing:
            pending.extend(missing)
            continue
        pending.pop()
        inputs = tuple(known[id(t)] for t in node.input_tensors)
        inner = node.operation
        if isinstance(inner, keras.Model) and getattr(inner, "inputs", None) and len(inner.inputs) == len(inputs):
            inside = {id(t): v for t, v in zip(inner.inputs, inputs, strict=True)}
            _unfold(inner, inside, steps, count)
            known.update({id(t): inside[id(o)] for t, o in zip(node.output_tensors, inner.outputs, strict=True)})
            continue
        outputs = tuple(range(count[0], count[0] + len(node.output_tensors)))
        count[0] += len(outputs)
        known.update({id(t): v for t, v in zip(node.output_tensors, outputs, strict=True)})
        steps.append(Step(inner, node, inputs, outputs))


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph's steps with their reaches at one window size."""

    shapes: tuple[Shape, ...]
    """Shape of every value."""
    reaches: tuple[tuple[Reaches | None, ...], ...]
    """Per step and input; None where the step needs the whole of that input."""
    pitch: tuple[tuple[Fraction, Fraction] | None, ...]
    """Pixels of the model's input per pixel of each value (rows, columns); None where it lost its place."""
    nonlocal_steps: tuple[Step, ...]
    """The steps where a value loses its place: those that look at the whole window, and those not known."""

    @property
    def stride(self) -> int:
        """Pixels of the input that are a whole number of pixels in every value."""
        return math.lcm(*(side.numerator for pair in self.pitch if pair for side in pair))


def trace(graph: Graph, height: int, width: int) -> Trace:
    """Find every step's reach for a window of ``height`` x ``width``."""
    shapes = graph.shapes(height, width)
    pitch: dict[int, tuple[Fraction, Fraction] | None] = {0: (Fraction(1), Fraction(1))}
    reaches: list[tuple[Reaches | None, ...]] = []
    blamed: list[Step] = []
    for step in graph.steps:
        found = _reaches(step, shapes, pitch)
        placed = [v for v in step.inputs if pitch[v]]
        if placed and not any(found):
            blamed.append(step)
        reaches.append(found)
        here = None
        for value, reach in zip(step.inputs, found, strict=True):
            before = pitch[value]
            if reach and before:
                here = (
                    before[0] * Fraction(reach[0].down, reach[0].up),
                    before[1] * Fraction(reach[1].down, reach[1].up),
                )
                break
        for value in step.outputs:
            pitch[value] = here
    return Trace(tuple(shapes), tuple(reaches), tuple(pitch[v] for v in range(len(shapes))), tuple(blamed))


def _reaches(
    step: Step, shapes: Sequence[Shape], pitch: dict[int, tuple[Fraction, Fraction] | None]
) -> tuple[Reaches | None, ...]:
    """The reach of a step towards each of its inputs."""
    lost = (None,) * len(step.inputs)
    if not any(pitch[v] for v in step.inputs) or len(step.outputs) != 1 or not step.inputs:
        return lost
    out = shapes[step.outputs[0]]
    if len(out) != 4:
        return lost
    if _is_elementwise(step):
        # A value that lost its place (the gate of a squeeze-excite block, say) may still be spread over a map that
        # has not: the map's own dependence stays what it is, and the culprit has been blamed already.
        spatial = [len(shapes[v]) == 4 and shapes[v][1:3] == out[1:3] for v in step.inputs]
        if any(s and pitch[v] for s, v in zip(spatial, step.inputs, strict=True)) and all(
            s or not pitch[v] for s, v in zip(spatial, step.inputs, strict=True)
        ):
            return tuple(SAME if s else None for s in spatial)
        return lost
    rule = _RULES.get(type(step.operation))
    if rule is None or len(step.inputs) != 1 or getattr(step.operation, "data_format", None) == "channels_first":
        return lost
    if not _is_pointwise_function(getattr(step.operation, "activation", None)):
        return lost
    shape = shapes[step.inputs[0]]
    if len(shape) != 4 or shape[1] is None or shape[2] is None:
        return lost
    rows, cols = rule(step.operation, 0, shape[1]), rule(step.operation, 1, shape[2])
    return ((rows, cols),) if rows and cols else lost


Rule = Callable[[Any, int, int], Reach | None]
"""(layer, axis: 0 rows or 1 columns, pixels of the input along it) -> the reach, or None if it is not known."""


def _sliding(size: int, stride: int, dilation: int, padding: str, pixels: int) -> Reach | None:
    """A kernel that slides: convolutions and pooling."""
    span = (size - 1) * dilation + 1
    if padding == "valid":
        return Reach(down=stride, high=span - 1, trim=span - stride)
    if padding != "same":
        return None
    # As TensorFlow pads: the odd pixel goes to the end, and how many there are depends on the size modulo the stride.
    before = max((-(-pixels // stride) - 1) * stride + span - pixels, 0) // 2
    return Reach(down=stride, low=-before, high=span - 1 - before)


def _convolution(layer: Any, axis: int, pixels: int) -> Reach | None:
    return _sliding(layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis], layer.padding, pixels)


def _pooling(layer: Any, axis: int, pixels: int) -> Reach | None:
    return _sliding(layer.pool_size[axis], layer.strides[axis], 1, layer.padding, pixels)


def _transposed(layer: Any, axis: int, pixels: int) -> Reach | None:
    size, stride = layer.kernel_size[axis], layer.strides[axis]
    if layer.output_padding is not None or layer.dilation_rate[axis] != 1:
        return None
    if layer.padding == "valid":
        return Reach(up=stride, low=1 - size, extra=max(size - stride, 0))
    before = max(size - stride, 0) // 2
    return Reach(up=stride, low=before - size + 1, high=before)


def _upsampling(layer: Any, axis: int, pixels: int) -> Reach | None:
    factor = layer.size[axis]
    if layer.interpolation == "nearest":
        return Reach(up=factor, low=1 - factor)
    if layer.interpolation == "bilinear" and factor & (factor - 1) == 0:
        # By other factors than powers of two, backends round positions in float32: far from the window's first pixel
        # the same pixels are enlarged otherwise (by 9e-4 of their deviation at column 10,500), so it is not local.
        # The centre of output o lies at input (2o + 1 - factor) / (2 factor); inputs closer than 1 to it count.
        return Reach(up=2 * factor, down=2, low=2 - 3 * factor, high=factor)
    return None


def _zero_padding(layer: Any, axis: int, pixels: int) -> Reach | None:
    before, after = layer.padding[axis]
    return Reach(low=-before, high=-before, extra=before + after)


def _cropping(layer: Any, axis: int, pixels: int) -> Reach | None:
    before, after = layer.cropping[axis]
    return Reach(low=before, high=before, trim=before + after)


def _dense(layer: Any, axis: int, pixels: int) -> Reach | None:
    return Reach()


_RULES: dict[type, Rule] = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.SeparableConv2D: _convolution,
    layers.MaxPooling2D: _pooling,
    layers.AveragePooling2D: _pooling,
    layers.Conv2DTranspose: _transposed,
    layers.UpSampling2D: _upsampling,
    layers.ZeroPadding2D: _zero_padding,
    layers.Cropping2D: _cropping,
    layers.Dense: _dense,
}
"""Rules by exact type: a subclass may compute anything."""

_ELEMENTWISE_LAYERS = {
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU,
    layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout,
    layers.ActivityRegularization, layers.Rescaling, layers.Identity,
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum,
}  # fmt: skip
_CHANNEL_LAYERS = {
    layers.BatchNormalization, layers.LayerNormalization, layers.UnitNormalization, layers.Normalization,
    layers.Softmax, layers.Concatenate,
}  # fmt: skip
"""Elementwise over space where their axis is the last one."""
_RANDOM_IN_TRAINING = {
    layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout,
    layers.BatchNormalization,
}  # fmt: skip
_ELEMENTWISE_OPERATIONS = {
    "Abs", "Absolute", "Add", "Cast", "Celu", "Clip", "Concatenate", "Divide", "Elu", "Exp", "Expm1", "Gelu",
    "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Log", "Log1p", "LogSoftmax", "Maximum", "Minimum", "Multiply",
    "Negative", "Power", "Reciprocal", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Silu", "Softmax", "Softplus",
    "Softsign", "Sqrt", "Square", "Subtract", "Tanh", "TrueDivide",
}  # fmt: skip
"""Classes of keras.ops that act on every pixel alone (those with an axis: over channels only)."""
_POINTWISE_FUNCTIONS = {
    keras.activations.get(name)
    for name in (
        "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "log_sigmoid",
        "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh",
    )
}  # fmt: skip


def _is_pointwise_function(function: object) -> bool:
    """Whether an activation is one of Keras's, which act on every pixel alone."""
    return function is None or function in _POINTWISE_FUNCTIONS


def _is_elementwise(step: Step) -> bool:
    """Whether a step computes every pixel from the same pixel of its inputs (channels may mix)."""
    operation, kind = step.operation, type(step.operation)
    if kind in _RANDOM_IN_TRAINING and step.node.arguments.kwargs.get("training"):
        return False
    if kind in _CHANNEL_LAYERS:
        axis = getattr(operation, "axis", -1)
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        return all(a in (-1, 3) for a in axes)
    if kind in _ELEMENTWISE_LAYERS:
        return _is_pointwise_function(getattr(operation, "activation", None))
    if kind is layers.PReLU:
        return all(size == 1 for size in operation.alpha.shape[:-1])
    if isinstance(operation, layers.Layer) or kind.__name__ not in _ELEMENTWISE_OPERATIONS:
        return False
    if not kind.__module__.startswith("keras."):
        return False
    others = [a for a in keras.tree.flatten((step.node.arguments.args, step.node.arguments.kwargs)) if a is not None]
    constants = [a for a in others if not isinstance(a, keras.KerasTensor) and hasattr(a, "shape")]
    # A constant map would differ from window to window.
    flat = all(all(size == 1 for size in tuple(a.shape)[:-1]) for a in constants)
    return flat and getattr(operation, "axis", -1) in (-1, 3)
