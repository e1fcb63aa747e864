"""GeoJSON by RFC 7946, and the same line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import shapely

from tileseg.compiled import compiled
from tileseg.globe import globe_of
from tileseg.grid import Grid
from tileseg.polygons.cut import tidy
from tileseg.polygons.ground import decimals_of
from tileseg.polygons.lattice import ring_pieces
from tileseg.polygons.rings import Array
from tileseg.polygons.scratch import release
from tileseg.polygons.shape import LonLat, Shapes
from tileseg.publish.table import Rows, Table

_VERTICES = 1 << 20
"""Vertices formatted as text at a time."""

_PER_VERTEX = 45
"""Bytes of a vertex as text, at most: two numbers of 20 digits with signs and points, and what is around them."""

_NULL = np.iinfo(np.int64).min
"""Stands for a number that is not finite."""

_WORD = -1
"""Stands for the decimals of a column of words."""


class GeoJson:
    """A FeatureCollection with one feature per line, or features alone (GeoJSON lines)."""

    def __init__(self, path: Path, table: Table, *, lines: bool) -> None:
        self._path, self._table, self._lines = path, table, lines
        self._begun = False

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._path.open("wb", buffering=1 << 20)
        if not self._lines:
            text = description_of(self._table.grid)
            note = {} if text is None else {"description": text}
            head = json.dumps({"type": "FeatureCollection", **note}, ensure_ascii=False)
            self._file.write(head[:-1].encode() + b', "features": [\n')
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Rows) -> None:
        for text in geojson_features(rows.shapes, rows.values, self._table, b"\n" if self._lines else b",\n"):
            # Every feature begins with the separator; the first of the file has nothing to be separated from.
            self._file.write(text if self._begun else text[1 if self._lines else 2 :])
            self._begun = True

    def close(self) -> None:
        self._file.write(b"\n" if self._lines and self._begun else b"" if self._lines else b"\n]}\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def collection(path: Path, table: Table) -> GeoJson:
    """A file that is one FeatureCollection."""
    return GeoJson(path, table, lines=False)


def lines(path: Path, table: Table) -> GeoJson:
    """A file of features, one a line."""
    return GeoJson(path, table, lines=True)


def description_of(grid: Grid) -> str | None:
    """What a reader has to know of the coordinates; None where they are those of WGS 84, as RFC 7946 has it."""
    if grid.crs is not None and grid.geod is None:
        return _PLANE.format(grid.crs.name, grid.crs.axis_info[0].unit_name if grid.crs.axis_info else "unknown")
    if grid.crs_wkt is None:
        return _NO_CRS
    globe = globe_of(grid.crs_wkt)
    return None if globe.is_earth else _NOT_EARTH.format(globe.degrees.name)


_NOT_EARTH = "Not of the Earth: coordinates are longitude and latitude in {!r}, not in WGS 84."

_PLANE = "Not longitude and latitude: coordinates are those of a plane, {!r}; their unit: {}."

_NO_CRS = (
    "The scene has no coordinate reference system: coordinates are those of its own grid (x = column, y = row "
    "unless it has a transform), not longitude and latitude."
)


def geojson_features(
    shapes: Shapes, values: list[Array], table: Table, separator: bytes
) -> Iterator[bytes | memoryview]:
    """GeoJSON features, each after a separator, in pieces of about a million vertices.

    ``values``: the columns of ``table`` for these shapes, numbers with as many decimals as ``table`` says.
    """
    places = shapes.lonlat or LonLat(shapes.coordinates, shapes.ring_offsets, {})
    xy, ring_offsets, digits = places.coordinates, places.ring_offsets, decimals_of(table.grid)
    columns = np.empty((len(values), len(shapes)), np.int64)
    words: list[str] = ["false", "true"]
    decimals = np.zeros(len(values), np.int64)
    for k, (column, (name, kind)) in enumerate(zip(values, table.columns.items(), strict=True)):
        if pa.types.is_floating(kind):
            decimals[k] = table.decimals[name]
            finite = np.isfinite(column)
            columns[k] = np.where(finite, np.rint(np.where(finite, column, 0) * 10.0 ** decimals[k]), _NULL)
        elif pa.types.is_string(kind):
            decimals[k] = _WORD
            names, index = np.unique(column.astype(str), return_inverse=True)
            columns[k] = len(words) + index
            words += [json.dumps(name, ensure_ascii=False) for name in names.tolist()]
        else:
            decimals[k] = _WORD if pa.types.is_boolean(kind) else 0
            columns[k] = column
    keys = [f"{json.dumps(name)}: " for name in table.columns]
    between = [separator + b'{"type": "Feature", "properties": {' + keys[0].encode()]
    between += [f", {key}".encode() for key in keys[1:]]
    between += [b'}, "geometry": ', b'{"type": "Polygon", "coordinates": ', b"}}"]
    ends = ring_offsets[shapes.polygon_offsets]
    low = 0
    while low < len(shapes):
        high = max(low + 1, int(np.searchsorted(ends, ends[low] + _VERTICES, "right")) - 1)
        is_large = ends[high] - ends[low] > _VERTICES and low not in places.parts
        rings_of = np.zeros(2, np.int64) if is_large else shapes.polygon_offsets[low : high + 1]
        text, starts, geometries = _format(
            xy, ring_offsets, rings_of, digits, columns[:, low:high], decimals,
            *_joined(between), *_joined([word.encode() for word in words]),
        )  # fmt: skip
        data, written = text.data, 0
        if is_large:
            head, middle, tail = bytes(data).rpartition(b"[]")
            yield head + middle[:1]
            first, last = shapes.polygon_offsets[low : high + 1].tolist()
            yield from _rings(xy, ring_offsets[first : last + 1], digits)
            yield middle[1:] + tail
            low = high
            continue
        for i in sorted(i - low for i in places.parts if low <= i < high):
            yield data[starts[written] : geometries[i]]
            yield _geometry(places.parts[low + i], digits) + b"}"
            written = i + 1
        yield data[starts[written] :]
        low = high


def _rings(xy: Array, offsets: Array, decimals: int) -> Iterator[bytes | memoryview]:
    """What stands within the brackets of a polygon of any size, in pieces: ``[[x,y],...],[[x,y],...]``."""
    reverse = _is_clockwise(xy, int(offsets[0]), int(offsets[1]))
    release(xy)
    for low, high in ring_pieces(offsets, _VERTICES):
        if low:
            yield b","
        first, last = int(offsets[low]), int(offsets[high])
        if last - first <= _VERTICES:
            out = np.empty(_PER_VERTEX * (last - first) + 3 * (high - low), np.uint8)
            yield out[: _put_rings(out, 0, xy, offsets, low, high, reverse, decimals)].data
        else:
            yield b"["
            for start in range(0, last - first, _VERTICES):
                stop = min(start + _VERTICES, last - first)
                piece = (last - stop, last - start) if reverse else (first + start, first + stop)
                out = np.empty(_PER_VERTEX * (stop - start), np.uint8)
                written = _put_points(out, 0, xy, *piece, reverse, decimals)
                yield b"," if start else b""
                yield out[:written].data
                release(xy)
            yield b"]"
        release(xy)


def _joined(parts: list[bytes]) -> tuple[Array, Array]:
    """Bytes behind one another, and where each begins and ends."""
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)])


def _geometry(region: Any, decimals: int) -> bytes:
    """A polygon that may have several parts, or none: then it lies nowhere on the globe."""
    rings = [
        [np.round(shapely.get_coordinates(ring), decimals).tolist() for ring in (part.exterior, *part.interiors)]
        for part in tidy(region, decimals)
    ]
    if not rings:
        return b"null"
    several = len(rings) > 1
    kind = "MultiPolygon" if several else "Polygon"
    return json.dumps({"type": kind, "coordinates": rings if several else rings[0]}).encode()


@compiled
def _put_number(out: Array, n: int, value: int | np.int64, decimals: int, least: int) -> int:
    """Write an integer that counts units of 10^-``decimals`` as ASCII; return the position after it.

    It gets as many decimals as it needs, and ``least`` at the least.
    """
    if value == _NULL:
        for k in range(4):
            out[n + k] = b"null"[k]
        return n + 4
    if value < 0:
        out[n] = 45  # -
        n += 1
        value = -value
    unit = np.int64(10) ** decimals
    whole, fraction = value // unit, value % unit
    digits = 1
    power = np.int64(10)
    while power <= whole:
        power *= 10
        digits += 1
    for k in range(digits):
        out[n + digits - 1 - k] = 48 + whole % 10
        whole //= 10
    n += digits
    end = decimals
    while end > least and fraction % 10 == 0:
        fraction //= 10
        end -= 1
    if end > 0:
        out[n] = 46  # .
        for k in range(end):
            out[n + end - k] = 48 + fraction % 10
            fraction //= 10
        n += end + 1
    return n


@compiled
def _is_clockwise(xy: Array, low: int, high: int) -> bool:
    """Whether a closed ring runs clockwise in (x, y)."""
    twice = 0.0
    for i in range(low, high - 1):
        x0, y0 = xy[i, 0] - xy[low, 0], xy[i, 1] - xy[low, 1]
        x1, y1 = xy[i + 1, 0] - xy[low, 0], xy[i + 1, 1] - xy[low, 1]
        twice += x0 * y1 - x1 * y0
    return twice < 0


@compiled
def _put_points(out: Array, n: int, xy: Array, low: int, high: int, reverse: bool, decimals: int) -> int:
    """``[x,y],[x,y]`` from the first to the last, or the other way."""
    unit = 10.0**decimals
    for i in range(high - low):
        k = high - 1 - i if reverse else low + i
        if i > 0:
            out[n] = 44  # ,
            n += 1
        out[n] = 91  # [
        n = _put_number(out, n + 1, np.int64(np.rint(xy[k, 0] * unit)), decimals, 0)
        out[n] = 44
        n = _put_number(out, n + 1, np.int64(np.rint(xy[k, 1] * unit)), decimals, 0)
        out[n] = 93  # ]
        n += 1
    return n


@compiled
def _put_rings(
    out: Array, n: int, xy: Array, offsets: Array, first: int, last: int, reverse: bool, decimals: int
) -> int:
    """``[[x,y],...],[[x,y],...]`` of rings."""
    for ring in range(first, last):
        if ring > first:
            out[n] = 44  # ,
            n += 1
        out[n] = 91  # [
        n = _put_points(out, n + 1, xy, offsets[ring], offsets[ring + 1], reverse, decimals)
        out[n] = 93  # ]
        n += 1
    return n


@compiled
def _format(
    xy: Array,
    ring_offsets: Array,
    polygon_offsets: Array,
    digits: int,
    columns: Array,
    decimals: Array,
    between: Array,
    between_offsets: Array,
    words: Array,
    word_offsets: Array,
) -> tuple[Array, Array, Array]:
    """Features as UTF-8: (text, where each begins and the last ends, where its geometry begins).

    Coordinates have ``digits`` decimals. ``columns`` (column, polygon) are integers: of units of 10^-decimals, or
    numbers of words. ``between`` is what stands before each of them, then before the geometry, before its coordinates,
    and behind them.
    """
    count, polygons = columns.shape
    rings = polygon_offsets[polygons] - polygon_offsets[0]
    vertices = ring_offsets[polygon_offsets[polygons]] - ring_offsets[polygon_offsets[0]]
    longest = 24
    for word in range(len(word_offsets) - 1):
        longest = max(longest, word_offsets[word + 1] - word_offsets[word])
    out = np.empty(_PER_VERTEX * vertices + 4 * rings + (4 + len(between) + longest * count) * polygons, np.uint8)
    starts = np.zeros(polygons + 1, np.int64)
    geometries = np.empty(polygons, np.int64)
    n = 0
    for polygon in range(polygons):
        for part in range(count + 3):
            for k in range(between_offsets[part], between_offsets[part + 1]):
                out[n] = between[k]
                n += 1
            if part < count:
                value = columns[part, polygon]
                if decimals[part] == _WORD:
                    for k in range(word_offsets[value], word_offsets[value + 1]):
                        out[n] = words[k]
                        n += 1
                else:
                    n = _put_number(out, n, value, decimals[part], min(1, decimals[part]))
            elif part == count:
                geometries[polygon] = n
            elif part == count + 1:
                first, last = polygon_offsets[polygon], polygon_offsets[polygon + 1]
                out[n] = 91  # [
                n += 1
                if last > first:
                    reverse = _is_clockwise(xy, ring_offsets[first], ring_offsets[first + 1])
                    n = _put_rings(out, n, xy, ring_offsets, first, last, reverse, digits)
                out[n] = 93  # ]
                n += 1
        starts[polygon + 1] = n
    return out[:n], starts, geometries
