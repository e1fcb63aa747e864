"""LiteRT files (``.tflite``): opened as data and checked. Nothing in them is run here."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileseg.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

LARGEST_FILE = 2**31 - 1
"""Bytes: a FlatBuffer counts its own in 31 bits."""
MARK = b"TFL3"
"""What a file has behind its first four bytes."""
_FLOW = {"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_CASE", "STABLEHLO_WHILE", "STABLEHLO_COMPOSITE"}
_RANDOM = {"RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL", "STABLEHLO_RNG_BIT_GENERATOR"}


def schema() -> Any:
    """LiteRT's own reader of its files. Raises UsageError where it is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise UsageError('LiteRT files need ai_edge_litert: pip install "tileseg[litert]"') from error
    return schema_py_generated


def names_of(enumeration: type) -> dict[int, str]:
    """Number -> name of what the format enumerates."""
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def open_litert(path: Path) -> bytes:
    """A file that holds one graph of one float32 image to one float32 map, of built-in operators alone.

    Raises:
        InputError: In one line, if it is anything else.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{path}: {size / 2**30:.1f} GiB: expected less than 2 GiB, the most that LiteRT reads")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a LiteRT file (.tflite)") from error
    if content[4:8] != MARK:
        what = "a zip archive" if content.startswith(b"PK") else "it does not begin as one"
        raise InputError(f"{path}: not a LiteRT file: {what}; expected a network converted to .tflite")
    model = parsed(content, path)
    graph = model.subgraphs[0]
    if len(model.subgraphs) != 1:
        raise InputError(
            f"{path}: holds {len(model.subgraphs)} graphs: such files run one from another as the values tell, cannot "
            "be checked and are refused; convert the network for inference, without branches and loops"
        )
    for operator in graph.operators:
        _check_operator(model, operator, path)
    for tensor in graph.tensors:
        _check_weights(model, tensor, path)
    _check_ends(graph, path)
    return content


def parsed(content: bytes, path: Path) -> Any:
    """A ``ModelT``. Raises InputError where it is cut short or damaged."""
    known = schema()
    try:
        model = known.ModelT.InitFromObj(known.Model.GetRootAs(content, 0))
        graph = model.subgraphs[0]
        used = {index for one in graph.operators for index in (*one.inputs, *one.outputs) if index >= 0}
        whole = (
            used.union(graph.inputs, graph.outputs) <= set(range(len(graph.tensors)))
            and all(one.opcodeIndex < len(model.operatorCodes) for one in graph.operators)
            and all(one.buffer < len(model.buffers) for one in graph.tensors)
        )
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise InputError(
            f"{path}: not a LiteRT file: it is cut short or damaged; expected a network converted to .tflite"
        ) from error
    if not whole:
        raise InputError(f"{path}: not a LiteRT file: it names operators or values that it does not hold")
    return model


def kind_of(model: Any, operator: Any) -> str:
    """Name of an operator's kind, in LiteRT's words."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return names_of(schema().BuiltinOperator).get(number, str(number))


def constant(model: Any, tensor: Any) -> npt.NDArray[Any] | None:
    """The numbers of a constant; None for what is computed, and for what takes less than a byte a number."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    name = names_of(schema().TensorType)[tensor.type].lower()
    shape = tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
    kinds = {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"}
    if name not in kinds:
        return None
    values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), name)
    return values.reshape(shape) if math.prod(shape) == values.size else None


def _check_operator(model: Any, operator: Any, path: Path) -> None:
    kind = kind_of(model, operator)
    if kind == "CUSTOM":
        code = model.operatorCodes[operator.opcodeIndex].customCode
        name = code.decode("utf-8", "replace") if isinstance(code, bytes) else str(code)
        what = "is TensorFlow's own (flex)" if name.startswith("Flex") else "is none of LiteRT's"
        raise InputError(
            f"{path}: operator {name} {what}; convert the network with LiteRT's built-in operators alone "
            "(TFLITE_BUILTINS)"
        )
    if kind in _FLOW:
        raise InputError(
            f"{path}: operator {kind} runs other graphs as the values tell: such graphs cannot be checked and are "
            "refused; convert the network for inference, without branches and loops"
        )
    if kind in _RANDOM:
        raise InputError(f"{path}: operator {kind} draws random numbers; convert the network for inference")


def _check_weights(model: Any, tensor: Any, path: Path) -> None:
    name = (tensor.name or b"?").decode("utf-8", "replace")
    if getattr(model.buffers[tensor.buffer], "offset", 0) > 1:
        raise InputError(f"{path}: weights are outside its graph (tensor {name}): expected all in the file as one")
    values = constant(model, tensor)
    if values is not None and np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise InputError(f"{path}: tensor {name} holds NaN: the weights are no numbers")
    if tensor.isVariable:
        raise InputError(f"{path}: value {name} is kept from call to call; expected a network without a state")


def _check_ends(graph: Any, path: Path) -> None:
    kinds = names_of(schema().TensorType)
    for what, ends in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if len(ends) != 1:
            raise InputError(f"{path}: {len(ends)} {what}: expected one, the {'image' if what == 'inputs' else 'map'}")
        tensor = graph.tensors[ends[0]]
        if kinds[tensor.type] != "FLOAT32":
            raise InputError(
                f"{path}: its {what[:-1]} is of {kinds[tensor.type]}: expected FLOAT32; convert the network with "
                "inference_input_type and inference_output_type left alone"
            )
        shape = [int(n) for n in (tensor.shape if tensor.shape is not None else ())]
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise InputError(
                f"{path}: its {what[:-1]} has the shape ({', '.join(map(str, shape))}): expected one image, (1, rows, "
                "columns, bands)"
            )
