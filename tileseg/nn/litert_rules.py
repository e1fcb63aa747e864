"""Which pixels of its inputs the output of a LiteRT operator depends on. An operator that has no rule is not local.

Images are (1, rows, columns, channels) everywhere in LiteRT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tileseg.nn.onnx_resize import resized
from tileseg.nn.reach import SAME, Reach, Reaches, cut, padded, repeated, sliding, transposed

if TYPE_CHECKING:
    import numpy.typing as npt

Shape = tuple[int, ...]

_VALID, _SAME_PADDING = 1, 0
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 1, "FULLY_CONNECTED": 1}
"""Operator -> the input with its weights."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operator with what is known of its inputs, in their order."""

    kind: str
    options: Any
    """LiteRT's own value with the operator's attributes, or None."""
    shapes: tuple[Shape | None, ...]
    """Of each input at the size at hand; None where it is left out."""
    types: tuple[str | None, ...]
    """Of the numbers of each input, in LiteRT's words."""
    constants: tuple[npt.NDArray[Any] | None, ...]
    fixed: tuple[bool, ...]
    """Which inputs are constant."""
    placed: tuple[bool, ...]
    """Which inputs have pixels with a place in the image."""
    filed: tuple[Shape, ...]
    """Shapes of the outputs at the size that the file is for."""
    filed_input: Shape
    """The same of the input that has a place, or of the first."""

    @property
    def value(self) -> int:
        """The only input that is no constant, if there is one; otherwise -1."""
        moving = [slot for slot, fixed in enumerate(self.fixed) if not fixed and self.shapes[slot] is not None]
        return moving[0] if len(moving) == 1 and len(self.shapes[moving[0]] or ()) == 4 else -1

    @property
    def hybrid(self) -> bool:
        """Whether weights of 8 bits meet values in float32, whose range is taken from the window at hand."""
        slot = _WEIGHTS.get(self.kind)
        value = 2 if self.kind == "TRANSPOSE_CONV" else 0
        return slot is not None and self.types[value] == "FLOAT32" and self.types[slot] in ("INT8", "UINT8", "INT4")


@dataclass(frozen=True, slots=True)
class Dependence:
    """What an operator depends on, and how its sizes follow from those of its output."""

    reaches: Mapping[int, Reaches]
    """By input."""
    sizes: Mapping[int, Callable[[Shape], list[int]]] = field(default_factory=dict)
    """Constant inputs that hold sizes -> their numbers for a shape of the output."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """In place of the operator's own."""


Rule = Callable[[Call], Dependence | None]


def dependence(call: Call) -> Dependence | None:
    """The dependence of an operator; None if it is not known."""
    rule = RULES.get(call.kind)
    return rule(call) if rule else None


def operations(call: Call) -> float:
    """Floating-point operations for each number of the output (of a transposed convolution, of the input)."""
    slot = _WEIGHTS.get(call.kind)
    weights = call.shapes[slot] if slot is not None else None
    if weights:
        # Kernels of depthwise ones have their outputs last.
        return (
            2.0
            * math.prod(weights[:-1] if call.kind == "DEPTHWISE_CONV_2D" else weights)
            / (1 if call.kind == "DEPTHWISE_CONV_2D" else weights[-1 if call.kind == "TRANSPOSE_CONV" else 0])
        )
    if call.kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return float(call.options.filterHeight * call.options.filterWidth)
    return 8.0 if call.kind == "RESIZE_BILINEAR" else 0.0


def _alone(call: Call) -> Shape | None:
    return call.shapes[call.value] if call.value >= 0 else None


