"""A Keras graph as a list of steps, and which pixels of its inputs each step's output depends on.

What follows from that is found by :mod:`tileseg.nn.locality` (how far does a logit look?) and :mod:`tileseg.nn.crop`
(which part of every feature map does the core still need?). A layer that this module does not know is never assumed to
be local.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tileseg.errors import InputError, first_line
from tileseg.nn.backend import keras
from tileseg.nn.locality import Extent, Locality, analyse_graph
from tileseg.nn.reach import SAME, Reach, Reaches, cut, interpolated, padded, repeated, sliding, transposed

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


def analyse(model: keras.Model) -> Locality:
    """Derive stride, radius and cost from any functional graph.

    Raises:
        InputError: If the model is not a graph of one image to one map of the same height and width.
    """
    graph = flatten(model)
    rows, cols = model.inputs[0].shape[1:3]
    own = (rows, cols) if rows and cols else None
    return analyse_graph(lambda height, width: SizedKerasGraph(graph, height, width), own, model.name)


class SizedKerasGraph:
    """A graph at one size of window (see :class:`tileseg.nn.locality.SizedGraph`)."""

    def __init__(self, graph: Graph, height: int, width: int) -> None:
        """Find the shapes of all values. Raises InputError if a layer does not take that size."""
        self.steps, self.output = graph.steps, graph.output
        self.shapes = graph.shapes(height, width)
        self.extents: list[Extent | None] = [
            (shape[1] or 1, shape[2] or 1) if len(shape) == 4 else None for shape in self.shapes
        ]
        self.elements = [_elements(shape) for shape in self.shapes]

    def reaches(self, step: int, placed: Sequence[bool]) -> tuple[Reaches | None, ...]:
        """By the rules of this module."""
        return _reaches(self.steps[step], self.shapes, placed)

    def flops(self, step: int) -> float:
        """By the kind of layer; one per number of input or output where it is no kernel."""
        one = self.steps[step]
        return _flops(one, self.shapes[one.inputs[0]], self.shapes[one.outputs[0]])

    def hidden_elements(self, step: int) -> int:
        """What a separable convolution makes of each channel alone."""
        one = self.steps[step]
        return _hidden_elements(one, self.shapes[one.inputs[0]], self.shapes[one.outputs[0]])


def _reaches(step: Step, shapes: Sequence[Shape], placed: Sequence[bool]) -> tuple[Reaches | None, ...]:
    """The reach of a step towards each of its inputs."""
    lost = (None,) * len(step.inputs)
    if not any(placed[v] for v in step.inputs) or len(step.outputs) != 1 or not step.inputs:
        return lost
    out = shapes[step.outputs[0]]
    if len(out) != 4:
        return lost
    if _is_elementwise(step):
        # A value that lost its place (the gate of a squeeze-excite block, say) may still be spread over a map that
        # has not: the map's own dependence stays what it is, and the culprit has been blamed already.
        spatial = [len(shapes[v]) == 4 and shapes[v][1:3] == out[1:3] for v in step.inputs]
        if any(s and placed[v] for s, v in zip(spatial, step.inputs, strict=True)) and all(
            s or not placed[v] for s, v in zip(spatial, step.inputs, strict=True)
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
        return sliding(span, stride, 0, 0)
    if padding != "same":
        return None
    # As TensorFlow pads: the odd pixel goes to the end, and how many there are depends on the size modulo the stride.
    total = max((-(-pixels // stride) - 1) * stride + span - pixels, 0)
    return sliding(span, stride, total // 2, total - total // 2)


def _convolution(layer: Any, axis: int, pixels: int) -> Reach | None:
    return _sliding(layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis], layer.padding, pixels)


def _pooling(layer: Any, axis: int, pixels: int) -> Reach | None:
    return _sliding(layer.pool_size[axis], layer.strides[axis], 1, layer.padding, pixels)


def _transposed(layer: Any, axis: int, pixels: int) -> Reach | None:
    size, stride = layer.kernel_size[axis], layer.strides[axis]
    if layer.output_padding is not None or layer.dilation_rate[axis] != 1:
        return None
    if layer.padding == "valid":
        return transposed(size, stride, 0, max(size - stride, 0))
    return transposed(size, stride, max(size - stride, 0) // 2, 0)


def _upsampling(layer: Any, axis: int, pixels: int) -> Reach | None:
    factor = layer.size[axis]
    if layer.interpolation == "nearest":
        return repeated(factor)
    if layer.interpolation == "bilinear" and factor & (factor - 1) == 0:
        # By other factors than powers of two, backends round positions in float32: far from the window's first pixel
        # the same pixels are enlarged otherwise (by 9e-4 of their deviation at column 10,500), so it is not local.
        return interpolated(2 * factor, 2, 1 - factor)
    return None


def _zero_padding(layer: Any, axis: int, pixels: int) -> Reach | None:
    before, after = layer.padding[axis]
    return padded(before, after)


def _cropping(layer: Any, axis: int, pixels: int) -> Reach | None:
    before, after = layer.cropping[axis]
    return cut(before, after)


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


def _elements(shape: Shape) -> int:
    count = 1
    for size in shape[1:]:
        count *= size or 1
    return count


def _flops(step: Step, given: Shape, made: Shape) -> float:
    """Floating-point operations of one step for one image."""
    layer: Any = step.operation
    kind, size = type(layer), _elements(made)
    if kind is layers.Conv2D:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * (given[-1] or 1) / layer.groups * size)
    if kind is layers.Conv2DTranspose:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * (made[-1] or 1) * _elements(given))
    if kind is layers.DepthwiseConv2D:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * size)
    if kind is layers.SeparableConv2D:
        rows, cols = layer.kernel_size
        deep = (given[-1] or 1) * layer.depth_multiplier
        return float(2.0 * deep * (rows * cols * size / (made[-1] or 1) + size))
    if kind is layers.Dense:
        return float(2.0 * (given[-1] or 1) * size)
    if kind in (layers.MaxPooling2D, layers.AveragePooling2D):
        rows, cols = layer.pool_size
        return float(rows * cols * size)
    if kind is layers.UpSampling2D and layer.interpolation == "bilinear":
        return 8.0 * size
    return float(max(size, _elements(given)))


def _hidden_elements(step: Step, given: Shape, made: Shape) -> int:
    """Numbers that a step keeps while it computes: what a separable convolution makes of each channel alone."""
    layer: Any = step.operation
    if type(layer) is not layers.SeparableConv2D:
        return 0
    return _elements(made) // (made[-1] or 1) * (given[-1] or 1) * int(layer.depth_multiplier)
