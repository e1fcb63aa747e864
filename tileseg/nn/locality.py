"""What a graph says about tiling it, whatever its format: stride, radius of dependence, locality, cost. No framework.

The adapters of the formats (:mod:`tileseg.nn.keras_graph`, :mod:`tileseg.nn.onnx_graph`) say how each step depends on
its inputs; here that is followed through the whole graph, with integer ranges, one axis at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from tileseg.errors import InputError
from tileseg.nn.reach import Range, Reaches, hull

Extent = tuple[int, int]
"""Rows and columns of a map."""

LARGE = 1024
"""Pixels: costs per pixel are those of a window at least this large."""
OVERHEAD = 1.5
"""Resident memory of a real run in float32 over the activations alive at once: an upper bound.

Measured with TensorFlow 2.21 on a CPU for widths 1/4 and 1, both decoders, windows 512 to 2048: 1.37 to 1.47.
"""


@dataclass(frozen=True, slots=True)
class Locality:
    """What planning needs to know of a graph."""

    stride: int
    """Pixels: windows must start and end at multiples of it."""
    radius: int
    """Pixels: how far a core that starts and ends at multiples of the stride depends on its surroundings.

    A single logit in the middle of a period may look a few pixels farther to one side than its neighbours at the
    period's ends do (150 against 138 for the VGG16-Unet), so the core's alignment matters.
    """
    local: bool
    """Whether no layer looks at the whole window."""
    nonlocal_layers: tuple[str, ...]
    """``name (Kind)`` of the layers that do, or that are not known."""
    flops_per_pixel: float
    """Floating-point operations per input pixel (a multiply-add is two)."""
    activation_bytes_per_pixel: float
    """Peak of the live float32 activations per input pixel, with what the runtime adds; half of it in 16 bits."""


class Step(Protocol):
    """One call of a layer or operation."""

    @property
    def title(self) -> str:
        """Name and kind, for a message."""
        ...

    @property
    def inputs(self) -> tuple[int, ...]:
        """Values that it takes."""
        ...

    @property
    def outputs(self) -> tuple[int, ...]:
        """Values that it gives."""
        ...


class SizedGraph(Protocol):
    """A graph at one size of window: steps in an order in which they can be computed. Value 0 is the input."""

    @property
    def steps(self) -> Sequence[Step]:
        """What is computed."""
        ...

    @property
    def output(self) -> int:
        """The value that is the map."""
        ...

    @property
    def extents(self) -> Sequence[Extent | None]:
        """Rows and columns of every value, as far as it is a map."""
        ...

    @property
    def elements(self) -> Sequence[int]:
        """Numbers in every value, for one image."""
        ...

    def reaches(self, step: int, placed: Sequence[bool]) -> tuple[Reaches | None, ...]:
        """The reach of a step towards each of its inputs; None where it needs the whole of one, or is not known.

        ``placed``: by value, whether its pixels still have a place in the image.
        """
        ...

    def flops(self, step: int) -> float:
        """Floating-point operations of a step for one image."""
        ...

    def hidden_elements(self, step: int) -> int:
        """Numbers that a step keeps while it computes, beside its inputs and outputs."""
        ...


@dataclass(frozen=True, slots=True)
class Trace:
    """The reaches of a graph's steps at one size of window."""

    reaches: tuple[tuple[Reaches | None, ...], ...]
    """Per step and input; None where the step needs the whole of that input."""
    pitch: tuple[tuple[Fraction, Fraction] | None, ...]
    """Pixels of the model's input per pixel of each value (rows, columns); None where it lost its place."""
    nonlocal_steps: tuple[str, ...]
    """Titles of the steps where a value loses its place: those that look at the whole window, and those not known."""

    @property
    def stride(self) -> int:
        """Pixels of the input that are a whole number of pixels in every value."""
        return math.lcm(*(side.numerator for pair in self.pitch if pair for side in pair))


