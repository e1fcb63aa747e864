"""An ONNX graph for one size of window: decoder cropping by the plan of :mod:`tileseg.nn.crop`, with Slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tileseg.nn.crop import Part, plan_crop
from tileseg.nn.onnx_graph import OnnxGraph, SizedOnnxGraph
from tileseg.nn.onnx_rules import Axes, Dependence, Shape

IMAGE, MAP = "tileseg_image", "tileseg_map"
"""Names of the input and the output of a graph for a window."""


def cropped(graph: OnnxGraph, rows: int, cols: int, margin: int) -> onnx.ModelProto:
    """The graph for one image (1, rows, columns, bands), giving (1, rows - 2 margin, columns - 2 margin, channels).

    Raises:
        UsageError: If nothing would be left, or the window is no multiple of the stride.
        InputError: If the graph does not take a window of that size.
    """
    sized = SizedOnnxGraph(graph, rows, cols)
    plan = plan_crop(sized, margin)
    source = sized.model.graph
    draft = Draft(sized, graph)
    image, found = source.input[0].name, source.output[0].name
    draft.add("Transpose", [IMAGE], image, perm=[0, 3, 1, 2] if graph.band_axis == 1 else [0, 1, 2, 3])
    for node, index in sized.nodes:
        if index is None:
            draft.nodes.append(node)  # computed from constants
        elif index in plan.needed:
            step, depends = sized.steps[index], sized.dependences[index]
            inputs = list(node.input)
            for place, (slot, value) in enumerate(zip(step.slots, step.inputs, strict=True)):
                if crop := plan.crops.get((index, place)):
                    inputs[slot] = draft.crop(inputs[slot], sized.axes[value], *crop)
            if depends is not None and depends.shape_input is not None:
                shape = _shape(sized, step.outputs[0], plan.parts)
                inputs[depends.shape_input] = draft.constant(np.array(shape, np.int64))
            draft.nodes.append(settled(draft, node, inputs, depends))
    axes, have = sized.axes[sized.output], plan.parts[sized.output]
    if have != plan.core:
        found = draft.crop(found, axes, have, plan.core)
    draft.add("Transpose", [found], MAP, perm=[0, *axes, 6 - sum(axes)])
    kind = onnx.TensorProto.FLOAT
    given = onnx.helper.make_tensor_value_info(IMAGE, kind, [1, rows, cols, graph.bands])
    return draft.model(sized.model, given, onnx.helper.make_tensor_value_info(MAP, kind, None))


class Draft:
    """A graph that is being written."""

    def __init__(self, sized: SizedOnnxGraph, graph: OnnxGraph) -> None:
        """Begin with the weights of a graph and the constants of it at one size."""
        source = sized.model.graph
        self.nodes: list[onnx.NodeProto] = []
        self._constants = [*source.initializer, *graph.weights.values()]
        self._taken = {name for node in source.node for name in node.output}
        self._taken.update(value.name for value in (*self._constants, *source.input))
        self._named = 0

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Add an operator of one output."""
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))

    def constant(self, values: npt.ArrayLike) -> str:
        """Add a constant; its name."""
        name = self.name()
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def crop(self, value: str, axes: Axes, have: Part, want: Part) -> str:
        """A part of a value of which there is a part already."""
        starts = [w[0] - h[0] for h, w in zip(have, want, strict=True)]
        ends = [w[1] - h[0] for h, w in zip(have, want, strict=True)]
        name = self.name()
        self.add(
            "Slice", [value, *(self.constant(np.array(numbers, np.int64)) for numbers in (starts, ends, axes))], name
        )
        return name

    def name(self) -> str:
        """One that is not taken yet."""
        while (name := f"tileseg_{self._named}") in self._taken:
            self._named += 1
        self._taken.add(name)
        return name

    def model(self, like: onnx.ModelProto, image: onnx.ValueInfoProto, result: onnx.ValueInfoProto) -> onnx.ModelProto:
        """What was written, in the versions of another model."""
        graph = onnx.helper.make_graph(self.nodes, "network", [image], [result], self._constants)
        return onnx.helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version)


def settled(draft: Draft, node: onnx.NodeProto, inputs: list[str], depends: Dependence | None) -> onnx.NodeProto:
    """An operator with these inputs that does to a part of an image what it did to the whole."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    if depends is not None:
        for slot, values in depends.inputs.items():
            inputs += [""] * (slot + 1 - len(inputs))
            inputs[slot] = "" if values is None else draft.constant(values)
        made.ClearField("attribute")
        made.attribute.extend(one for one in node.attribute if one.name not in depends.attributes)
        made.attribute.extend(
            onnx.helper.make_attribute(name, value) for name, value in depends.attributes.items() if value is not None
        )
    while inputs and not inputs[-1]:
        inputs.pop()
    made.ClearField("input")
    made.input.extend(inputs)
    return made


def _shape(sized: SizedOnnxGraph, value: int, parts: Mapping[int, Part]) -> Shape:
    """The shape of a value of which a part is made."""
    shape = list(sized.shapes[value] or ())
    for axis, (start, stop) in zip(sized.axes[value], parts[value], strict=True):
        shape[axis] = stop - start
    return tuple(shape)
