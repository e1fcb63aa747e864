"""An ONNX graph as a list of steps, and which pixels of its inputs each step's output depends on.

What a graph computes with the sizes of its values is folded away first, for one size of window, by ONNX Runtime.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
from onnx import numpy_helper

from tileseg.errors import InputError
from tileseg.nn.locality import Extent, Locality, analyse_graph
from tileseg.nn.onnx_file import image_input, parameters, sizes_of, title
from tileseg.nn.onnx_rules import Axes, Call, Dependence, Shape, dependence, operations
from tileseg.nn.onnx_session import reason
from tileseg.nn.reach import Reaches

if TYPE_CHECKING:
    import numpy.typing as npt

_SMALL = 1024
"""Numbers in a constant that may be a list of sizes; larger ones are weights, and their values decide no shape."""
_UNWANTED = [
    "GeluFusionL1", "LayerNormFusionL1", "MatMulAddFusion", "SimplifiedLayerNormFusion",
    "SliceConcatToSpaceToDepthFusion", "TransposeOptimizer",
]  # fmt: skip
"""What ONNX Runtime would rewrite besides: operators are to keep their names, and the kinds that the rules know."""

_QUANTISED = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
"""Operators by which a graph computes in whole numbers of 8 bits."""


@dataclass(frozen=True, slots=True)
class OnnxStep:
    """One operator."""

    node: onnx.NodeProto
    inputs: tuple[int, ...]
    """Values that it takes, constants aside."""
    slots: tuple[int, ...]
    """Place of each of ``inputs`` among the node's."""
    outputs: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and kind, for a message."""
        return title(self.node)


class OnnxGraph:
    """A network of one image to one map, for windows of any size that it takes."""

    def __init__(self, model: onnx.ModelProto, bands: int, name: str) -> None:
        """``model`` as :func:`tileseg.nn.onnx_file.open_onnx` gives it. Raises InputError if it takes other images."""
        self.model, self.bands, self.name = model, bands, name
        image = image_input(model.graph)
        shape = sizes_of(image)
        self.band_axis = _band_axis(shape, bands, name)
        """1 or 3: where the bands of an image are."""
        self.axes: Axes = (2, 3) if self.band_axis == 1 else (1, 2)
        rows, cols = (shape[axis] for axis in self.axes)
        self.own: Extent | None = (rows, cols) if rows and cols else None
        """The size that it was exported for, if it was for one."""
        # Normalisation becomes part of the convolutions before anything is cropped, so that all windows round alike.
        try:
            folded = optimised(model)
        except Exception as error:  # ONNX Runtime raises a dozen kinds of errors without a common parent
            raise InputError(f"model {name}: ONNX Runtime does not take it: {reason(error)}") from error
        # Shapes need small constants only: weights stay apart, so that finding them is quick.
        self.weights = {tensor.name: tensor for tensor in folded.graph.initializer if _is_weight(tensor)}
        self._bare = _without_weights(folded, self.weights)

    @property
    def parameters(self) -> int:
        """Numbers in its weights."""
        return parameters(self.model)

    @property
    def quantised(self) -> bool:
        """Whether it computes in whole numbers of 8 bits, at least in part."""
        return any(node.op_type in _QUANTISED for node in self.model.graph.node)

    def analyse(self) -> Locality:
        """Stride, radius and cost. Raises InputError if it is no graph of one image to a map of the same size."""
        return analyse_graph(lambda rows, cols: SizedOnnxGraph(self, rows, cols), self.own, self.name)

    def image_shape(self, rows: int, cols: int) -> list[int]:
        """Shape of one image."""
        return [1, self.bands, rows, cols] if self.band_axis == 1 else [1, rows, cols, self.bands]

    def plain(self, rows: int, cols: int) -> onnx.ModelProto:
        """The graph as it stands, for images of one size."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        _set_shape(image_input(model.graph), self.image_shape(rows, cols))
        model.graph.output[0].type.tensor_type.ClearField("shape")
        return model

    def folded(self, rows: int, cols: int) -> onnx.ModelProto:
        """The graph for one image of one size, its weights among the inputs, with the shapes of all values."""
        model = onnx.ModelProto()
        model.CopyFrom(self._bare)
        _set_shape(image_input(model.graph), self.image_shape(rows, cols))
        model.graph.output[0].type.tensor_type.ClearField("shape")
        try:
            return onnx.shape_inference.infer_shapes(optimised(model))
        except Exception as error:  # as above
            raise InputError(f"model {self.name} does not take a window of {rows} x {cols}: {reason(error)}") from error


