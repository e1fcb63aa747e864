"""A LiteRT graph for one size of window: decoder cropping by the plan of :mod:`tileseg.nn.crop`, with SLICE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

from tileseg.nn.crop import Part, plan_crop
from tileseg.nn.litert_file import MARK, schema
from tileseg.nn.litert_graph import LitertGraph, LitertStep, SizedLitertGraph
from tileseg.nn.litert_rules import Dependence, Shape


def cropped(graph: LitertGraph, rows: int, cols: int, margin: int) -> bytes:
    """A file for one image (1, rows, columns, bands), giving (1, rows - 2 margin, columns - 2 margin, channels).

    Raises:
        UsageError: If nothing would be left, or the window is no multiple of the stride.
        InputError: If the graph does not take a window of that size.
    """
    sized = SizedLitertGraph(graph, rows, cols)
    plan = plan_crop(sized, margin)
    draft = _Draft(graph)
    shapes = dict(sized.shapes)
    numbers = {step.index: number for number, step in enumerate(sized.steps)}
    for index, operator in enumerate(draft.operators()):
        number = numbers.get(index)
        if number is None:
            draft.keep(operator)  # computed from constants
        elif number in plan.needed:
            step = sized.steps[number]
            inputs = [int(n) for n in operator.inputs]
            for place, slot in enumerate(step.slots):
                if crop := plan.crops.get((number, place)):
                    inputs[slot] = draft.crop(inputs[slot], *crop)
            for value in step.outputs:
                tensor = sized.values[value]
                if value in plan.parts and len(shapes[tensor]) == 4:
                    sides = [stop - start for start, stop in plan.parts[value]]
                    shapes[tensor] = (shapes[tensor][0], *sides, *shapes[tensor][3:])
            made = shapes[sized.values[step.outputs[0]]]
            draft.keep(_settled(draft, operator, step, sized.dependences[number], made, inputs))
    draft.resize(shapes)
    found, have = graph.map, plan.parts[sized.output]
    if have != plan.core:
        found = draft.crop(found, have, plan.core)
    return draft.written(found)


def _settled(
    draft: _Draft, operator: Any, step: LitertStep, depends: Dependence | None, made: Shape, inputs: list[int]
) -> Any:
    """An operator with these inputs that makes a value of this shape."""
    del step
    for slot, sizes in depends.sizes.items() if depends else ():
        inputs[slot] = draft.constant(sizes(made), like=inputs[slot])
    for name, value in depends.options.items() if depends else ():
        if operator.builtinOptions is not None:
            setattr(operator.builtinOptions, name, value)
    operator.inputs = np.array(inputs, np.int32)
    return operator


class _Draft:
    """A graph that is being written."""

    def __init__(self, graph: LitertGraph) -> None:
        self._model = graph.parse()
        self._graph = self._model.subgraphs[0]
        self._kept: list[Any] = []
        self._slice = -1

    def operators(self) -> list[Any]:
        return list(self._graph.operators)

    def keep(self, operator: Any) -> None:
        self._kept.append(operator)

    def resize(self, shapes: dict[int, Shape]) -> None:
        """Give tensors their shapes."""
        for index, shape in shapes.items():
            self._graph.tensors[index].shape = np.array(shape, np.int32)
            self._graph.tensors[index].shapeSignature = None

    def constant(self, values: Sequence[int], like: int) -> int:
        """Add whole numbers of the type of another tensor; the new one's index."""
        known = schema()
        kind = self._graph.tensors[like].type
        dtype = np.int64 if kind == known.TensorType.INT64 else np.int32
        return self._numbers(np.array(values, dtype), kind)

    def _numbers(self, values: Any, kind: int) -> int:
        known = schema()
        buffer = known.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(values.shape, kind, len(self._model.buffers) - 1, None)

    def _tensor(self, shape: Sequence[int], kind: int, buffer: int, quantization: Any) -> int:
        tensor = schema().TensorT()
        tensor.name = f"tileseg_{len(self._graph.tensors)}".encode()
        tensor.shape, tensor.type = np.array(shape, np.int32), kind
        tensor.buffer, tensor.quantization = buffer, quantization
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def crop(self, value: int, have: Part, want: Part) -> int:
        """A part of a value of which there is a part already; its tensor."""
        known = schema()
        source = self._graph.tensors[value]
        channels = int(source.shape[-1])
        begin = [0, *(w[0] - h[0] for h, w in zip(have, want, strict=True)), 0]
        shape = [1, *(stop - start for start, stop in want), channels]
        kind = known.TensorType.INT32
        operator = known.OperatorT()
        operator.opcodeIndex = self._slice_code()
        operator.inputs = np.array(
            [value, *(self._numbers(np.array(numbers, np.int32), kind) for numbers in (begin, shape))], np.int32
        )
        made = self._tensor(shape, source.type, 0, source.quantization)
        operator.outputs = np.array([made], np.int32)
        operator.builtinOptionsType = known.BuiltinOptions.SliceOptions
        operator.builtinOptions = known.SliceOptionsT()
        self._kept.append(operator)
        return made

    def _slice_code(self) -> int:
        if self._slice < 0:
            known = schema()
            code = known.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = known.BuiltinOperator.SLICE
            code.version = 3  # the first with all types of 8 bits
            self._model.operatorCodes.append(code)
            self._slice = len(self._model.operatorCodes) - 1
        return self._slice

    def written(self, found: int) -> bytes:
        """The file, whose map is this tensor."""
        self._graph.operators = self._kept
        self._graph.outputs = np.array([found], np.int32)
        self._model.signatureDefs = self._model.metadata = self._model.metadataBuffer = None
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), MARK)
        return bytes(builder.Output())
