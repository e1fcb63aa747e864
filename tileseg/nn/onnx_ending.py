"""What an ONNX graph ends in: for :mod:`tileseg.nn.activation`."""

from __future__ import annotations

from tileseg.nn.activation import Ending, EndingKind
from tileseg.nn.onnx_graph import SizedOnnxGraph

_KINDS: dict[str, EndingKind] = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "HardSigmoid": "sigmoid",
}  # fmt: skip
_PASSING = {
    "Cast", "Dropout", "Expand", "Identity", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze",
    "Upsample",
}  # fmt: skip
"""Operators after which probabilities are still probabilities."""


def ending(graph: SizedOnnxGraph) -> Ending | None:
    """The last step that changes what the output means; None where there is none."""
    makers = {value: step for step in graph.steps for value in step.outputs}
    value = graph.output
    while value in makers and makers[value].node.op_type in _PASSING:
        value = makers[value].inputs[0]
    if value not in makers:
        return None
    step = makers[value]
    kind = _KINDS.get(step.node.op_type)
    # The rule of a softmax knows whether it is taken over channels; without a place, nobody does.
    if kind == "softmax" and step.inputs[0] in graph.placed and value not in graph.placed:
        kind = "softmax elsewhere"
    return Ending(step.title, kind)
