"""From the labels of one block to polygons, and to what the neighbours need to complete the others.

One scan over the runs of equal labels does it: components by union-find of overlapping runs (two-pass labelling,
Rosenfeld & Pfaltz 1966), and boundaries by linking each corner to the next one as the scan meets them, so that
straight stretches cost nothing. All inner loops are compiled and release the GIL.

What that takes follows from how often labels change, not from pixels alone: a smooth block of 2048 x 2048 pixels has a
hundred thousand changes, noise has four million. A block of many is therefore cut into bands of rows, traced one after
the other as if they were blocks; joining puts them together again.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tileseg.errors import InputError
from tileseg.polygons.boundary import group_rings, link_corners, walk_corners
from tileseg.polygons.fragment import Components, Fragment, PolygonBatch
from tileseg.polygons.memory import BAND_CHANGES
from tileseg.polygons.rings import IGNORED, Array, gather_rings
from tileseg.polygons.runs import (
    add_up,
    band_edges,
    components_of,
    mark_beside_nodata,
    measure_components,
    runs_of,
    strips_of,
)
from tileseg.window import Window

Connectivity = Literal[4, 8]


def trace_block(
    labels: Array,
    confidence: Array | None,
    core: Window,
    extent: Window,
    *,
    connectivity: Connectivity = 4,
    ignore: Collection[int] = (),
    nodata: int | None = None,
    disagreement: Array | None = None,
) -> Iterator[Fragment]:
    """Trace the labels of one block of a scene, a band of rows at a time, from the top.

    Args:
        labels: (height, width) integers: the block's core. Types other than uint8 are cast to int32.
        confidence: (height, width) uint16: probability of the pixel's class in units of 1/65535, or None.
        core: where the block lies in the scene.
        extent: the whole scene. Sides of the core on its edge are not seams.
        connectivity: 4, or 8 where diagonal pixels are neighbours too.
        ignore: labels that are not made into polygons (background, say).
        nodata: the label of pixels without data: not made into polygons, but noted of their neighbours.
        disagreement: (height, width) uint8: disagreement of views, or None.

    Yields:
        A fragment for each band: mostly one. To keep memory bounded, save each before asking for the next
        (:func:`tileseg.polygons.fragment.save_fragments`).

    Raises:
        InputError: labels that are no integers or do not fit int32.
    """
    known = _Measures(confidence, disagreement)
    if any(array is not None and array.shape != (core.height, core.width) for array in (labels, *known)):
        raise ValueError(f"labels {labels.shape}, confidence and disagreement must have the core's shape: {core}")
    labels = _narrow(labels)
    skipped = np.array(sorted({*ignore} - {nodata}), np.int64)
    edges, runs = band_edges(labels, BAND_CHANGES)
    for (low, high), amount in zip(itertools.pairwise(edges.tolist()), runs.tolist(), strict=True):
        band = Window(core.row_off + low, core.col_off, high - low, core.width)
        yield _trace_band(labels[low:high], amount, known.rows(low, high), band, extent, connectivity, skipped, nodata)


class _Measures(NamedTuple):
    """What is known of pixels beside their labels."""

    confidence: Array | None
    """(rows, columns) uint16."""
    disagreement: Array | None
    """(rows, columns) uint8."""

    def rows(self, low: int, high: int) -> _Measures:
        """Those of some rows."""
        confidence, disagreement = (None if part is None else part[low:high] for part in self)
        return _Measures(
            None if confidence is None else np.ascontiguousarray(confidence, np.uint16),
            None if disagreement is None else np.ascontiguousarray(disagreement, np.uint8),
        )


def _trace_band(
    labels: Array,
    runs: int,
    known: _Measures,
    core: Window,
    extent: Window,
    connectivity: Connectivity,
    skipped: Array,
    nodata: int | None,
) -> Fragment:
    """Trace one band; ``runs``: at least as many as it has, ``skipped``: sorted labels to ignore."""
    inner = _inner_borders(core, extent)
    missing = IGNORED if nodata is None else int(nodata)
    row_runs, starts, keys, any_nodata = runs_of(labels, runs, skipped, missing, nodata is not None)
    in_component, amount = components_of(row_runs, starts, keys, core.width, connectivity == 8)
    weights = np.empty((0, 0), np.uint16) if known.confidence is None else known.confidence
    spread = np.empty((0, 0), np.uint8) if known.disagreement is None else known.disagreement
    label, first, pixels, total, least, edge, is_open = measure_components(
        row_runs, starts, keys, in_component, core.width, inner, weights, amount
    )
    disagreement = add_up(row_runs, starts, in_component, core.width, spread, amount)
    beside_nodata = np.zeros(amount, np.bool_)
    if any_nodata:
        mark_beside_nodata(row_runs, starts, keys, in_component, core.width, beside_nodata)
    first = (first // core.width + core.row_off - extent.row_off) * extent.width + (
        first % core.width + core.col_off - extent.col_off
    )
    columns = {
        "label": label,
        "pixels": pixels,
        "confidence_sum": total,
        "confidence_min": least,
        "disagreement_sum": disagreement,
        "touches_edge": edge,
        "touches_nodata": beside_nodata,
        "first_pixel": first,
    }
    complete, waiting = np.flatnonzero(~is_open), np.flatnonzero(is_open)
    number = _numbers(complete, waiting)
    strips = strips_of(row_runs, starts, keys, in_component, core.width, inner, number - np.int32(len(complete)))
    corners = link_corners(row_runs, starts, keys, in_component, core.width, inner)
    walked = walk_corners(*corners, is_open)
    del row_runs, starts, keys, in_component, corners  # noise has as many runs as pixels, and four corners for each
    boundaries = _Boundaries.of(walked, number, core)
    done, done_corners = boundaries.split(len(complete))
    return Fragment(
        complete=PolygonBatch(
            coordinates=boundaries.ring_xy[:done_corners],
            ring_offsets=boundaries.ring_offsets[: done + 1],
            polygon_offsets=boundaries.component_offsets[: len(complete) + 1],
            **{name: column[complete] for name, column in columns.items()},
        ),
        components=Components(**{name: column[waiting] for name, column in columns.items()}),
        ring_coordinates=boundaries.ring_xy[done_corners:],
        ring_offsets=boundaries.ring_offsets[done:] - done_corners,
        component_offsets=boundaries.component_offsets[len(complete) :] - done,
        arc_coordinates=boundaries.arc_xy,
        arc_offsets=boundaries.arc_offsets,
        arc_component=boundaries.arc_component - np.int32(len(complete)),
        arc_start=boundaries.arc_ends[:, 0].copy(),
        arc_end=boundaries.arc_ends[:, 1].copy(),
        pinch_component=boundaries.pinch_component - np.int32(len(complete)),
        strip_offsets=strips[0],
        strip_starts=strips[1],
        strip_component=strips[2],
        has_confidence=known.confidence is not None,
        has_disagreement=known.disagreement is not None,
        row_off=core.row_off,
        rows=core.height,
    )


def _inner_borders(core: Window, extent: Window) -> Array:
    """(4,) bool: whether there is more of the scene beyond the top, bottom, left and right side."""
    return np.array(
        [
            core.row_off > extent.row_off,
            core.row_stop < extent.row_stop,
            core.col_off > extent.col_off,
            core.col_stop < extent.col_stop,
        ]
    )


def _numbers(complete: Array, waiting: Array) -> Array:
    """The position of each component where the complete come first."""
    number = np.empty(len(complete) + len(waiting), np.int32)
    number[complete] = np.arange(len(complete))
    number[waiting] = np.arange(len(waiting)) + len(complete)
    return number


@dataclass(frozen=True, slots=True)
class _Boundaries:
    """Rings and arcs of a band in scene coordinates. Components are numbered as in :func:`_numbers`."""

    ring_xy: Array
    ring_offsets: Array
    component_offsets: Array
    """(components + 1,): the rings of each."""
    arc_xy: Array
    arc_offsets: Array
    arc_component: Array
    arc_ends: Array
    """(A, 2): where each begins and ends."""
    pinch_component: Array

    @staticmethod
    def of(walked: tuple[Array, Array, Array, int, Array, Array], number: Array, core: Window) -> _Boundaries:
        """Sort what ``walk_corners`` gave."""
        xy, offsets, owner, arcs, arc_ends, open_pinches = walked
        order, component_offsets = group_rings(number, owner[arcs:], len(number))
        ring_xy, ring_offsets = gather_rings(xy, offsets[arcs:], order, core.col_off, core.row_off)
        return _Boundaries(
            ring_xy=ring_xy,
            ring_offsets=ring_offsets,
            component_offsets=component_offsets,
            arc_xy=xy[: offsets[arcs]] + np.array([core.col_off, core.row_off], np.int32),
            arc_offsets=offsets[: arcs + 1],
            arc_component=number[owner[:arcs]],
            arc_ends=arc_ends,
            pinch_component=number[open_pinches],
        )

    def split(self, complete: int) -> tuple[int, int]:
        """(rings, corners) of the first components."""
        rings = int(self.component_offsets[complete])
        return rings, int(self.ring_offsets[rings])


def warm_up() -> None:
    """Compile what tracing needs, or load it from Numba's cache: some ten seconds once, then a third of one."""
    extent = Window(0, 0, 2, 4)
    core = Window(0, 0, 2, 2)
    for dtype in (np.uint8, np.int32):
        labels = np.array([[3, 1], [1, 0]], dtype)
        tuple(trace_block(labels, labels.astype(np.uint16), core, extent, ignore={0}, nodata=3))


def _narrow(labels: Array) -> Array:
    if labels.dtype == np.uint8:
        return np.ascontiguousarray(labels)
    if labels.dtype.kind not in "iub":
        raise InputError(f"labels of type {labels.dtype} cannot be made into polygons: expected whole numbers")
    if labels.dtype.itemsize >= 4 and labels.dtype != np.int32 and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < -(2**31) or high >= 2**31:
            raise InputError(f"labels from {low} to {high} do not fit 32 bits: renumber the classes")
    return np.ascontiguousarray(labels, np.int32)
