"""Polygons as vector tiles of all zooms: which are shown where, simplified and cut.

At the greatest zoom all polygons are there as they are, rounded to a quarter of a pixel or less. At each lower one
outlines lose what is too small to be seen, and polygons that are less than ``SMALL`` by ``SMALL`` units (four pixels of
a screen) are gathered: of those of one class in one cell of that size, the largest stands for all, as a square of their
area, but no larger than the cell, with its own attributes and with ``merged``, how many it stands for. So no polygon
vanishes, and a tile holds a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from tileseg.compiled import compiled
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import Scratch
from tileseg.publish.mvt import EXTENT, encode_polygons, most_bytes

SMALL = 32
"""Units: side of the cells, and of the square that is too small to be shown alone."""

_LONG = 4 * SMALL
"""Units: what is longer than that is shown alone, however narrow."""

_BESIDE = 64
"""Units around a tile that it holds, too, so that cutting shows no lines."""

_SIMPLE = 3.0
"""Units by which outlines may move at lower zooms."""

_PIECE = 1 << 17
"""Corners worked on at a time."""


class Store:
    """Polygons that wait to become tiles, in memory while they are few, in files when they are many."""

    def __init__(self, scratch: Scratch) -> None:
        self.corners = scratch.growing(np.float64, 2)
        """Fractions of the square of web maps, y down; rings are closed, exteriors first."""
        self.ring_ends = scratch.growing(np.int64)
        """Where each ring ends among the corners."""
        self.polygon_ends = scratch.growing(np.int64)
        """Where each polygon ends among the rings."""
        self.rows = scratch.growing(np.int64)
        """Of each polygon: the row of its attributes, ascending; several polygons may have one."""
        self.labels = scratch.growing(np.int64)
        """Class of each polygon."""
        self.areas = scratch.growing(np.float64)
        """Area of each polygon, as a fraction of the square."""
        self.boxes = scratch.growing(np.float64, 4)
        """Least x and y, greatest x and y of each polygon."""

    def add(self, corners: Array, rings: Array, polygons: Array, rows: Array, labels: Array) -> None:
        """Append P polygons: corners (n, 2), offsets of rings (R + 1,) and polygons (P + 1,), row and label of each."""
        first_corner, first_ring = self.corners.size, self.ring_ends.size
        step = 1 << 20
        for low in range(0, len(corners), step):
            self.corners.extend(corners[low : low + step])
        self.ring_ends.extend(np.asarray(rings[1:], np.int64) + first_corner)
        self.polygon_ends.extend(np.asarray(polygons[1:], np.int64) + first_ring)
        self.rows.extend(rows)
        self.labels.extend(labels)
        area, box = _measured(corners, np.asarray(rings, np.int64), np.asarray(polygons, np.int64))
        self.areas.extend(area)
        self.boxes.extend(box)
        self.corners.release()

    def __len__(self) -> int:
        """Number of polygons."""
        return self.rows.size

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Ranges of polygons of about so many corners as are worked on at a time."""
        ends = self.polygon_ends.filled
        low = 0
        while low < len(self):
            start = self._corner(low)
            rings = int(np.searchsorted(self.ring_ends.filled, start + _PIECE, "right"))
            high = max(low + 1, int(np.searchsorted(ends, rings, "right")))
            yield low, min(high, len(self))
            low = high

    def _corner(self, polygon: int) -> int:
        ring = 0 if polygon == 0 else int(self.polygon_ends.filled[polygon - 1])
        return 0 if ring == 0 else int(self.ring_ends.filled[ring - 1])

    def geometries(self, low: int, high: int, scale: float) -> Array:
        """(high - low,) shapely polygons, in fractions times ``scale``."""
        first = 0 if low == 0 else int(self.polygon_ends.filled[low - 1])
        polygons = np.concatenate([[first], self.polygon_ends.filled[low:high]])
        start = self._corner(low)
        rings = np.concatenate([[start], self.ring_ends.filled[first : polygons[-1]]])
        corners = self.corners.filled[start : rings[-1]] * scale
        self.corners.release()
        return np.asarray(
            shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (rings - start, polygons - first))
        )


