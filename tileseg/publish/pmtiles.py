"""PMTiles: vector tiles of all zooms in one file, which web servers and object stores serve by ranges.

The archive: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md, written by the package ``pmtiles``. What
tiles of which zoom show: :mod:`tileseg.publish.vector_tiles`.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import shapely

from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import GrowingArray, Scratch
from tileseg.polygons.shape import Shapes
from tileseg.publish.mvt import layer
from tileseg.publish.table import LAYER, Rows, Table
from tileseg.publish.vector_tiles import Store, features_of
from tileseg.webmap import Placement

_UNITS_PER_PIXEL = 4
"""At the greatest zoom."""

_IN_MEMORY = 1 << 18
"""Corners."""

_LEVEL = 6
"""Of compression: 9, the usual one, takes several times as long for a percent."""

MERGED = "merged"
"""Attribute of what stands for several polygons at lower zooms: how many."""


@dataclass(slots=True)
class _Column:
    """Values of one attribute: numbers, or indices of texts."""

    values: GrowingArray
    texts: dict[str, int] | None

    def extend(self, values: Array) -> None:
        if self.texts is not None:
            found, index = np.unique(values.astype(str), return_inverse=True)
            numbers = [self.texts.setdefault(text, len(self.texts)) for text in found.tolist()]
            values = np.array(numbers, np.int64)[index]
        self.values.extend(values)

    def of(self, rows: Array) -> Array:
        taken = self.values.filled[rows]
        return taken if self.texts is None else np.array(list(self.texts))[taken]


class VectorTiles:
    """Writes one archive: takes polygons first, and makes the tiles of all zooms when it is closed.

    They wait in files beside it where they are many. The largest polygon has to fit into memory.
    """

    def __init__(self, path: Path, placement: Placement, columns: Mapping[str, np.dtype[Any]]) -> None:
        """``columns``: name -> type of values; texts where it is that of objects."""
        self._path, self._placement = path, placement
        scratch = Scratch(path.parent, _IN_MEMORY)
        self._store = Store(scratch)
        self._scratch = scratch
        self._columns = {
            name: _Column(scratch.growing(np.int64 if kind.hasobject else kind.type), {} if kind.hasobject else None)
            for name, kind in columns.items()
        }
        self._rows = 0

    def add(self, polygons: tuple[Array, Array, Array], owner: Array, labels: Array, values: list[Array]) -> None:
        """Append N rows.

        ``polygons``: corners (n, 2) as fractions (see :mod:`tileseg.webmap`), offsets of rings and of polygons;
        ``owner`` (P,): to which of the N rows each belongs, ascending; ``labels`` (N,); ``values``: the columns.
        """
        for column, taken in zip(self._columns.values(), values, strict=True):
            column.extend(taken)
        self._store.add(*polygons, owner + self._rows, labels[owner])
        self._rows += len(labels)

    def close(self) -> None:
        """Make the tiles."""
        from pmtiles.tile import Compression, TileType
        from pmtiles.writer import Writer

        zooms = self._placement.zoom(1024) if len(self._store) else 0
        west, south, east, north = (min(180.0, max(-180.0, side)) for side in self._placement.degrees)
        with self._path.open("wb") as file, tempfile.TemporaryFile(dir=self._path.parent) as waiting:
            writer: Any = Writer(file)  # type: ignore[no-untyped-call]
            writer.tile_f.close()  # where the system keeps temporary files may be memory
            writer.tile_f = waiting
            for zoom in range(zooms + 1):
                for tile_id, content in self._tiles(zoom, whole=zoom == zooms):
                    writer.write_tile(tile_id, gzip.compress(content, _LEVEL, mtime=0))
            if not len(self._store):
                writer.write_tile(0, gzip.compress(layer(LAYER, *_NOTHING), mtime=0))
            box = {
                "min_lon_e7": int(west * 1e7), "min_lat_e7": int(south * 1e7),
                "max_lon_e7": int(east * 1e7), "max_lat_e7": int(north * 1e7),
                "center_lon_e7": int((west + east) / 2 * 1e7), "center_lat_e7": int((south + north) / 2 * 1e7),
            }  # fmt: skip
            kinds = {"tile_type": TileType.MVT, "tile_compression": Compression.GZIP}
            writer.finalize({**kinds, **box, "center_zoom": min(zooms, 14)}, self._metadata(zooms))

    def _metadata(self, zooms: int) -> dict[str, Any]:
        fields = {name: _kind(column) for name, column in self._columns.items()} | {MERGED: "Number"}
        return {
            "name": LAYER,
            "type": "overlay",
            "vector_layers": [{"id": LAYER, "fields": fields, "minzoom": 0, "maxzoom": zooms}],
            "tileseg": {"on_globe": self._placement.on_globe},
        }

    def _tiles(self, zoom: int, *, whole: bool) -> Iterator[tuple[int, bytes]]:
        """Number and content of the tiles of a zoom that are not empty, by number."""
        from pmtiles.tile import zxy_to_tileid

        numbers, geometry = self._scratch.growing(np.int64, 5), self._scratch.growing(np.uint8)
        for found in features_of(self._store, zoom, whole=whole):
            starts = np.concatenate([[0], found.ends[:-1]])
            there = found.ends > starts
            ends = found.ends + geometry.size
            numbers.extend(np.column_stack([found.column, found.line, found.row, found.merged, ends])[there])
            geometry.extend(found.geometry)
        facts = numbers.filled
        starts = np.concatenate([[0], facts[:-1, 4]])
        tiles, index = np.unique(facts[:, :2], axis=0, return_inverse=True)
        ids = np.array([zxy_to_tileid(zoom, col, line) for col, line in tiles.tolist()], np.int64)
        order = np.lexsort((facts[:, 2], ids[index.reshape(-1)]))
        ordered = ids[index.reshape(-1)][order]
        changes = np.r_[len(order) > 0, ordered[1:] != ordered[:-1], len(order) > 0]
        for low, high in itertools.pairwise(np.flatnonzero(changes).tolist()):
            of = order[low:high]
            parts = [geometry.filled[a:b] for a, b in zip(starts[of].tolist(), facts[of, 4].tolist(), strict=True)]
            rows, merged = facts[of, 2], facts[of, 3]
            columns = {name: column.of(rows) for name, column in self._columns.items()}
            if (merged > 1).any():
                columns[MERGED] = np.where(merged > 1, merged, np.nan)
            ends = np.cumsum([len(part) for part in parts])
            yield int(ordered[low]), layer(LAYER, rows + 1, columns, np.concatenate(parts), ends)


_NOTHING: Any = (np.empty(0, np.int64), {}, np.empty(0, np.uint8), np.empty(0, np.int64))


def _kind(column: _Column) -> str:
    if column.texts is not None:
        return "String"
    return "Boolean" if column.values.array.dtype == np.bool_ else "Number"


@dataclass
class PMTiles:
    """The writer of the format ``pmtiles``."""

    path: Path
    table: Table
    _tiles: VectorTiles = field(init=False)

    def __post_init__(self) -> None:
        kinds = {name: np.dtype(kind.to_pandas_dtype()) for name, kind in self.table.columns.items()}
        self._placement = Placement(self.table.grid)
        self._tiles = VectorTiles(self.path, self._placement, kinds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, rows: Rows) -> None:
        polygons, owner = _fractions(rows.shapes, self._placement)
        self._tiles.add(polygons, owner, np.asarray(rows.shapes.label, np.int64), rows.values)

    def close(self) -> None:
        self._tiles.close()


def _fractions(shapes: Shapes, placement: Placement) -> tuple[tuple[Array, Array, Array], Array]:
    """Polygons as fractions of the square of web maps, and the row of each."""
    lonlat = shapes.lonlat
    if lonlat is None or not placement.on_globe:
        corners = placement.of_crs(shapes.coordinates)
        return (corners, shapes.ring_offsets, shapes.polygon_offsets), np.arange(len(shapes))
    if not lonlat.parts:
        corners = placement.of_lonlat(lonlat.coordinates)
        return (corners, lonlat.ring_offsets, shapes.polygon_offsets), np.arange(len(shapes))
    kind = shapely.GeometryType.POLYGON
    drawn = shapely.from_ragged_array(kind, lonlat.coordinates, (lonlat.ring_offsets, shapes.polygon_offsets))
    for i, part in lonlat.parts.items():
        drawn[i] = part
    return fractions_of(drawn, placement)


def fractions_of(shapes: Array, placement: Placement) -> tuple[tuple[Array, Array, Array], Array]:
    """Shapely polygons, single ones or several to a row, in degrees (in the grid's pixels where it lies nowhere)."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    polygonal = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    parts, owner = parts[polygonal], owner[polygonal]
    _, corners, (rings, polygons) = shapely.to_ragged_array(parts)
    place = placement.of_lonlat if placement.on_globe else placement.of_crs
    return (place(corners[:, :2]), rings, polygons), owner
