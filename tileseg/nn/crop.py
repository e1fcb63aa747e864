"""Decoder cropping: compute only what the core of a window still needs, for any graph. No framework.

Near the end of a U-Net, whole windows of full-resolution features are computed and then thrown away with the halo.
Walking backwards from the core, every feature map is needed on a smaller range only; it is cropped where a step
starts that needs clearly less than what is there. Values and their order of summation do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from tileseg.errors import UsageError
from tileseg.nn.locality import Extent, SizedGraph, Trace, trace
from tileseg.nn.reach import Range, Reaches, hull

WORTH = 0.04
"""Crop where at least this share of a map's pixels falls away: a crop copies the map."""

Part = tuple[Range, Range]
"""Rows and columns of a map."""


@dataclass(frozen=True, slots=True)
class CropPlan:
    """What to compute of a graph so that the core of its map is right."""

    needed: frozenset[int]
    """Steps that have to be computed."""
    crops: Mapping[tuple[int, int], tuple[Part, Part]]
    """(step, place among its inputs) -> the part of that value that there is, and the part to be given to the step."""
    parts: Mapping[int, Part]
    """The part of every value that the steps make, where it is a map."""
    core: Part
    """The part of the map that is wanted, to be cut out of what the last step makes."""


@dataclass(frozen=True, slots=True)
class _Need:
    """What is needed of one value along one axis."""

    exact: Range
    """Pixels whose numbers must be right."""
    present: Range
    """Pixels that must be there, right or not, so that later steps meet the same phase and padding."""

    def __or__(self, other: _Need) -> _Need:
        return _Need(hull(self.exact, other.exact), hull(self.present, other.present))


def plan_crop(graph: SizedGraph, margin: int) -> CropPlan:
    """Plan the least work for the map without ``margin`` pixels on all four sides.

    Raises:
        UsageError: If nothing would be left, or the window is no multiple of the stride.
    """
    window = graph.extents[0]
    assert window is not None
    height, width = window
    if margin < 0 or min(height, width) <= 2 * margin:
        raise UsageError(f"a margin of {margin} pixels leaves nothing of a window of {height} x {width}")
    found = trace(graph)
    if height % found.stride or width % found.stride:
        raise UsageError(f"a window of {height} x {width} is no multiple of the model's stride {found.stride}")
    wanted = tuple(_needs(graph, found, axis, margin) for axis in (0, 1))
    needed = frozenset(step for step, _ in wanted[0])
    crops: dict[tuple[int, int], tuple[Part, Part]] = {}
    parts: dict[int, Part] = {0: ((0, height), (0, width))}
    for index in sorted(needed):
        step, reaches = graph.steps[index], found.reaches[index]
        targets = {
            slot: (wanted[0][index, slot].present, wanted[1][index, slot].present)
            for slot, reach in enumerate(reaches)
            if reach is not None
        }
        # Several inputs (a skip and what it joins) must have the same extent, so they are always cropped to the need.
        together = len({parts[step.inputs[slot]] for slot in targets}) > 1
        given = reach = None
        for slot, target in targets.items():
            have = parts[step.inputs[slot]]
            if have != target and (
                together
                or 1 - _area(target) / _area(have) >= WORTH
                or not _in_phase(have, reaches[slot], graph.extents[step.inputs[slot]])
            ):
                crops[index, slot] = (have, target)
                have = target
            given, reach = have, reaches[slot]
        for value in step.outputs:
            extent = graph.extents[value]
            if given is not None and reach is not None:
                parts[value] = (reach[0].gives(given[0]), reach[1].gives(given[1]))
            elif extent is not None:
                parts[value] = ((0, extent[0]), (0, extent[1]))
    return CropPlan(needed, crops, parts, ((margin, height - margin), (margin, width - margin)))


def _needs(graph: SizedGraph, found: Trace, axis: int, margin: int) -> dict[tuple[int, int], _Need]:
    """(step, input slot) -> what that step must be given along one axis so that the output's core is right."""
    sizes = [extent[axis] if extent else 1 for extent in graph.extents]
    core = (margin, sizes[graph.output] - margin)
    of_value: dict[int, _Need] = {graph.output: _Need(core, core)}
    of_slot: dict[tuple[int, int], _Need] = {}
    for index in range(len(graph.steps) - 1, -1, -1):
        step = graph.steps[index]
        needs = [of_value[value] for value in step.outputs if value in of_value]
        if not needs:
            continue
        need = reduce(or_, needs)
        for slot, (value, both) in enumerate(zip(step.inputs, found.reaches[index], strict=True)):
            whole = (0, sizes[value])
            if both is None:
                of_slot[index, slot] = _Need(whole, whole)
            else:
                reach = both[axis]
                exact = _clip(reach.needs(need.exact), whole)
                present = _clip(hull(exact, reach.supplies(need.present)), whole)
                of_slot[index, slot] = _Need(exact, _align(present, reach.period, whole))
            known = of_value.get(value)
            of_value[value] = of_slot[index, slot] | known if known else of_slot[index, slot]
    return of_slot


def _in_phase(have: Part, reaches: Reaches | None, extent: Extent | None) -> bool:
    """Whether a step may start on this part of a map without meeting another phase of its stride or padding."""
    return (
        reaches is None
        or extent is None
        or all(
            _align(part, reach.period, (0, size)) == part
            for part, reach, size in zip(have, reaches, extent, strict=True)
        )
    )


def _align(part: Range, period: int, whole: Range) -> Range:
    """Grow a range so that a crop to it starts on the period and loses whole periods at its end."""
    return part[0] // period * period, whole[1] - (whole[1] - part[1]) // period * period


def _clip(part: Range, whole: Range) -> Range:
    return max(part[0], whole[0]), min(part[1], whole[1])


def _area(ranges: tuple[Range, Range]) -> int:
    return (ranges[0][1] - ranges[0][0]) * (ranges[1][1] - ranges[1][0])