@compiled
def _measured(corners: Array, rings: Array, polygons: Array) -> tuple[Array, Array]:  # pragma: no cover - compiled
    """(P,) areas without their holes, (P, 4) boxes of polygons; an exterior comes before its holes."""
    count = len(polygons) - 1
    areas, boxes = np.zeros(count), np.empty((count, 4))
    for i in range(count):
        for ring in range(polygons[i], polygons[i + 1]):
            low, high = rings[ring], rings[ring + 1]
            # From the ring's own corner: fractions of the square have few digits left for a house.
            x, y = corners[low, 0], corners[low, 1]
            total = 0.0
            for k in range(low, high - 1):
                total += (corners[k, 0] - x) * (corners[k + 1, 1] - y) - (corners[k + 1, 0] - x) * (corners[k, 1] - y)
            if ring == polygons[i]:
                areas[i] = abs(total) / 2
                box = corners[low:high]
                boxes[i, 0], boxes[i, 1] = box[:, 0].min(), box[:, 1].min()
                boxes[i, 2], boxes[i, 3] = box[:, 0].max(), box[:, 1].max()
            else:
                areas[i] -= abs(total) / 2
    return areas, boxes


@dataclass(frozen=True, slots=True)
class Features:
    """Encoded features of one zoom. F of them, in no order."""

    column: Array
    """(F,) of the tile."""
    line: Array
    """(F,) of the tile, from above."""
    row: Array
    """(F,) of the attributes."""
    merged: Array
    """(F,) how many polygons each stands for."""
    geometry: Array
    """Bytes of all."""
    ends: Array
    """(F,) where each one's bytes end."""


def features_of(store: Store, zoom: int, *, whole: bool) -> Iterator[Features]:
    """All that tiles of a zoom show; ``whole``: all polygons as they are.

    Memory: that of a piece, and 40 bytes a polygon that is gathered.
    """
    scale = float(EXTENT << zoom)
    gathered: list[tuple[Array, ...]] = []
    for low, high in store.pieces():
        box, area = store.boxes.filled[low:high] * scale, store.areas.filled[low:high] * scale**2
        rows, labels = store.rows.filled[low:high], store.labels.filled[low:high]
        longest = np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
        alone = np.ones(len(area), np.bool_) if whole else (area >= SMALL**2) | (longest > _LONG)
        if alone.any():
            shapes = store.geometries(low, high, scale)[alone]
            if not whole:
                shapes = shapely.simplify(shapes, _SIMPLE)
            # What is as narrow as nothing has no outline of its own, however long.
            shown = shapely.area(shapely.set_precision(shapes, 1.0, mode="pointwise")) > 0
            alone[alone] = shown
            if shown.any():
                yield _cut_and_encoded(shapes[shown], rows[alone], zoom)
        small = ~alone
        gathered.append((rows[small].copy(), labels[small].copy(), area[small], (box[small, :2] + box[small, 2:]) / 2))
    if gathered:
        rows, labels, area, centre = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        if len(rows):
            yield from _stand_ins(rows, labels, area, centre, zoom)


def _stand_ins(rows: Array, labels: Array, area: Array, centre: Array, zoom: int) -> Iterator[Features]:
    """The squares of small polygons."""
    cell = np.floor(np.clip(centre, 0, (EXTENT << zoom) - 1) / SMALL).astype(np.int64)
    order = np.lexsort((rows, -area, labels, cell[:, 1], cell[:, 0]))
    keys = np.column_stack([cell, labels])[order]
    first = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    total = np.add.reduceat(area[order], first)
    merged = np.diff(np.r_[first, len(order)])
    kept = order[first]
    half = np.clip(np.sqrt(total), 2, SMALL) / 2
    middle, tiles = centre[kept], cell[kept] * SMALL // EXTENT
    for low in range(0, len(kept), _PIECE):
        part = slice(low, low + _PIECE)
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
        xy = (middle[part] - tiles[part] * EXTENT)[:, None] + corners * half[part, None, None]
        count = len(xy)
        # An odd side is rounded to whole units at both ends in the same way, so none becomes empty.
        whole = np.floor(xy + 0.5).astype(np.int64).reshape(-1, 2)
        yield _encoded(
            tiles[part], rows[kept[part]], merged[part], whole, 5 * np.arange(count + 1), np.arange(count + 1),
            np.arange(count + 1),
        )  # fmt: skip


def _cut_and_encoded(shapes: Array, rows: Array, zoom: int) -> Features:
    """Polygons at the places of their tiles: each tile has its part of each, as one feature."""
    parts, owner, tiles = _cut(shapes, np.arange(len(shapes)), zoom)
    by = np.lexsort((owner, tiles[:, 1], tiles[:, 0]))
    parts, owner, tiles = parts[by], rows[owner[by]], tiles[by]
    _, xy, (rings, polygons) = shapely.to_ragged_array(shapely.orient_polygons(parts))
    per_corner = np.repeat(tiles, np.diff(rings[polygons]), axis=0)
    whole = np.floor(xy - per_corner * EXTENT + 0.5).astype(np.int64)
    keys = np.column_stack([tiles, owner])
    first = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)])
    return _encoded(
        tiles[first], owner[first], np.ones(len(first), np.int64), whole, rings, polygons, np.r_[first, len(parts)]
    )


