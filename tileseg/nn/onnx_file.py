"""ONNX files: opened as data, checked, and brought to one image in and one map out. Nothing in them is run here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from tileseg.errors import InputError, first_line

LARGEST_FILE = 2**31 - 1
"""Bytes: more than that no ONNX file can hold beside external data."""

_OWN = ("", "ai.onnx")
_KNOWN = (*_OWN, "com.microsoft")
"""Domains whose operators ONNX Runtime has itself."""
_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def open_onnx(path: Path, output: str | None = None) -> onnx.ModelProto:
    """Open an ONNX file as a graph of one image to one map; what does not lead to the map is left out.

    Args:
        path: The file.
        output: Which of several outputs is the map.

    Raises:
        InputError: In one line, if it is anything else, or needs files or code besides.
    """
    model = _parsed(path)
    for graph in _graphs(model):
        _check_nodes(graph, path)
        _check_weights(graph, path)
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # some exporters leave it out; the checker insists
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a valid ONNX model: {first_line(error)}") from error
    _keep_output(model.graph, output, path)
    _check_input(model.graph, path)
    return model


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write an ONNX file: the same graph always gives the same bytes."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def image_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The input that is no weight: before version 4, weights are listed among the inputs too."""
    weights = {tensor.name for tensor in graph.initializer}
    image: onnx.ValueInfoProto = next(one for one in graph.input if one.name not in weights)
    return image


def sizes_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sizes of a value's axes; None where any will do."""
    return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]


def title(node: onnx.NodeProto) -> str:
    """Name and kind of an operator, for a message."""
    return f"{node.name or next((name for name in node.output if name), '?')} ({node.op_type})"


def parameters(model: onnx.ModelProto) -> int:
    """How many numbers the weights have: those that are no lists of sizes."""
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.STRING)
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type not in whole)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(
                f"{path}: {size / 2**30:.1f} GiB: expected less than 2 GiB, the most that an ONNX file can hold; store "
                "the weights in 16 bits or 8"
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected an ONNX file") from error
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        what = "a zip archive" if content.startswith(b"PK") else "it cannot be read as one, or is cut short"
        raise InputError(f"{path}: not an ONNX file: {what}; expected a network exported to ONNX") from error
    if not model.ir_version or not model.graph.node:
        raise InputError(f"{path}: not an ONNX file: it holds no graph; expected a network exported to ONNX")
    return model


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The graph and everything that may hold operators: functions, and graphs within operators."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _check_nodes(graph: onnx.GraphProto | onnx.FunctionProto, path: Path) -> None:
    for node in graph.node:
        if node.op_type in _FLOW and node.domain in _OWN:
            raise InputError(
                f"{path}: operator {title(node)} runs other graphs as the values tell: such graphs cannot be checked "
                "and are refused; export the network for inference, without branches and loops"
            )
        if node.op_type in _RANDOM and node.domain in _OWN:
            raise InputError(f"{path}: operator {title(node)} draws random numbers; export the network for inference")
        if node.domain not in _KNOWN:
            raise InputError(
                f"{path}: operator {title(node)} is of {node.domain}, which is no part of ONNX; export the network "
                "with operators of ONNX alone"
            )


def _check_weights(graph: onnx.GraphProto | onnx.FunctionProto, path: Path) -> None:
    tensors: list[onnx.TensorProto] = list(graph.initializer) if isinstance(graph, onnx.GraphProto) else []
    if isinstance(graph, onnx.GraphProto) and graph.sparse_initializer:
        raise InputError(f"{path}: its weights are sparse; expected dense ones")
    for node in graph.node:
        for attribute in node.attribute:
            tensors.extend([attribute.t] if attribute.HasField("t") else attribute.tensors)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InputError(
                f"{path}: weights are in another file (tensor {tensor.name}): expected all in one; save it with "
                "onnx.save(onnx.load(FILE), OTHER), or export it with external_data=False"
            )
        if tensor.data_type == onnx.TensorProto.STRING:
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: tensor {tensor.name} cannot be read: {first_line(error)}") from error
        if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
            raise InputError(f"{path}: tensor {tensor.name} holds NaN: the weights are no numbers")


def _check_input(graph: onnx.GraphProto, path: Path) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    images = [one for one in graph.input if one.name not in weights]
    if len(images) != 1:
        names = ", ".join(one.name for one in images) or "none"
        raise InputError(f"{path}: the map is computed from {len(images)} inputs ({names}): expected one, the image")
    kind = images[0].type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        raise InputError(
            f"{path}: input {images[0].name} is of {onnx.TensorProto.DataType.Name(kind)}: expected FLOAT; export the "
            "network in float32"
        )
    shape = sizes_of(images[0])
    if len(shape) != 4:
        raise InputError(
            f"{path}: input {images[0].name} has the shape ({', '.join(str(n or 'any') for n in shape)}): expected "
            "images (n, bands, rows, columns) or (n, rows, columns, bands)"
        )


def _keep_output(graph: onnx.GraphProto, output: str | None, path: Path) -> None:
    """Leave the map alone as output, and nothing that it is not computed from."""
    names = [one.name for one in graph.output]
    listed = ", ".join(names)
    if output is None and len(names) != 1:
        raise InputError(f"{path}: {len(names)} outputs ({listed}): say which is the map, --output NAME")
    if output is not None and output not in names:
        raise InputError(f"{path}: no output {output}: expected one of {listed}")
    kept = graph.output[names.index(output) if output else 0]
    needed, nodes = {kept.name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(node.input)
    for field, chosen in (
        ("output", [kept]),
        ("node", nodes[::-1]),
        ("initializer", [t for t in graph.initializer if t.name in needed]),
        ("input", [one for one in graph.input if one.name in needed]),
        ("value_info", []),
    ):
        copies = [type(one).FromString(one.SerializeToString()) for one in chosen]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
