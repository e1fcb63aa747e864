"""Convolutions whose float32 sums are exact, so that they are the same in any order and any program.

Before values are rounded to 8 bits, the last bit of a float32 sum decides now and then which way: engines that sum in
another order for windows of other sizes would give other maps. Weights of 10 bits and images of about 12 have sums of
at most 24, which float32 holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from tileseg.nn.onnx_session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

_WEIGHT_BITS = 10
_SUM_BITS = 23
"""One less than float32 has: the bias needs some room too."""
_HEADROOM = 2.0
"""Times the largest value that was seen: larger ones are summed with rounding, as ever."""
_PLAIN = {"Concat", "Conv", "DequantizeLinear", "MaxPool", "QuantizeLinear", "Relu", "Resize", "Round", "Transpose"}
"""Operators that OpenVINO computes in whole numbers, or of which every number is computed by itself."""


def with_exact_sums(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[npt.NDArray[np.float32]]
) -> onnx.ModelProto:
    """The model with the weights of some convolutions and the values that they take on grids of powers of two.

    Args:
        model: One of one image.
        names: Of operators; those that are no convolution of constant weights are left as they are.
        images: (1, ...) as the model takes them: they tell how large the values are.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.name in names and node.op_type == "Conv"]
    nodes = [node for node in nodes if all(name in weights for name in node.input[1:])]
    largest = {name: _largest(model, name, images) for name in {node.input[0] for node in nodes}}
    for node in nodes:
        kernel = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
        grid = _power(np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 2 ** (_WEIGHT_BITS - 1))
        levels = np.rint(kernel / grid)
        most = max(1.0, float(np.abs(levels).sum(axis=(1, 2, 3)).max()))
        step = float(_power(_HEADROOM * largest[node.input[0]] / 2 ** (_SUM_BITS - math.ceil(math.log2(most)))))
        _replace(weights[node.input[1]], levels * grid)
        if len(node.input) > 2:
            bias, unit = numpy_helper.to_array(weights[node.input[2]]), grid.reshape(-1) * step
            _replace(weights[node.input[2]], np.rint(bias / unit) * unit)
        _round(graph, node, step)
    return made


def sums_are_whole(model: onnx.ModelProto) -> bool:
    """Whether OpenVINO too computes every sum of a quantised graph in whole numbers, or exactly.

    It goes back to float32 where values between layers may be negative (their zero points are not 0), for transposed
    and depthwise convolutions and for what has weights otherwise; ONNX Runtime's results stay the same there.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Mul" and any(name in constants and not constants[name].dims for name in node.input):
            continue  # of the first layer's grid
        if node.op_type not in _PLAIN or any(one.name == "group" and one.i != 1 for one in node.attribute):
            return False
        zero = constants.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is not None and numpy_helper.to_array(zero).any():
            return False
    return True


def _largest(model: onnx.ModelProto, name: str, images: Sequence[npt.NDArray[np.float32]]) -> float:
    """The largest absolute number that a value of the graph has for some images."""
    compute: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = np.asarray
    if name != model.graph.input[0].name:
        part = onnx.ModelProto()
        part.CopyFrom(model)
        part.graph.ClearField("output")
        part.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        compute = Session(part, plain=True)
    return max(float(np.abs(compute(image)).max()) for image in images)


def _power(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The next powers of two; 1 for 0."""
    positive = np.where(np.asarray(values) > 0, values, 1.0)
    return np.asarray(2.0 ** np.ceil(np.log2(positive)))


def _replace(tensor: onnx.TensorProto, values: npt.NDArray[np.float64]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _round(graph: onnx.GraphProto, node: onnx.NodeProto, step: float) -> None:
    """Have an operator take its value rounded to multiples of a power of two."""
    value = node.input[0]
    names = [f"{node.name}_{part}" for part in ("per_step", "step", "in_steps", "rounded", "exact")]
    for name, factor in zip(names, (1 / step, step), strict=False):
        graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), name))
    made = (
        onnx.helper.make_node("Mul", [value, names[0]], [names[2]]),
        onnx.helper.make_node("Round", [names[2]], [names[3]]),
        onnx.helper.make_node("Mul", [names[3], names[1]], [names[4]]),
    )
    place = next(index for index, each in enumerate(graph.node) if each.name == node.name)
    for each in reversed(made):
        graph.node.insert(place, each)
    graph.node[place + len(made)].input[0] = names[4]