def _encoded(
    tiles: Array, rows: Array, merged: Array, xy: Array, rings: Array, polygons: Array, features: Array
) -> Features:
    """Features; offsets of rings among corners, of polygons among rings, of features among polygons."""
    exterior = np.zeros(len(rings) - 1, np.bool_)
    exterior[polygons[:-1]] = True
    out = np.empty(most_bytes(rings), np.uint8)
    ends = np.empty(len(features) - 1, np.int64)
    size = encode_polygons(
        xy, np.asarray(rings, np.int64), exterior, np.diff(np.asarray(polygons, np.int64)[features]), out, ends
    )
    return Features(tiles[:, 0], tiles[:, 1], rows, merged, out[:size].copy(), ends)


def _cut(shapes: Array, owner: Array, zoom: int) -> tuple[Array, Array, Array]:
    """Polygons cut into tiles: the parts, which shape each is of, and (column, line) of its tile.

    Halved again and again, so that a large polygon isn't cut anew from all of its corners for each of its tiles.
    """
    done: list[tuple[Array, Array, Array]] = []
    first, last = _tiles_of(shapes, zoom)
    while len(shapes):
        single = (first == last).all(axis=1)
        if single.any():
            done.append(_within(shapes[single], owner[single], first[single], first[single]))
        shapes, owner, first, last = (each[~single] for each in (shapes, owner, first, last))
        if not len(shapes):
            break
        axis = (last[:, 1] - first[:, 1] > last[:, 0] - first[:, 0]).astype(np.int64)
        rows = np.arange(len(shapes))
        middle = (first[rows, axis] + last[rows, axis]) // 2
        ends, starts = last.copy(), first.copy()
        ends[rows, axis], starts[rows, axis] = middle, middle + 1
        halves = []
        for low, high in ((first, ends), (starts, last)):
            part, of, _ = _within(shapes, np.arange(len(shapes)), low, high)
            begin, end = _tiles_of(part, zoom)
            halves.append((part, owner[of], np.maximum(begin, low[of]), np.minimum(end, high[of])))
        shapes, owner, first, last = (np.concatenate(both) for both in zip(*halves, strict=True))
        there = (first <= last).all(axis=1)
        shapes, owner, first, last = (each[there] for each in (shapes, owner, first, last))
    if not done:
        return np.empty(0, object), np.empty(0, np.int64), np.empty((0, 2), np.int64)
    parts, owners, tiles = (np.concatenate(each) for each in zip(*done, strict=True))
    return parts, owners, tiles


def _tiles_of(shapes: Array, zoom: int) -> tuple[Array, Array]:
    """(P, 2) first and last tile, as (column, line), that shows some of each shape."""
    box = shapely.bounds(shapes)
    most = (1 << zoom) - 1
    low = np.maximum(np.floor((box[:, :2] - _BESIDE) / EXTENT), 0).astype(np.int64)
    high = np.minimum(np.ceil((box[:, 2:] + _BESIDE) / EXTENT) - 1, most).astype(np.int64)
    low = np.minimum(low, most)
    return low, np.maximum(high, low)


def _within(shapes: Array, owner: Array, first: Array, last: Array) -> tuple[Array, Array, Array]:
    """The parts of shapes in ranges of tiles and beside them: parts, owners, first tiles; none without an area."""
    low, high = first * EXTENT - _BESIDE, (last + 1) * EXTENT + _BESIDE
    box = shapely.bounds(shapes)
    sticks_out = (box[:, :2] < low).any(axis=1) | (box[:, 2:] > high).any(axis=1)
    if not sticks_out.any():
        return shapes, owner, first
    found = shapes.copy()
    limits = shapely.box(*low[sticks_out].T, *high[sticks_out].T)
    found[sticks_out] = shapely.intersection(shapes[sticks_out], limits)
    while True:
        parts, index = shapely.get_parts(found, return_index=True)
        found, owner, first = parts, owner[index], first[index]
        if not (shapely.get_type_id(found) > shapely.GeometryType.POLYGON).any():
            break
    there = (shapely.get_type_id(found) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(found)
    return found[there], owner[there], first[there]