class SizedOnnxGraph:
    """A graph at one size of window (see :class:`tileseg.nn.locality.SizedGraph`)."""

    def __init__(self, graph: OnnxGraph, rows: int, cols: int) -> None:
        """Find all reaches. Raises InputError if the graph does not take that size."""
        self.model = graph.folded(rows, cols)
        found = self.model.graph
        values = [*found.value_info, *found.output, *found.input]
        shapes: dict[str, Shape | None] = {value.name: _static(value) for value in values}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in found.initializer}
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
        fixed = {*constants, *graph.weights}
        opset = next(one.version for one in self.model.opset_import if one.domain in ("", "ai.onnx"))

        image = image_input(found).name
        numbers = {image: 0}
        self.axes: dict[int, Axes] = {0: graph.axes}
        """Rows and columns of the values that are maps, as far as they are known."""
        self.nodes: list[tuple[onnx.NodeProto, int | None]] = []
        """All operators, with the index of their step; None for those that only constants go into."""
        self.steps: list[OnnxStep] = []
        self.dependences: list[Dependence | None] = []
        self._work: list[float] = []
        self.shapes: list[Shape | None] = [shapes[image]]
        self.placed = {0}
        """Values whose pixels have a place in the image."""
        for node in found.node:
            outputs = [name for name in node.output if name]
            if all(name in fixed for name in node.input if name):
                fixed.update(outputs)
                self.nodes.append((node, None))
                continue
            self.nodes.append((node, len(self.steps)))
            for name in outputs:
                numbers[name] = len(self.shapes)
                self.shapes.append(shapes.get(name))
            slots = tuple(slot for slot, name in enumerate(node.input) if name and name not in fixed)
            taken, given = (
                tuple(numbers[name] for name in names) for names in ([node.input[s] for s in slots], outputs)
            )
            step = OnnxStep(node, taken, slots, given)
            places = {slot: self.axes[value] for slot, value in zip(slots, taken, strict=True) if value in self.placed}
            call = _call(step, opset, shapes, constants, fixed, places)
            depends = self._checked(step, dependence(call)) if call and places else None
            self.steps.append(step)
            self.dependences.append(depends)
            self._work.append(operations(call) if call else 0.0)
            if depends is not None:
                self.axes.update(dict.fromkeys(given, depends.axes))
                self.placed.update(given)
        self.output = numbers[found.output[0].name]
        last = self.shapes[self.output] or ()
        if self.output not in self.axes and len(last) == 4:
            self.axes[self.output] = (1, 2) if last[1:3] == (rows, cols) else (2, 3)
        self.extents = [self._extent(value) for value in range(len(self.shapes))]
        self.elements = [math.prod(shape or ()) for shape in self.shapes]

    @property
    def channels(self) -> int:
        """Of the map."""
        axes = self.axes.get(self.output, ())
        return math.prod(size for axis, size in enumerate(self.shapes[self.output] or ()) if axis not in axes)

    @property
    def output_axes(self) -> Axes:
        """Rows and columns of the map."""
        return self.axes[self.output]

    def reaches(self, step: int, placed: Sequence[bool]) -> tuple[Reaches | None, ...]:
        """By the rules of :mod:`tileseg.nn.onnx_rules`."""
        del placed  # what has a place was known when the rules were asked
        found = self.dependences[step]
        return tuple(found.reaches.get(slot) if found else None for slot in self.steps[step].slots)

    def flops(self, step: int) -> float:
        """By the kind of operator; one per number of input or output where it is no kernel."""
        one, work = self.steps[step], self._work[step]
        given, made = self.elements[one.inputs[0]], self.elements[one.outputs[0]]
        return work * (given if one.node.op_type == "ConvTranspose" else made) if work else float(max(given, made))

    def hidden_elements(self, step: int) -> int:
        """None: what operators keep beside their inputs and outputs is small."""
        del step
        return 0

    def _checked(self, step: OnnxStep, found: Dependence | None) -> Dependence | None:
        """A dependence whose inputs without a place are maps in one way, which is kept."""
        for slot, axes in found.input_axes.items() if found else ():
            value = step.inputs[step.slots.index(slot)]
            if self.axes.setdefault(value, axes) != axes:
                return None
        return found

    def _extent(self, value: int) -> Extent | None:
        shape, axes = self.shapes[value], self.axes.get(value)
        return (shape[axes[0]], shape[axes[1]]) if shape and axes else None


def _call(
    step: OnnxStep,
    opset: int,
    shapes: Mapping[str, Shape | None],
    constants: Mapping[str, npt.NDArray[Any]],
    fixed: Collection[str],
    places: Mapping[int, Axes],
) -> Call | None:
    """What the rules are told of an operator; None if it is none of ONNX's own or its shapes are not known."""
    node = step.node
    made = [shapes.get(name) for name in node.output if name]
    if (
        node.domain not in ("", "ai.onnx")
        or None in made
        or any(name and shapes.get(name) is None for name in node.input)
    ):
        return None
    return Call(
        kind=node.op_type,
        opset=opset,
        attributes={one.name: _attribute(one) for one in node.attribute},
        shapes=tuple(shapes[name] if name else None for name in node.input),
        constants=tuple(constants.get(name) for name in node.input),
        fixed=tuple(name in fixed for name in node.input),
        axes=tuple(places.get(slot) for slot in range(len(node.input))),
        made=tuple(shape for shape in made if shape is not None),
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _band_axis(shape: Sequence[int | None], bands: int, name: str) -> int:
    """Which axis of (n, bands, rows, columns) or (n, rows, columns, bands) the bands are, by the sizes."""
    sure = [axis for axis in (1, 3) if shape[axis] == bands]
    if len(sure) == 2 and (shape[2] != bands or None in shape):
        sure = [axis for axis in sure if shape[4 - axis] == shape[2]] or sure
    if len(sure) != 1:
        text = ", ".join(str(size or "any") for size in shape)
        raise InputError(
            f"model {name} takes images of ({text}), but {bands} bands are named: expected (n, {bands}, rows, columns) "
            f"or (n, rows, columns, {bands})"
        )
    return sure[0]


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > _SMALL or len(tensor.dims) > 1


def _without_weights(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """The model with its weights among the inputs, by their shapes alone."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.functions.extend(model.functions)
    graph = bare.graph
    graph.name, image = model.graph.name or "graph", image_input(model.graph)
    graph.node.extend(model.graph.node)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in weights)
    graph.input.append(image)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in weights.values()
    )
    graph.output.extend(model.graph.output)
    return bare


def optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with everything computed that does not depend on an image, as ONNX Runtime does before it runs one."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=_UNWANTED
        )
        return onnx.load_model(path, load_external_data=False)


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    value.type.tensor_type.ClearField("shape")
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def _static(value: onnx.ValueInfoProto) -> Shape | None:
    """The shape of a value, if all of it is known."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None
