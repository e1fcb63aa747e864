"""An ONNX graph said in one way only: the same network gives the same bytes, whatever wrote it and where."""

from __future__ import annotations

from collections import Counter

import onnx

from tileseg.nn.onnx_file import image_input

_IMAGE, _MAP = "image", "map"


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same operators and weights, ordered and named by how the map is computed; nothing that is not needed.

    ``model`` has one image and one map, as :func:`tileseg.nn.onnx_file.open_onnx` gives it, and no functions.
    """
    graph = model.graph
    image, result = image_input(graph), graph.output[0]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    names = {"": "", image.name: _IMAGE, result.name: _MAP}
    counts: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []
    for source in _ordered(graph):
        node = onnx.NodeProto()
        node.CopyFrom(source)
        node.name = f"{source.op_type.lower()}_{counts[source.op_type]}"
        node.doc_string = ""
        counts[source.op_type] += 1
        for slot, name in enumerate(source.input):
            if name not in names:
                names[name] = f"{node.name}_{slot}"
                tensor = onnx.TensorProto()
                tensor.CopyFrom(weights[name])
                tensor.name, tensor.doc_string = names[name], ""
                kept.append(tensor)
        for slot, name in enumerate(source.output):
            names.setdefault(name, f"{node.name}_out{slot or ''}")
        node.ClearField("input")
        node.ClearField("output")
        node.input.extend(names[name] for name in source.input)
        node.output.extend(names[name] for name in source.output)
        nodes.append(node)
    ends = []
    for value, name in ((image, _IMAGE), (result, _MAP)):
        end = onnx.ValueInfoProto()
        end.CopyFrom(value)
        end.name, end.doc_string = name, ""
        ends.append(end)
    domains = {node.domain or "ai.onnx" for node in nodes}
    versions = [one for one in model.opset_import if (one.domain or "ai.onnx") in domains]
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "network", [ends[0]], [ends[1]], kept),
        opset_imports=sorted(versions, key=lambda one: one.domain),
        ir_version=model.ir_version,
        producer_name="tileseg",
    )


def _ordered(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The operators that the map is computed from, each after what it takes, by the places of their inputs alone."""
    makers = {name: node for node in graph.node for name in node.output}
    found: list[onnx.NodeProto] = []
    done: set[int] = set()
    pending = [(makers[graph.output[0].name], 0)] if graph.output[0].name in makers else []
    while pending:
        node, slot = pending.pop()
        if id(node) in done:
            continue
        if slot == len(node.input):
            done.add(id(node))
            found.append(node)
            continue
        pending.append((node, slot + 1))
        if node.input[slot] in makers:
            pending.append((makers[node.input[slot]], 0))
    return found
