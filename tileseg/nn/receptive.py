"""What a model's graph says about tiling it: stride, radius of dependence, locality, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tileseg.errors import InputError
from tileseg.nn.backend import keras
from tileseg.nn.graph import Graph, Step, Trace, flatten, trace
from tileseg.nn.reach import Range

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


def analyse(model: keras.Model) -> Locality:
    """Derive stride, radius and cost from any functional graph.

    Index ranges are propagated backwards, layer by layer, from one period (the stride) of the output.

    Raises:
        InputError: If the model is not a graph of one image to one map of the same height and width.
    """
    graph = flatten(model)
    found, rows, cols = _traced(model, graph)
    stride, shape = found.stride, found.shapes[graph.output]
    if len(shape) != 4 or shape[1:3] != (rows, cols):
        raise InputError(
            f"model {model.name} gives {shape[1:]} for an input of ({rows}, {cols}, {graph.bands}): "
            "expected a map with the rows and columns of its input; convolve with padding 'same', and enlarge what was "
            "made smaller"
        )
    pixels = rows * cols
    return Locality(
        stride=stride,
        radius=_radius(graph, found),
        local=not found.nonlocal_steps,
        nonlocal_layers=tuple(dict.fromkeys(step.title for step in found.nonlocal_steps)),
        flops_per_pixel=max(1.0, sum(_flops(step, found) for step in graph.steps) / pixels),
        activation_bytes_per_pixel=4.0 * OVERHEAD * _peak_elements(graph, found) / pixels,
    )


def _traced(model: keras.Model, graph: Graph) -> tuple[Trace, int, int]:
    """The graph's trace for a large window that is no square, and that window's rows and columns."""
    rows, cols = model.inputs[0].shape[1:3]
    own = (rows, cols) if rows and cols else None
    try:
        # The stride must be known to choose a window, and a window to find the stride: 960 = 2^6 * 3 * 5.
        stride = trace(graph, 960, 960).stride
        size = stride * -(-LARGE // stride)
        found = trace(graph, size, size + stride)
        if own is None or found.shapes[graph.output][1:3] == (size, size + stride):
            return found, size, size + stride
    except InputError:
        if own is None:
            raise
    # Made for one size, with layers that insist on it.
    return trace(graph, *own), *own


def _radius(graph: Graph, found: Trace) -> int:
    """How far beyond one period of the output its dependence reaches, over both axes and directions."""
    farthest = 0
    for axis in (0, 1):
        needed: dict[int, Range] = {graph.output: (0, found.stride)}
        for step, reaches in zip(reversed(graph.steps), reversed(found.reaches), strict=True):
            out = needed.get(step.outputs[0])
            if out is None:
                continue
            for value, reach in zip(step.inputs, reaches, strict=True):
                if reach is not None:
                    needed[value] = _hull(needed.get(value), reach[axis].needs(out))
        if 0 in needed:
            farthest = max(farthest, -needed[0][0], needed[0][1] - found.stride)
    return farthest


def _hull(one: Range | None, other: Range) -> Range:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def _elements(shape: tuple[int | None, ...]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size or 1
    return count


def _flops(step: Step, found: Trace) -> float:
    """Floating-point operations of one step for one image."""
    layer: Any = step.operation
    given, made = found.shapes[step.inputs[0]], found.shapes[step.outputs[0]]
    kind, size = type(layer), _elements(made)
    if kind is keras.layers.Conv2D:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * (given[-1] or 1) / layer.groups * size)
    if kind is keras.layers.Conv2DTranspose:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * (made[-1] or 1) * _elements(given))
    if kind is keras.layers.DepthwiseConv2D:
        rows, cols = layer.kernel_size
        return float(2.0 * rows * cols * size)
    if kind is keras.layers.SeparableConv2D:
        rows, cols = layer.kernel_size
        deep = (given[-1] or 1) * layer.depth_multiplier
        return float(2.0 * deep * (rows * cols * size / (made[-1] or 1) + size))
    if kind is keras.layers.Dense:
        return float(2.0 * (given[-1] or 1) * size)
    if kind in (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D):
        rows, cols = layer.pool_size
        return float(rows * cols * size)
    if kind is keras.layers.UpSampling2D and layer.interpolation == "bilinear":
        return 8.0 * size
    return float(max(size, _elements(given)))


def _hidden_elements(step: Step, found: Trace) -> int:
    """Numbers that a step keeps while it computes: what a separable convolution makes of each channel alone."""
    layer: Any = step.operation
    if type(layer) is not keras.layers.SeparableConv2D:
        return 0
    given, made = found.shapes[step.inputs[0]], found.shapes[step.outputs[0]]
    return _elements(made) // (made[-1] or 1) * (given[-1] or 1) * int(layer.depth_multiplier)


def _peak_elements(graph: Graph, found: Trace) -> int:
    """The most numbers alive at once when the steps run in order: each value lives until its last reader is done."""
    last = {value: index for index, step in enumerate(graph.steps) for value in step.inputs}
    last[graph.output] = len(graph.steps)
    live = {0: _elements(found.shapes[0])}
    peak = live[0]
    for index, step in enumerate(graph.steps):
        live.update({value: _elements(found.shapes[value]) for value in step.outputs})
        peak = max(peak, sum(live.values()) + _hidden_elements(step, found))
        for value in {*step.inputs, *step.outputs}:
            if last.get(value, index) <= index:
                live.pop(value, None)
    return peak
