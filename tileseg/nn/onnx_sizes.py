"""ONNX graphs that were exported for images of one size, made to take any."""

from __future__ import annotations

import numpy as np
import onnx

from tileseg.errors import InputError
from tileseg.nn.onnx_crop import Draft, settled
from tileseg.nn.onnx_graph import OnnxGraph, OnnxStep, SizedOnnxGraph
from tileseg.nn.onnx_session import Session


def with_free_size(graph: OnnxGraph) -> OnnxGraph:
    """The same operators and weights for images of any height and width; the graph itself where it takes those.

    Raises:
        InputError: In one line, if an operator was made for the size at hand.
    """
    if graph.own is None:
        return graph
    rows, cols = graph.own
    sized = SizedOnnxGraph(graph, rows, cols)
    source = sized.model.graph
    draft = Draft(sized, graph)
    for node, index in sized.nodes:
        if index is None:
            draft.nodes.append(node)
        else:
            step, depends = sized.steps[index], sized.dependences[index]
            inputs = list(node.input)
            if depends is not None and depends.shape_input is not None:
                inputs[depends.shape_input] = _free_shape(draft, sized, step)
            draft.nodes.append(settled(draft, step.node, inputs, depends))
    model = draft.model(
        sized.model, _free(source.input[0], sized.axes[0]), _free(source.output[0], sized.axes[sized.output])
    )
    free = OnnxGraph(model, graph.bands, graph.name)
    try:
        free.analyse()
    except InputError as error:
        raise InputError(
            f"model {graph.name} takes images of {rows} x {cols} alone: {error}; export it for any rows and columns "
            "(dynamic axes)"
        ) from error
    _check_equal(graph, free)
    return free


def _free(value: onnx.ValueInfoProto, axes: tuple[int, int]) -> onnx.ValueInfoProto:
    """An image or a map of any number, height and width."""
    sizes: list[int | str] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    for axis, name in zip((0, *axes), ("n", "rows", "columns"), strict=True):
        sizes[axis] = name
    return onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, sizes)


def _free_shape(draft: Draft, sized: SizedOnnxGraph, step: OnnxStep) -> str:
    """The shape that a step gives its output, with the rows and columns that its input has."""
    value, made = step.inputs[0], step.outputs[0]
    shape, before = draft.name(), sized.axes[value]
    draft.add("Shape", [step.node.input[step.slots[0]]], shape)
    pieces = []
    for axis, size in enumerate(sized.shapes[made] or ()):
        if axis in sized.axes[made]:
            piece = draft.name()
            draft.add(
                "Gather", [shape, draft.constant(np.array([before[sized.axes[made].index(axis)]], np.int64))], piece
            )
        else:
            piece = draft.constant(np.array([size], np.int64))
        pieces.append(piece)
    joined = draft.name()
    draft.add("Concat", pieces, joined, axis=0)
    return joined


def _check_equal(graph: OnnxGraph, free: OnnxGraph) -> None:
    """Both give the same for an image of the size that the graph was exported for."""
    assert graph.own is not None
    image = np.random.default_rng(0).normal(size=graph.image_shape(*graph.own)).astype(np.float32)
    one, other = (Session(which.plain(*graph.own), plain=True)(image) for which in (graph, free))
    if one.shape != other.shape or not np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True):
        size = " x ".join(map(str, graph.own))
        raise InputError(f"model {graph.name} takes images of {size} alone: made for any size, it gives other values")
