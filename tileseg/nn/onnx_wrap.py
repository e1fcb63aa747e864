"""An ONNX graph for another program: with scaling and probabilities inside, of another size, layout or precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tileseg.card import Scaling
from tileseg.nn.onnx_graph import OnnxGraph, SizedOnnxGraph, optimised
from tileseg.nn.onnx_tidy import tidy

Layout = Literal["nhwc", "nchw"]
"""Order of axes: (n, rows, columns, bands) or (n, bands, rows, columns)."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What stands around a network in a file."""

    scaling: Scaling | None = None
    """Applied to pixel values; None: the image has to be scaled already."""
    probabilities: bool = False
    """Whether a softmax follows the logits, or a sigmoid the single one."""
    size: tuple[int, int] | None = None
    """Rows and columns of the image; None: any."""
    layout: Layout | None = None
    """Of image and map; None: the graph's own."""


def wrapped(graph: OnnxGraph, wrapping: Wrapping) -> onnx.ModelProto:
    """The graph with its input ``image`` and its output ``map``, each (n, rows, columns, channels) or channels first.

    Raises InputError if the graph does not take images of that size.
    """
    side = 4 * graph.analyse().stride
    sized = SizedOnnxGraph(graph, *(wrapping.size or (side, side)))
    channel_axis = 6 - sum(sized.output_axes)
    layout: Layout = wrapping.layout or ("nhwc" if graph.band_axis == 3 else "nchw")
    axis = 3 if layout == "nhwc" else 1
    model = tidy(optimised(graph.model) if graph.model.functions else graph.model)

    before = Chain("outer_image")
    before.move_axis(axis, graph.band_axis)
    if wrapping.scaling is not None:
        before.scale(wrapping.scaling, graph.band_axis, graph.bands)
    after = Chain("inner_map")
    if wrapping.probabilities:
        if sized.channels == 1:
            after.add("Sigmoid")
        else:
            after.add("Softmax", axis=channel_axis)
    after.move_axis(channel_axis, axis)

    renamed = {"image": before.value, "map": "inner_map"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                names[slot] = renamed.get(name, name)
    ends = []
    for name, channels in (("outer_image", graph.bands), (after.value, sized.channels)):
        sizes: list[int | str] = ["n", "rows", "columns"] if wrapping.size is None else [1, *wrapping.size]
        sizes.insert(axis, channels)
        ends.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes))
    whole = onnx.helper.make_graph(
        [*before.nodes, *model.graph.node, *after.nodes], "network", [ends[0]], [ends[1]],
        [*model.graph.initializer, *before.weights],
    )  # fmt: skip
    made = onnx.helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)
    # With a size, shapes that were computed become constants.
    return tidy(made if wrapping.size is None else optimised(made))


class Chain:
    """Operators one after the other."""

    def __init__(self, value: str) -> None:
        self.value = value
        """What the last one gives."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *constants: npt.NDArray[np.float32], **attributes: Any) -> None:
        """One more, that takes the value and constants."""
        made = f"{self.value}_{kind.lower()}"
        names = [f"{made}_{place}" for place in range(len(constants))]
        self.weights.extend(numpy_helper.from_array(one, name) for one, name in zip(constants, names, strict=True))
        self.nodes.append(onnx.helper.make_node(kind, [self.value, *names], [made], **attributes))
        self.value = made

    def move_axis(self, source: int, target: int) -> None:
        """Bring the channels from one of the axes 1 and 3 to the other."""
        if source != target:
            self.add("Transpose", perm=(0, 3, 1, 2) if target == 1 else (0, 2, 3, 1))

    def scale(self, scaling: Scaling, axis: int, bands: int) -> None:
        """What a run does to pixel values."""
        shape = [1, 1, 1, 1]
        shape[axis] = bands

        def per_band(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
            return np.broadcast_to(np.asarray(values, np.float64), bands).astype(np.float32).reshape(shape)

        if scaling.kind == "window":
            self.add("Clip", *(np.asarray(limit, np.float32) for limit in scaling.limits))
        self.add("Sub", per_band(scaling.zero))
        self.add("Mul", per_band(1 / np.asarray(scaling.unit, np.float64)))


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph that computes in float16, from an image and to a map in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return tidy(convert_float_to_float16(model, keep_io_types=True))
