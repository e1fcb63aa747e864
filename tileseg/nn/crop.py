"""Decoder cropping: compute only what the core of a window still needs, for any graph.

Near the end of a U-Net, whole windows of full-resolution features are computed and then thrown away with the halo.
Walking backwards from the core, every feature map is needed on a smaller range only; it is cropped where a step
starts that needs clearly less than what is there. Values and their order of summation do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tileseg.errors import UsageError
from tileseg.nn.backend import keras
from tileseg.nn.graph import Graph, flatten, trace
from tileseg.nn.reach import Range, Reaches

WORTH = 0.04
"""Crop where at least this share of a map's pixels falls away: a crop copies the map."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What is needed of one value along one axis."""

    exact: Range
    """Pixels whose numbers must be right."""
    present: Range
    """Pixels that must be there, right or not, so that later steps meet the same phase and padding."""

    def __or__(self, other: _Need) -> _Need:
        return _Need(_hull(self.exact, other.exact), _hull(self.present, other.present))


def cropped(model: keras.Model, height: int, width: int, margin: int) -> keras.Model:
    """The same layers and weights for one window size, giving the output without ``margin`` pixels on each side.

    Args:
        model: Any functional graph of one image to one map of the same size.
        height, width: Of the window in pixels, multiples of the model's stride.
        margin: Pixels of the output to leave out on all four sides; the output is equal to the uncropped one there.

    Returns:
        A model (n, height, width, bands) -> (n, height - 2 margin, width - 2 margin, channels).

    Raises:
        UsageError: If nothing would be left, or the window is no multiple of the stride.
        InputError: If the model does not take a window of that size.
    """
    image = keras.Input((height, width, model.inputs[0].shape[-1]), name="image", dtype=model.inputs[0].dtype)
    output = rebuild(flatten(model), image, margin)
    return keras.Model(image, output, name=f"{model.name}_cropped")


def rebuild(graph: Graph, image: Any, margin: int, twins: Mapping[int, Callable[..., Any]] | None = None) -> Any:
    """Apply a graph to ``image`` (n, rows, columns, bands), computing only what lies ``margin`` inside the output.

    ``twins`` holds what to call in place of a step's layer, by the step's first output: the layer in another
    precision, say. Returns the output tensor.
    """
    height, width = image.shape[1:3]
    if margin < 0 or min(height, width) <= 2 * margin:
        raise UsageError(f"a margin of {margin} pixels leaves nothing of a window of {height} x {width}")
    found = trace(graph, height, width)
    if height % found.stride or width % found.stride:
        raise UsageError(f"a window of {height} x {width} is no multiple of the model's stride {found.stride}")
    wanted = tuple(_needs(graph, found.reaches, found.shapes, axis, margin) for axis in (0, 1))

    values: dict[int, Any] = {0: image}
    placed: dict[int, tuple[Range, Range]] = {0: ((0, height), (0, width))}
    for index, (step, reaches) in enumerate(zip(graph.steps, found.reaches, strict=True)):
        if (index, 0) not in wanted[0]:
            continue  # nothing of it reaches the output
        targets = {
            slot: (wanted[0][index, slot].present, wanted[1][index, slot].present)
            for slot, reach in enumerate(reaches)
            if reach is not None
        }
        here = dict(values)
        ranges = [placed[step.inputs[slot]] for slot in targets]
        # Several inputs (a skip and what it joins) must have the same extent, so they are always cropped to the need.
        together = len(set(ranges)) > 1
        given = None
        for slot, target in targets.items():
            value = step.inputs[slot]
            have = placed[value]
            if have != target and (
                together
                or 1 - _area(target) / _area(have) >= WORTH
                or not _in_phase(have, reaches[slot], found.shapes[value])
            ):
                here[value] = _crop(values[value], have, target)
                have = target
            given, reach = have, reaches[slot]
        made = step(here, (twins or {}).get(step.outputs[0]))
        for value, tensor in zip(step.outputs, made, strict=True):
            values[value] = tensor
            shape = found.shapes[value]
            if given is not None and reach is not None:
                placed[value] = (reach[0].gives(given[0]), reach[1].gives(given[1]))
            elif len(shape) == 4:
                placed[value] = ((0, shape[1] or 1), (0, shape[2] or 1))
    core = ((margin, height - margin), (margin, width - margin))
    have = placed[graph.output]
    return values[graph.output] if have == core else _crop(values[graph.output], have, core)


def _needs(
    graph: Graph,
    reaches: tuple[tuple[Reaches | None, ...], ...],
    shapes: tuple[tuple[int | None, ...], ...],
    axis: int,
    margin: int,
) -> dict[tuple[int, int], _Need]:
    """(step, input slot) -> what that step must be given along one axis so that the output's core is right."""
    sizes = [(shape[1 + axis] or 1) if len(shape) == 4 else 1 for shape in shapes]
    core = (margin, sizes[graph.output] - margin)
    of_value: dict[int, _Need] = {graph.output: _Need(core, core)}
    of_slot: dict[tuple[int, int], _Need] = {}
    for index in range(len(graph.steps) - 1, -1, -1):
        step = graph.steps[index]
        needs = [of_value[value] for value in step.outputs if value in of_value]
        if not needs:
            continue
        need = needs[0]
        for slot, (value, both) in enumerate(zip(step.inputs, reaches[index], strict=True)):
            whole = (0, sizes[value])
            if both is None:
                of_slot[index, slot] = _Need(whole, whole)
            else:
                reach = both[axis]
                exact = _clip(reach.needs(need.exact), whole)
                present = _clip(_hull(exact, reach.supplies(need.present)), whole)
                of_slot[index, slot] = _Need(exact, _align(present, reach.period, whole))
            known = of_value.get(value)
            of_value[value] = of_slot[index, slot] | known if known else of_slot[index, slot]
    return of_slot


def _in_phase(have: tuple[Range, Range], reaches: Reaches | None, shape: tuple[int | None, ...]) -> bool:
    """Whether a step may start on this part of a map without meeting another phase of its stride or padding."""
    return reaches is None or all(
        _align(part, reach.period, (0, size or 1)) == part
        for part, reach, size in zip(have, reaches, shape[1:3], strict=True)
    )


def _align(part: Range, period: int, whole: Range) -> Range:
    """Grow a range so that a crop to it starts on the period and loses whole periods at its end."""
    return part[0] // period * period, whole[1] - (whole[1] - part[1]) // period * period


def _clip(part: Range, whole: Range) -> Range:
    return max(part[0], whole[0]), min(part[1], whole[1])


def _hull(one: Range, other: Range) -> Range:
    return min(one[0], other[0]), max(one[1], other[1])


def _area(ranges: tuple[Range, Range]) -> int:
    return (ranges[0][1] - ranges[0][0]) * (ranges[1][1] - ranges[1][0])


def _crop(tensor: Any, have: tuple[Range, Range], want: tuple[Range, Range]) -> Any:
    sides = tuple((w[0] - h[0], h[1] - w[1]) for h, w in zip(have, want, strict=True))
    return keras.layers.Cropping2D(sides, dtype=tensor.dtype)(tensor)
