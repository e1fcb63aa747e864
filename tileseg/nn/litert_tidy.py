"""LiteRT graphs in plainer operators: what Keras's converter makes of a repetition of pixels becomes an enlargement."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from tileseg.nn.litert_file import constant, kind_of, schema

_PARTS = {"RESHAPE", "TILE"}


def tidied(model: Any) -> Any:
    """The model with every chain of RESHAPE and TILE that repeats pixels as one RESIZE_NEAREST_NEIGHBOR.

    ``model`` (a ``ModelT``) is changed.
    """
    graph = model.subgraphs[0]
    readers = Counter(int(n) for one in graph.operators for n in one.inputs if n >= 0)
    readers.update(int(n) for n in graph.outputs)
    kept: list[Any] = []
    chain: list[Any] = []
    for operator in [*graph.operators, None]:
        if operator is not None and kind_of(model, operator) in _PARTS and _follows(chain, operator, readers):
            chain.append(operator)
            continue
        kept.extend(_replaced(model, chain))
        chain = [operator] if operator is not None and kind_of(model, operator) in _PARTS else []
        kept.extend([] if chain or operator is None else [operator])
    graph.operators = kept
    return model


def _follows(chain: list[Any], operator: Any, readers: Counter[int]) -> bool:
    """Whether an operator alone takes what the last of a chain made."""
    return bool(chain) and operator.inputs[0] == chain[-1].outputs[0] and readers[int(operator.inputs[0])] == 1


def _replaced(model: Any, chain: list[Any]) -> list[Any]:
    """One operator for a chain that repeats pixels; any other chain as it is."""
    graph = model.subgraphs[0]
    if len(chain) < 3:
        return chain
    shapes = [
        tuple(int(n) for n in tensor.shape) if (tensor := graph.tensors[index]).shape is not None else ()
        for index in (chain[0].inputs[0], *(one.outputs[0] for one in chain))
    ]
    before, after = shapes[0], shapes[-1]
    if len(before) != 4 or len(after) != 4 or (before[0], before[3]) != (after[0], after[3]):
        return chain
    if after[1] % before[1] or after[2] % before[2]:
        return chain
    places = np.arange(math.prod(before)).reshape(before)
    found = places
    for one, shape in zip(chain, shapes[1:], strict=True):
        if kind_of(model, one) == "TILE":
            times = constant(model, graph.tensors[one.inputs[1]])
            if times is None:
                return chain
            found = np.tile(found, [int(n) for n in times])
        if math.prod(shape) != found.size:
            return chain
        found = found.reshape(shape)
    if not np.array_equal(found, places.repeat(after[1] // before[1], 1).repeat(after[2] // before[2], 2)):
        return chain
    return [_enlargement(model, chain, after)]


def _enlargement(model: Any, chain: list[Any], after: tuple[int, ...]) -> Any:
    known, graph = schema(), model.subgraphs[0]
    code = known.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = known.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR
    code.version = 3
    model.operatorCodes.append(code)
    buffer, sizes = known.BufferT(), known.TensorT()
    buffer.data = np.frombuffer(np.array(after[1:3], np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    sizes.name, sizes.type = f"tileseg_sizes_{len(graph.tensors)}".encode(), known.TensorType.INT32
    sizes.shape, sizes.buffer = np.array([2], np.int32), len(model.buffers) - 1
    graph.tensors.append(sizes)
    made = known.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs = np.array([chain[0].inputs[0], len(graph.tensors) - 1], np.int32)
    made.outputs = chain[-1].outputs
    made.builtinOptionsType = known.BuiltinOptions.ResizeNearestNeighborOptions
    made.builtinOptions = known.ResizeNearestNeighborOptionsT()
    return made