def _slid(size: int, stride: int, dilation: int, padding: int, pixels: int) -> Reach | None:
    span = (size - 1) * dilation + 1
    if padding == _VALID:
        return sliding(span, stride, 0, 0)
    if padding != _SAME_PADDING:
        return None
    total = max((-(-pixels // stride) - 1) * stride + span - pixels, 0)
    return sliding(span, stride, total // 2, total - total // 2)


def _both(call: Call, rows: Reach | None, cols: Reach | None) -> Dependence | None:
    return Dependence({call.value: (rows, cols)}) if rows and cols else None


def _convolution(call: Call) -> Dependence | None:
    shape, weights, how = _alone(call), call.shapes[1], call.options
    if shape is None or weights is None or call.value != 0 or len(weights) != 4:
        return None
    rows = _slid(weights[1], how.strideH, how.dilationHFactor, how.padding, shape[1])
    cols = _slid(weights[2], how.strideW, how.dilationWFactor, how.padding, shape[2])
    return _both(call, rows, cols)


def _pooling(call: Call) -> Dependence | None:
    shape, how = _alone(call), call.options
    if shape is None:
        return None
    rows = _slid(how.filterHeight, how.strideH, 1, how.padding, shape[1])
    return _both(call, rows, _slid(how.filterWidth, how.strideW, 1, how.padding, shape[2]))


def _transposed(call: Call) -> Dependence | None:
    """Output shape, weights, value: what it makes of a size follows from what it makes of the file's own."""
    shape, weights, how = _alone(call), call.shapes[1], call.options
    if shape is None or weights is None or call.value != 2 or call.constants[0] is None:
        return None
    reaches = []
    for axis, stride in ((1, how.strideH), (2, how.strideW)):
        extra = call.filed[0][axis] - stride * call.filed_input[axis]
        total = weights[axis] - stride - extra
        if total < 0:
            return None
        reaches.append(transposed(weights[axis], stride, total // 2, extra))
    return Dependence({2: (reaches[0], reaches[1])}, {0: list})


def _resize(call: Call) -> Dependence | None:
    shape, how = _alone(call), call.options
    if shape is None or how.alignCorners or call.constants[1] is None:
        return None
    nearest = call.kind == "RESIZE_NEAREST_NEIGHBOR"
    where = ("tf_half_pixel_for_nn" if nearest else "half_pixel") if how.halfPixelCenters else "asymmetric"
    attributes = {
        "mode": "nearest" if nearest else "linear",
        "coordinate_transformation_mode": where,
        "nearest_mode": "floor",
    }
    rows, cols = (resized("Resize", 19, attributes, call.filed_input[axis], call.filed[0][axis]) for axis in (1, 2))
    return Dependence({0: (rows, cols)}, {1: lambda made: list(made[1:3])}) if rows and cols else None


def _blocks(call: Call) -> Dependence | None:
    size = call.options.blockSize
    reach = repeated(size) if call.kind == "DEPTH_TO_SPACE" else sliding(size, size, 0, 0)
    return _both(call, reach, reach) if _alone(call) else None


def _pad(call: Call) -> Dependence | None:
    pads = call.constants[1]
    if _alone(call) is None or call.value != 0 or pads is None or pads.shape != (4, 2) or pads[0].any():
        return None
    return _both(call, *(padded(int(pads[axis, 0]), int(pads[axis, 1])) for axis in (1, 2)))


def _slice(call: Call) -> Dependence | None:
    begin = call.constants[1]
    if _alone(call) is None or call.value != 0 or begin is None:
        return None
    starts = [int(n) for n in begin]
    return _cut(call, starts, {2: list})


def _strided_slice(call: Call) -> Dependence | None:
    begin, end, steps, how = *call.constants[1:4], call.options
    if (
        _alone(call) is None
        or call.value != 0
        or begin is None
        or end is None
        or steps is None
        or not len(begin) == len(call.filed[0]) == 4
        or (steps != 1).any()
        or how.ellipsisMask
        or how.newAxisMask
        or how.shrinkAxisMask
    ):
        return None
    starts = [
        0 if how.beginMask >> axis & 1 else int(n) + (call.filed_input[axis] if n < 0 else 0)
        for axis, n in enumerate(begin)
    ]
    ends: Callable[[Shape], list[int]] = lambda made: [s + n for s, n in zip(starts, made, strict=True)]  # noqa: E731
    found = _cut(call, starts, {1: lambda _: starts, 2: ends})
    return found and Dependence(found.reaches, found.sizes, {"beginMask": 0, "endMask": 0, "offset": False})


def _cut(call: Call, starts: list[int], sizes: Mapping[int, Callable[[Shape], list[int]]]) -> Dependence | None:
    ends = [n - start - m for n, start, m in zip(call.filed_input, starts, call.filed[0], strict=True)]
    if min(ends[1:3]) < 0:
        return None
    rows, cols = (cut(starts[axis], ends[axis]) for axis in (1, 2))
    return Dependence({0: (rows, cols)}, sizes)


def _elementwise(call: Call) -> Dependence | None:
    spread: dict[int, Reaches] = {}
    extents = {(s or ())[1:3] for s, placed in zip(call.shapes, call.placed, strict=True) if placed}
    for slot, shape in enumerate(call.shapes):
        if shape is None:
            continue
        full = len(shape) == 4 and shape[1:3] in extents and not call.fixed[slot]
        if call.placed[slot] and not full:
            return None
        if full:
            spread[slot] = SAME
        elif any(side != 1 for side in shape[-3:-1]):
            return None  # a constant map would differ from window to window
    return Dependence(spread) if len(extents) == 1 and spread else None


def _over_channels(call: Call) -> Dependence | None:
    """What mixes the last axis alone."""
    return Dependence({call.value: SAME}) if _alone(call) else None


def _concatenation(call: Call) -> Dependence | None:
    whole = all(s is not None and len(s) == 4 for s in call.shapes)
    if not whole or any(call.fixed) or call.options.axis not in (-1, 3):
        return None
    extents = {(s or ())[1:3] for s in call.shapes}
    return Dependence(dict.fromkeys(range(len(call.shapes)), SAME)) if len(extents) == 1 else None


def _split(call: Call) -> Dependence | None:
    axis = call.constants[0 if call.kind == "SPLIT" else 2]
    if _alone(call) is None or axis is None or int(axis.ravel()[0]) not in (-1, 3):
        return None
    return Dependence({call.value: SAME})


def _reduced(call: Call) -> Dependence | None:
    axes = call.constants[1]
    if _alone(call) is None or axes is None or not call.options.keepDims:
        return None
    return Dependence({0: SAME}) if {int(n) % 4 for n in axes.ravel()} == {3} else None


def _dense(call: Call) -> Dependence | None:
    return Dependence({0: SAME}) if _alone(call) and call.value == 0 and call.options.keepNumDims else None


def _reshape(call: Call) -> Dependence | None:
    """One that changes nothing; others lose the place of a pixel."""
    if _alone(call) is None or len(call.filed[0]) != 4 or call.filed[0][1:] != call.filed_input[1:]:
        return None
    return Dependence({0: SAME}, {1: list} if len(call.shapes) > 1 else {}, {"newShape": None})


_ELEMENTWISE = (
    "ABS", "ADD", "ADD_N", "CAST", "CEIL", "COS", "DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV",
    "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND",
    "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "NOT_EQUAL", "POW", "PRELU",
    "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN",
    "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "TANH",
)  # fmt: skip

RULES: Mapping[str, Rule] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "TRANSPOSE_CONV": _transposed,
    "MAX_POOL_2D": _pooling,
    "AVERAGE_POOL_2D": _pooling,
    "L2_POOL_2D": _pooling,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "DEPTH_TO_SPACE": _blocks,
    "SPACE_TO_DEPTH": _blocks,
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "SOFTMAX": _over_channels,
    "LOG_SOFTMAX": _over_channels,
    "L2_NORMALIZATION": _over_channels,
    "LOCAL_RESPONSE_NORMALIZATION": _over_channels,
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "FULLY_CONNECTED": _dense,
    "RESHAPE": _reshape,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduced),
}
"""By the kind of operator."""
