"""Batches of polygons joined, divided and thinned out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.rings import Array, gather_rings
from tileseg.polygons.scratch import Scratch, release


def concatenate(batches: list[PolygonBatch]) -> PolygonBatch:
    """Several batches as one."""

    def stacked(name: str) -> Array:
        parts = [getattr(batch, name) for batch in batches]
        if not name.endswith("offsets"):
            return np.concatenate(parts) if parts else np.empty(_EMPTY[name][1], _EMPTY[name][0])
        lengths = [np.empty(0, np.int64), *(np.diff(part) for part in parts)]
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])

    return PolygonBatch(**{field.name: stacked(field.name) for field in fields(PolygonBatch)})


_EMPTY: dict[str, tuple[type, tuple[int, ...]]] = {
    "coordinates": (np.int32, (0, 2)),
    "label": (np.int32, (0,)),
    "pixels": (np.int64, (0,)),
    "confidence_sum": (np.int64, (0,)),
    "confidence_min": (np.int32, (0,)),
    "disagreement_sum": (np.int64, (0,)),
    "touches_edge": (np.bool_, (0,)),
    "touches_nodata": (np.bool_, (0,)),
    "first_pixel": (np.int64, (0,)),
}


def split(batch: PolygonBatch, vertices: int) -> Iterable[PolygonBatch]:
    """The batch in parts of about so many vertices."""
    ends = batch.ring_offsets[batch.polygon_offsets]
    low = 0
    while low < len(batch):
        high = max(low + 1, int(np.searchsorted(ends, ends[low] + vertices, "right")) - 1)
        rings = slice(batch.polygon_offsets[low], batch.polygon_offsets[high] + 1)
        yield PolygonBatch(
            coordinates=batch.coordinates[ends[low] : ends[high]],
            ring_offsets=batch.ring_offsets[rings] - ends[low],
            polygon_offsets=batch.polygon_offsets[low : high + 1] - batch.polygon_offsets[low],
            **{name: getattr(batch, name)[low:high] for name in _EMPTY if name != "coordinates"},
        )
        low = high


def select(batch: PolygonBatch, rings: Array, polygons: Array, scratch: Scratch) -> PolygonBatch:
    """The batch with only some rings (R,) and polygons (P,), both bool."""
    rings = rings & np.repeat(polygons, np.diff(batch.polygon_offsets))
    if rings.all():
        return batch
    chosen = np.flatnonzero(rings)
    offsets = np.concatenate([[0], np.cumsum(np.diff(batch.ring_offsets)[chosen])])
    pile = scratch.pile(int(offsets[-1]))
    for low, high in ring_pieces(offsets, scratch.in_memory):
        if offsets[high] - offsets[low] <= scratch.in_memory:
            pile.add(gather_rings(batch.coordinates, batch.ring_offsets, chosen[low:high], 0, 0)[0])
        else:
            first, last = batch.ring_offsets[chosen[low] : chosen[low] + 2].tolist()
            for start in range(first, last, scratch.in_memory):
                pile.add(batch.coordinates[start : min(last, start + scratch.in_memory)])
        release(batch.coordinates)
    counts = np.add.reduceat(rings.astype(np.int64), batch.polygon_offsets[:-1])[polygons]
    return PolygonBatch(
        coordinates=pile.whole() if len(chosen) else batch.coordinates[:0],
        ring_offsets=offsets,
        polygon_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{name: getattr(batch, name)[polygons] for name in _EMPTY if name != "coordinates"},
    )
