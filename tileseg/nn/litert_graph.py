"""A LiteRT graph as a list of steps, and which pixels of its inputs each step's output depends on.

A file is for images of one size. What its operators make of another follows from their reaches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tileseg.errors import InputError
from tileseg.nn.litert_file import constant, kind_of, names_of, parsed, schema
from tileseg.nn.litert_rules import Call, Dependence, Shape, dependence, operations
from tileseg.nn.litert_tidy import tidied
from tileseg.nn.locality import Extent, Locality, analyse_graph
from tileseg.nn.reach import Reaches

_GLOBAL = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"}
"""Operators whose output has no rows and columns left where they go over both."""


@dataclass(frozen=True, slots=True)
class LitertStep:
    """One operator."""

    index: int
    """Of the operator in the file."""
    kind: str
    name: str
    hybrid: bool
    inputs: tuple[int, ...]
    """Values that it takes, constants aside."""
    slots: tuple[int, ...]
    """Place of each of ``inputs`` among the operator's."""
    outputs: tuple[int, ...]

    @property
    def title(self) -> str:
        """Name and kind, for a message."""
        return f"{self.name} ({self.kind}{', dynamic range' if self.hybrid else ''})"


class LitertGraph:
    """A network of one image to one map."""

    def __init__(self, content: bytes, bands: int, name: str) -> None:
        """``content`` as :func:`tileseg.nn.litert_file.open_litert` gives it. Raises InputError for other images."""
        self.content, self.name = content, name
        self.model = self.parse()
        graph = self.model.subgraphs[0]
        self.tensors, self.operators = graph.tensors, graph.operators
        self.image, self.map = int(graph.inputs[0]), int(graph.outputs[0])
        self.filed: list[Shape] = [
            tuple(int(n) for n in (t.shape if t.shape is not None else ())) for t in self.tensors
        ]
        """Shapes of all tensors at the size that the file is for."""
        kinds = names_of(schema().TensorType)
        self.types = [kinds[tensor.type] for tensor in self.tensors]
        self.constants = [constant(self.model, tensor) for tensor in self.tensors]
        self.fixed = {
            index for index, t in enumerate(self.tensors)
            if self.model.buffers[t.buffer].data is not None and len(self.model.buffers[t.buffer].data)
        }  # fmt: skip
        for one in self.operators:
            if all(int(n) in self.fixed for n in one.inputs if n >= 0):
                self.fixed.update(int(n) for n in one.outputs)
        self.bands = self.filed[self.image][3]
        if self.bands != bands:
            raise InputError(f"model {name} takes {self.bands} bands, but {bands} are named")
        self.own: Extent = (self.filed[self.image][1], self.filed[self.image][2])

    def parse(self) -> Any:
        """The file's ``ModelT``, to be changed."""
        return tidied(parsed(self.content, Path(self.name)))

    @property
    def parameters(self) -> int:
        """Numbers in its weights."""
        return sum(
            math.prod(self.filed[index])
            for index, tensor in enumerate(self.tensors)
            if index in self.fixed and len(self.filed[index]) > 0 and not self._is_size(tensor, index)
        )

    def _is_size(self, tensor: Any, index: int) -> bool:
        return self.types[index] in ("INT32", "INT64") and tensor.quantization is None

    @property
    def quantised(self) -> bool:
        """Whether values between its layers are whole numbers of 8 bits, at least in part."""
        return any(kind in ("INT8", "UINT8") for index, kind in enumerate(self.types) if index not in self.fixed)

    @property
    def whole_numbers(self) -> bool:
        """Whether everything between image and map is in whole numbers."""
        ends = {self.image, self.map, *self.fixed}
        return all("FLOAT" not in kind for index, kind in enumerate(self.types) if index not in ends)

    def analyse(self) -> Locality:
        """Stride, radius and cost. Raises InputError if it is no graph of one image to a map of the same size."""
        return analyse_graph(lambda rows, cols: SizedLitertGraph(self, rows, cols), self.own, self.name)


