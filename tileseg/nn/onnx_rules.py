"""Which pixels of its inputs the output of an ONNX operator depends on. An operator that has no rule is not local."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.nn.onnx_resize import resized
from tileseg.nn.reach import SAME, Reach, Reaches, padded, repeated, sliding, transposed

Shape = tuple[int, ...]
Axes = tuple[int, int]
"""Which axes of a value are its rows and its columns."""

_NCHW: Axes = (2, 3)
_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3, "MatMul": 1}
"""Operator -> the input with its weights."""
_ENDLESS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Call:
    """One operator with what is known of its inputs, in the order of the node's."""

    kind: str
    opset: int
    attributes: Mapping[str, Any]
    shapes: tuple[Shape | None, ...]
    """Of each input; None where it is left out."""
    constants: tuple[npt.NDArray[Any] | None, ...]
    """The small ones among the constant inputs."""
    fixed: tuple[bool, ...]
    """Which inputs are constant."""
    axes: tuple[Axes | None, ...]
    """Of the inputs whose pixels have a place in the image."""
    made: tuple[Shape, ...]
    """Shapes of the outputs."""

    @property
    def first(self) -> tuple[Shape, Axes] | None:
        """Shape and axes of the first input, if it has a place and no other input but constants has one."""
        if not self.axes or self.axes[0] is None or self.shapes[0] is None:
            return None
        alone = all(self.fixed[slot] or shape is None for slot, shape in enumerate(self.shapes) if slot)
        return (self.shapes[0], self.axes[0]) if alone else None

    def argument(self, name: str, slot: int) -> list[int] | None:
        """Whole numbers that are an attribute in some versions of an operator, and a constant input in others."""
        if name in self.attributes:
            return [int(n) for n in np.ravel(self.attributes[name])]
        if slot < len(self.constants) and (found := self.constants[slot]) is not None:
            return [int(n) for n in found.ravel()]
        return None

    def given(self, slot: int) -> bool:
        """Whether an input is there."""
        return slot < len(self.shapes) and self.shapes[slot] is not None


@dataclass(frozen=True, slots=True)
class Dependence:
    """What a step depends on, and how to write it so that it does the same to a part of its input."""

    reaches: Mapping[int, Reaches]
    """By input; those that are not there are needed whole."""
    axes: Axes
    """Of the outputs."""
    input_axes: Mapping[int, Axes] = field(default_factory=dict)
    """Of inputs that have lost their place but have the size of the map, in ``reaches`` too."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """In place of the operator's own; None: left out."""
    inputs: Mapping[int, npt.NDArray[Any] | None] = field(default_factory=dict)
    """Constants in place of inputs; None: left out."""
    shape_input: int | None = None
    """The input that holds the shape of the output."""


Rule = Callable[[Call], Dependence | None]


def dependence(call: Call) -> Dependence | None:
    """The dependence of an operator that has at least one input with a place; None if it is not known."""
    rule = RULES.get(call.kind)
    return rule(call) if rule else None


def operations(call: Call) -> float:
    """Floating-point operations for each number of the output (of a transposed convolution, of the input)."""
    weights = call.shapes[_WEIGHTS[call.kind]] if call.kind in _WEIGHTS else None
    if weights:
        return 2.0 * math.prod(weights[:-1] if call.kind == "MatMul" else weights[1:])
    if call.kind in ("AveragePool", "LpPool", "MaxPool"):
        return float(math.prod(call.attributes.get("kernel_shape") or ()))
    return 8.0 if call.kind == "Resize" and call.attributes.get("mode") == "linear" else 0.0


# Kernels --------------------------------------------------------------------------------------------------------------


def _kernel(weights: int | None) -> Rule:
    """An operator that slides over (n, channels, rows, columns); ``weights``: the input with its kernel, if any."""

    def rule(call: Call) -> Dependence | None:
        found = call.first
        if found is None or found[1] != _NCHW or len(found[0]) != 4 or len(call.made) != 1:
            return None
        size = _kernel_size(call, weights)
        if size is None:
            return None
        strides = call.attributes.get("strides") or [1, 1]
        dilations = call.attributes.get("dilations") or [1, 1]
        spans = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
        before, after = _paddings(call, found[0][2:], spans, strides)
        rows, cols = (
            sliding(span, stride, b, a) for span, stride, b, a in zip(spans, strides, before, after, strict=True)
        )
        if call.attributes.get("ceil_mode"):
            rows, cols = (
                _rounded_up(reach, pixels, made)
                for reach, pixels, made in zip((rows, cols), found[0][2:], call.made[0][2:], strict=True)
            )
        return Dependence({0: (rows, cols)}, _NCHW, attributes={"auto_pad": None, "pads": [*before, *after]})

    return rule