def trace(graph: SizedGraph) -> Trace:
    """Find every step's reach."""
    pitch: list[tuple[Fraction, Fraction] | None] = [None] * len(graph.extents)
    pitch[0] = (Fraction(1), Fraction(1))
    placed = [True, *[False] * (len(pitch) - 1)]
    reaches: list[tuple[Reaches | None, ...]] = []
    blamed: list[str] = []
    for index, step in enumerate(graph.steps):
        found = graph.reaches(index, placed)
        if any(placed[value] for value in step.inputs) and not any(found):
            blamed.append(step.title)
        reaches.append(found)
        here = None
        for value, reach in zip(step.inputs, found, strict=True):
            before = pitch[value]
            if reach and before:
                here = (
                    before[0] * Fraction(reach[0].down, reach[0].up),
                    before[1] * Fraction(reach[1].down, reach[1].up),
                )
                break
        for value in step.outputs:
            pitch[value], placed[value] = here, here is not None
    return Trace(tuple(reaches), tuple(pitch), tuple(dict.fromkeys(blamed)))


def analyse_graph(at: Callable[[int, int], SizedGraph], own: Extent | None, name: str) -> Locality:
    """Derive stride, radius and cost.

    Index ranges are propagated backwards, step by step, from one period (the stride) of the output.

    Args:
        at: The graph for windows of so many rows and columns; raises InputError where it does not take them.
        own: The size that the graph was built for, if it was built for one.
        name: Of the model, for a message.

    Raises:
        InputError: If it is not a graph of one image to one map of the same height and width.
    """
    graph, found, extent = _traced(at, own)
    stride, shape = found.stride, graph.extents[graph.output]
    if shape != extent:
        raise InputError(
            f"model {name} gives {' x '.join(map(str, shape)) if shape else 'no map'} for an image of "
            f"{' x '.join(map(str, extent))}: expected a map with the rows and columns of its input; convolve with "
            "padding 'same', and enlarge what was made smaller"
        )
    pixels = extent[0] * extent[1]
    return Locality(
        stride=stride,
        radius=_radius(graph, found),
        local=not found.nonlocal_steps,
        nonlocal_layers=found.nonlocal_steps,
        flops_per_pixel=max(1.0, sum(graph.flops(step) for step in range(len(graph.steps))) / pixels),
        activation_bytes_per_pixel=4.0 * OVERHEAD * _peak_elements(graph) / pixels,
    )


def _traced(at: Callable[[int, int], SizedGraph], own: Extent | None) -> tuple[SizedGraph, Trace, Extent]:
    """The graph's trace for a large window that is no square, and that window's rows and columns."""
    try:
        # The stride must be known to choose a window, and a window to find the stride: 960 = 2^6 * 3 * 5.
        stride = trace(at(960, 960)).stride
        size = stride * -(-LARGE // stride)
        graph = at(size, size + stride)
        if own is None or graph.extents[graph.output] == (size, size + stride):
            return graph, trace(graph), (size, size + stride)
    except InputError:
        if own is None:
            raise
    # Made for one size, with layers that insist on it.
    graph = at(*own)
    return graph, trace(graph), own


def _radius(graph: SizedGraph, found: Trace) -> int:
    """How far beyond one period of the output its dependence reaches, over both axes and directions."""
    farthest = 0
    for axis in (0, 1):
        needed: dict[int, Range] = {graph.output: (0, found.stride)}
        for step, reaches in zip(reversed(graph.steps), reversed(found.reaches), strict=True):
            for out in [needed[value] for value in step.outputs if value in needed]:
                for value, reach in zip(step.inputs, reaches, strict=True):
                    if reach is not None:
                        needed[value] = hull(needed.get(value), reach[axis].needs(out))
        if 0 in needed:
            farthest = max(farthest, -needed[0][0], needed[0][1] - found.stride)
    return farthest


def _peak_elements(graph: SizedGraph) -> int:
    """The most numbers alive at once when the steps run in order: each value lives until its last reader is done."""
    last = {value: index for index, step in enumerate(graph.steps) for value in step.inputs}
    last[graph.output] = len(graph.steps)
    live = {0: graph.elements[0]}
    peak = live[0]
    for index, step in enumerate(graph.steps):
        live.update({value: graph.elements[value] for value in step.outputs})
        peak = max(peak, sum(live.values()) + graph.hidden_elements(index))
        for value in {*step.inputs, *step.outputs}:
            if last.get(value, index) <= index:
                live.pop(value, None)
    return peak