class SizedLitertGraph:
    """A graph at one size of window (see :class:`tileseg.nn.locality.SizedGraph`)."""

    def __init__(self, graph: LitertGraph, rows: int, cols: int) -> None:
        """Find all reaches. Raises InputError if an operator was made for another size."""
        self.graph = graph
        self.shapes: dict[int, Shape] = {graph.image: (1, rows, cols, graph.bands)}
        """By tensor."""
        self.steps: list[LitertStep] = []
        self.dependences: list[Dependence | None] = []
        self._work: list[float] = []
        self._numbers = {graph.image: 0}
        self.values = [graph.image]
        """The tensor of each value."""
        self._placed = {graph.image}
        for index, operator in enumerate(graph.operators):
            outputs = [int(n) for n in operator.outputs]
            if not graph.fixed.issuperset(outputs):
                self._add(index, operator, outputs)
        self.output = self._numbers[graph.map]
        ordered = [self.shapes[tensor] for tensor in self.values]
        self.extents: list[Extent | None] = [(s[1], s[2]) if len(s) == 4 else None for s in ordered]
        self.elements = [math.prod(shape) for shape in ordered]

    def _add(self, index: int, operator: Any, outputs: list[int]) -> None:
        graph, given = self.graph, [int(n) for n in operator.inputs]
        slots = tuple(slot for slot, tensor in enumerate(given) if tensor >= 0 and tensor not in graph.fixed)
        call = self._call(operator, given, outputs)
        name = (graph.tensors[outputs[0]].name or b"?").decode("utf-8", "replace").rpartition("/")[0]
        for tensor in outputs:
            self._numbers[tensor] = len(self.values)
            self.values.append(tensor)
        step = LitertStep(
            index, call.kind, name or str(index), call.hybrid, tuple(self._numbers[given[slot]] for slot in slots),
            slots, tuple(self._numbers[tensor] for tensor in outputs),
        )  # fmt: skip
        found = dependence(call)
        for tensor in outputs:
            self.shapes[tensor] = self._shape(step, call, found, graph.filed[tensor])
        kept = found if any(call.placed) and not call.hybrid else None
        if kept is not None:
            self._placed.update(outputs)
        self.steps.append(step)
        self.dependences.append(kept)
        self._work.append(operations(call))

    def _call(self, operator: Any, given: list[int], outputs: list[int]) -> Call:
        graph, there = self.graph, [tensor if tensor >= 0 else None for tensor in given]
        placed = [tensor in self._placed for tensor in given]
        moving = [t for t in there if t is not None and t not in graph.fixed]
        first = next((t for t in moving if t in self._placed), moving[0])
        return Call(
            kind=kind_of(graph.model, operator),
            options=operator.builtinOptions,
            shapes=tuple(None if t is None else self.shapes.get(t, graph.filed[t]) for t in there),
            types=tuple(None if t is None else graph.types[t] for t in there),
            constants=tuple(None if t is None else graph.constants[t] for t in there),
            fixed=tuple(t is None or t in graph.fixed for t in there),
            placed=tuple(placed),
            filed=tuple(graph.filed[tensor] for tensor in outputs),
            filed_input=graph.filed[first],
        )

    def _shape(self, step: LitertStep, call: Call, found: Dependence | None, filed: Shape) -> Shape:
        """The shape of an output. Raises InputError where it is not known for this size."""
        if found is not None:
            slot, reaches = next(iter(found.reaches.items()))
            before = call.shapes[slot] or ()
            sides = [reach.gives((0, n))[1] for reach, n in zip(reaches, before[1:3], strict=True)]
            return (filed[0], *sides, *filed[3:])
        graph, same = self.graph, self.shapes[self.graph.image] == self.graph.filed[self.graph.image]
        known = all(self.shapes[self.values[v]] == graph.filed[self.values[v]] for v in step.inputs)
        axes = call.constants[1] if len(call.constants) > 1 else None
        gone = call.kind in _GLOBAL and axes is not None and {1, 2} <= {int(n) % 4 for n in np.ravel(axes)}
        if same or known or gone:
            return filed
        raise InputError(
            f"model {graph.name} takes images of {graph.own[0]} x {graph.own[1]} alone: operator {step.title} was "
            "made for that size"
        )

    @property
    def channels(self) -> int:
        """Of the map."""
        return self.shapes[self.graph.map][-1]

    def reaches(self, step: int, placed: object) -> tuple[Reaches | None, ...]:
        """By the rules of :mod:`tileseg.nn.litert_rules`."""
        del placed  # what has a place was known when the rules were asked
        found = self.dependences[step]
        return tuple(found.reaches.get(slot) if found else None for slot in self.steps[step].slots)

    def flops(self, step: int) -> float:
        """By the kind of operator; one per number of input or output where it is no kernel."""
        one, work = self.steps[step], self._work[step]
        given, made = (self.elements[values[0]] for values in (one.inputs, one.outputs))
        return work * (given if one.kind == "TRANSPOSE_CONV" else made) if work else float(max(given, made))

    def hidden_elements(self, step: int) -> int:
        """None: what operators keep beside their inputs and outputs is small."""
        del step
        return 0