def _kernel_size(call: Call, weights: int | None) -> Sequence[int] | None:
    size = call.attributes.get("kernel_shape")
    if weights is None:
        return size
    shape = call.shapes[weights] if call.given(weights) else None
    return shape[2:] if shape is not None and len(shape) == 4 else None


def _paddings(
    call: Call, pixels: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Pixels padded before and after each axis."""
    how = call.attributes.get("auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = call.attributes.get("pads") or [0, 0, 0, 0]
        return list(pads[:2]), list(pads[2:])
    if how == "VALID":
        return [0, 0], [0, 0]
    total = [max((-(-n // s) - 1) * s + span - n, 0) for n, span, s in zip(pixels, spans, strides, strict=True)]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _rounded_up(reach: Reach, pixels: int, made: int) -> Reach:
    """A last window that reaches past the padding counts: the trim that gives as many outputs as there are."""
    return Reach(reach.up, reach.down, reach.low, reach.high, trim=pixels - made * reach.down)


def _conv_transpose(call: Call) -> Dependence | None:
    found = call.first
    if found is None or found[1] != _NCHW or not call.given(1):
        return None
    size, made = (call.shapes[1] or ())[2:], call.made[0][2:]
    if len(size) != 2:
        return None
    attributes = call.attributes
    strides, dilations = attributes.get("strides") or [1, 1], attributes.get("dilations") or [1, 1]
    output_padding = attributes.get("output_padding") or [0, 0]
    pads = attributes.get("pads") or [0, 0, 0, 0]
    how = attributes.get("auto_pad", "NOTSET")
    free = how not in ("NOTSET", "VALID") or attributes.get("output_shape")
    before, after, reaches = [], [], []
    for axis in (0, 1):
        span = (size[axis] - 1) * dilations[axis] + 1
        total = strides[axis] * (found[0][2 + axis] - 1) + output_padding[axis] + span - made[axis]
        if total < 0:
            return None
        first = pads[axis] if not free else total // 2 if how == "SAME_UPPER" else total - total // 2
        before.append(first)
        after.append(total - first)
        reaches.append(transposed(span, strides[axis], first, made[axis] - strides[axis] * found[0][2 + axis]))
    explicit = {"auto_pad": None, "output_shape": None, "pads": [*before, *after]}
    return Dependence({0: (reaches[0], reaches[1])}, _NCHW, attributes=explicit)


def _depth_to_space(call: Call) -> Dependence | None:
    found, block = call.first, call.attributes["blocksize"]
    if found is None or found[1] != _NCHW:
        return None
    reach = repeated(block) if call.kind == "DepthToSpace" else sliding(block, block, 0, 0)
    return Dependence({0: (reach, reach)}, _NCHW)


def _resize(call: Call) -> Dependence | None:
    found = call.first
    made = call.made[0]
    if found is None or len(made) != len(found[0]):
        return None
    shape, axes = found
    if any(n != m for axis, (n, m) in enumerate(zip(shape, made, strict=True)) if axis not in axes):
        return None
    rows, cols = (resized(call.kind, call.opset, call.attributes, shape[axis], made[axis]) for axis in axes)
    if rows is None or cols is None:
        return None
    factors = np.array([m / n for n, m in zip(shape, made, strict=True)], np.float32)
    if call.kind == "Upsample" or call.opset < 11:
        return Dependence({0: (rows, cols)}, axes)
    if listed := call.attributes.get("axes"):
        factors = factors[[axis % len(shape) for axis in listed]]
    said = call.constants[2] if call.given(2) else None
    if said is not None and said.size and not np.array_equal(said, factors):
        return None  # it rounds the size, and positions go by the scale that was said
    return Dependence({0: (rows, cols)}, axes, inputs={2: factors, 3: None})


# Ends and axes --------------------------------------------------------------------------------------------------------


def _pad(call: Call) -> Dependence | None:
    found, pads = call.first, call.argument("pads", 1)
    if found is None or pads is None or call.attributes.get("mode") == "wrap":
        return None
    shape, axes = found
    listed = call.constants[3].tolist() if call.given(3) and call.constants[3] is not None else range(len(shape))
    before, after = dict.fromkeys(range(len(shape)), 0), dict.fromkeys(range(len(shape)), 0)
    for place, axis in enumerate(listed):
        before[axis % len(shape)], after[axis % len(shape)] = pads[place], pads[place + len(pads) // 2]
    rows, cols = (padded(before[axis], after[axis]) for axis in axes)
    return Dependence({0: (rows, cols)}, axes)


def _slice(call: Call) -> Dependence | None:
    found, starts, ends = call.first, call.argument("starts", 1), call.argument("ends", 2)
    if found is None or starts is None or ends is None:
        return None
    shape, axes = found
    listed = [axis % len(shape) for axis in call.argument("axes", 3) or range(len(starts))]
    steps = call.argument("steps", 4) or [1] * len(starts)
    reaches = dict.fromkeys(axes, Reach())
    for place, (axis, start, end, step) in enumerate(zip(listed, starts, ends, steps, strict=True)):
        if axis not in axes:
            continue
        size = shape[axis]
        first, last = (min(max(n + size if n < 0 else n, 0), size) for n in (start, end))
        if step < 1 or last <= first:
            return None
        left = size - last
        starts[place], ends[place] = first, -left if left else _ENDLESS
        reaches[axis] = Reach(down=step, low=first, high=first, trim=first + left - step + 1)
    both = (reaches[axes[0]], reaches[axes[1]])
    if call.opset < 10:
        return Dependence({0: both}, axes, attributes={"starts": starts, "ends": ends})
    arguments = {slot: np.array(n, np.int64) for slot, n in enumerate((starts, ends, listed, steps), start=1)}
    return Dependence({0: both}, axes, inputs=arguments)


def _transpose(call: Call) -> Dependence | None:
    found = call.first
    if found is None:
        return None
    order = list(call.attributes.get("perm") or reversed(range(len(found[0]))))
    return Dependence({0: SAME}, (order.index(found[1][0]), order.index(found[1][1])))


def _along_axis(default: int) -> Rule:
    """An operator that mixes or chooses along one axis, and leaves the others alone."""

    def rule(call: Call) -> Dependence | None:
        found = call.first
        if found is None:
            return None
        shape, axes = found
        flat = call.opset < 13 and call.kind in ("Softmax", "LogSoftmax", "Hardmax")
        axis = call.attributes.get("axis", 1 if flat else default) % len(shape)
        later = flat or call.kind in ("LayerNormalization", "RMSNormalization")
        touched = range(axis, len(shape)) if later else (axis,)
        return None if set(axes) & set(touched) else Dependence({0: SAME}, axes)

    return rule


def _concat(call: Call) -> Dependence | None:
    places = {axes for axes in call.axes if axes is not None}
    if len(places) != 1:
        return None
    axes, made = places.pop(), call.made[0]
    if call.attributes["axis"] % len(made) in axes:
        return None
    for slot, shape in enumerate(call.shapes):
        if shape is None or any(shape[axis] != made[axis] for axis in axes) or call.fixed[slot]:
            return None  # a constant map would differ from window to window
    return _of_all(call, axes, dict.fromkeys(range(len(call.shapes)), axes))


def _elementwise(call: Call) -> Dependence | None:
    made = call.made[0]
    offsets = [len(made) - len(shape) if shape is not None else 0 for shape in call.shapes]
    places = {
        (axes[0] + offset, axes[1] + offset)
        for axes, offset in zip(call.axes, offsets, strict=True)
        if axes is not None
    }  # fmt: skip
    if len(places) != 1 or call.attributes.get("training_mode"):
        return None
    axes = places.pop()
    spread: dict[int, Axes] = {}
    for slot, (shape, offset) in enumerate(zip(call.shapes, offsets, strict=True)):
        if shape is None:
            continue
        own = (axes[0] - offset, axes[1] - offset)
        sides = [shape[axis] if axis >= 0 else 1 for axis in own]
        if call.axes[slot] is not None or (sides == [made[axis] for axis in axes] and not call.fixed[slot]):
            if sides != [made[axis] for axis in axes]:
                return None
            spread[slot] = own
        elif sides != [1, 1]:
            return None  # a constant map would differ from window to window
    return _of_all(call, axes, spread)


def _of_all(call: Call, axes: Axes, spread: Mapping[int, Axes]) -> Dependence:
    """Pixel by pixel, of several inputs.

    A value that lost its place (the gate of a squeeze-excite block, say) may still be spread over a map that has not:
    the map's own dependence stays what it is, and the culprit has been blamed already.
    """
    borrowed = {slot: own for slot, own in spread.items() if call.axes[slot] is None}
    return Dependence(dict.fromkeys(spread, SAME), axes, input_axes=borrowed)


def _batch_normalization(call: Call) -> Dependence | None:
    found = call.first
    live = call.attributes.get("training_mode") or len(call.made) > 1 or 1 in (found[1] if found else ())
    return Dependence({0: SAME}, found[1]) if found and not live else None


def _across_channels(call: Call) -> Dependence | None:
    """Normalised over neighbouring channels, which are the second axis."""
    found = call.first
    return Dependence({0: SAME}, found[1]) if found and 1 not in found[1] else None


def _quantised(call: Call) -> Dependence | None:
    """By scales that are constant: one, or one for each of a number of channels."""
    found = call.first
    if found is None:
        return None
    shape = call.shapes[1]
    single = shape is None or math.prod(shape) == 1
    if not single and (len(shape or ()) != 1 or call.attributes.get("axis", 1) % len(found[0]) in found[1]):
        return None
    return Dependence({0: SAME}, found[1])


def _reduced(call: Call) -> Dependence | None:
    found, listed = call.first, call.argument("axes", 1)
    if found is None or not listed:
        return None
    shape, axes = found
    gone = {axis % len(shape) for axis in listed}
    if gone & set(axes):
        return None
    return Dependence({0: SAME}, axes if call.attributes.get("keepdims", 1) else _without(axes, gone))


def _arg(call: Call) -> Dependence | None:
    found = call.first
    if found is None:
        return None
    axis = call.attributes.get("axis", 0) % len(found[0])
    if axis in found[1]:
        return None
    return Dependence({0: SAME}, found[1] if call.attributes.get("keepdims", 1) else _without(found[1], {axis}))


def _without(axes: Axes, gone: set[int]) -> Axes:
    """Axes after others have gone."""
    rows, cols = (axis - sum(one < axis for one in gone) for axis in axes)
    return rows, cols


def _reshape(call: Call) -> Dependence | None:
    """Squeeze, Unsqueeze, Flatten and Reshape, where rows and columns stay axes of their own."""
    found, made = call.first, call.made[0]
    if found is None:
        return None
    shape, axes = found
    kept = []
    for axis in axes:
        before = math.prod(shape[:axis])
        at = [i for i in range(len(made)) if made[i] == shape[axis] and math.prod(made[:i]) == before]
        if len(at) != 1:
            return None
        kept.append(at[0])
    return Dependence({0: SAME}, (kept[0], kept[1]), shape_input=1 if call.kind == "Reshape" else None)


def _expand(call: Call) -> Dependence | None:
    found, made = call.first, call.made[0]
    if found is None:
        return None
    shape, axes = found
    offset = len(made) - len(shape)
    if any(shape[axis] != made[axis + offset] for axis in axes):
        return None
    return Dependence({0: SAME}, (axes[0] + offset, axes[1] + offset), shape_input=1)


def _gather(call: Call) -> Dependence | None:
    found = call.first
    if found is None or not call.given(1):
        return None
    shape, axes = found
    axis = call.attributes.get("axis", 0) % len(shape)
    if axis in axes:
        return None
    grown = len(call.shapes[1] or ()) - 1
    rows, cols = (one + grown if one > axis else one for one in axes)
    return Dependence({0: SAME}, (rows, cols))


def _matmul(call: Call) -> Dependence | None:
    """Channels, which are last, times a matrix."""
    found = call.first
    weights = call.shapes[1] if call.given(1) else None
    if found is None or weights is None or len(weights) < 2 or math.prod(weights[:-2]) != 1:
        return None
    return Dependence({0: SAME}, found[1]) if len(found[0]) - 1 not in found[1] else None


_ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf",
    "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu",
    "Pow", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

RULES: Mapping[str, Rule] = {
    "Conv": _kernel(1),
    "ConvInteger": _kernel(1),
    "QLinearConv": _kernel(3),
    "AveragePool": _kernel(None),
    "LpPool": _kernel(None),
    "MaxPool": _kernel(None),
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _along_axis(0),
    "Softmax": _along_axis(-1),
    "LogSoftmax": _along_axis(-1),
    "Hardmax": _along_axis(-1),
    "LayerNormalization": _along_axis(-1),
    "RMSNormalization": _along_axis(-1),
    "LpNormalization": _along_axis(-1),
    "BatchNormalization": _batch_normalization,
    "LRN": _across_channels,
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _quantised,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _matmul,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduced),
}
"""By the kind of operator of ONNX's own domain."""
