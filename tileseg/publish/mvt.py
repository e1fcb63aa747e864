"""Mapbox Vector Tiles 2.1: polygons of one layer as the bytes of a tile.

The format: https://github.com/mapbox/vector-tile-spec/tree/master/2.1 (a protobuf, written here by hand because only
polygons are written, and a hundred thousand at a time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.compiled import compiled, inlined

EXTENT = 4096
"""Units along a tile's side."""

Array = npt.NDArray[Any]

_MOVE, _LINE, _CLOSE = 1, 2, 7


@inlined
def _put(value: int, out: Array, at: int) -> int:  # pragma: no cover - compiled
    """Write an unsigned varint; the place after it."""
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@inlined
def _zigzag(value: int) -> int:  # pragma: no cover - compiled
    return 2 * value if value >= 0 else -2 * value - 1


@compiled
def encode_polygons(
    xy: Array, ring_offsets: Array, exterior: Array, ring_counts: Array, out: Array, ends: Array
) -> int:  # pragma: no cover - compiled
    """Geometries of features of several polygons: how many bytes were written to ``out`` (see :func:`most_bytes`).

    ``xy`` (n, 2) int64 in tile units, y down; ``ring_offsets`` (R + 1,) of closed rings, an exterior before its holes;
    ``exterior`` (R,) bool: which are exteriors; ``ring_counts`` (F,) rings of each feature. ``ends`` (F,) is given
    where each feature's bytes end. Exteriors have a positive area by the surveyor's formula, holes a negative one, as
    the format wants it: rings that rounding left none are left out, and the holes of such an exterior.
    """
    at = 0
    ring = 0
    for feature in range(len(ring_counts)):
        x0, y0 = np.int64(0), np.int64(0)
        keep = False
        for _ in range(ring_counts[feature]):
            low, high = ring_offsets[ring], ring_offsets[ring + 1] - 1
            area = np.int64(0)
            for i in range(low, high):
                area += xy[i, 0] * xy[i + 1, 1] - xy[i + 1, 0] * xy[i, 1]
            is_exterior = exterior[ring]
            ring += 1
            if is_exterior:
                keep = bool(area > 0)
            if not keep or (not is_exterior and area >= 0):
                continue
            count = 0
            for i in range(low, high):
                if xy[i, 0] != xy[i + 1, 0] or xy[i, 1] != xy[i + 1, 1]:
                    count += 1
            at = _put((1 << 3) | _MOVE, out, at)
            written = 0
            for i in range(low, high):
                if xy[i, 0] == xy[i + 1, 0] and xy[i, 1] == xy[i + 1, 1]:
                    continue
                at = _put(_zigzag(xy[i, 0] - x0), out, at)
                at = _put(_zigzag(xy[i, 1] - y0), out, at)
                x0, y0 = xy[i, 0], xy[i, 1]
                written += 1
                if written == 1:
                    at = _put(((count - 1) << 3) | _LINE, out, at)
            at = _put((1 << 3) | _CLOSE, out, at)
        ends[feature] = at
    return at


@compiled
def _encode_features(
    ids: Array, tags: Array, geometry: Array, ends: Array, out: Array
) -> int:  # pragma: no cover - compiled
    """Features as messages of the layer; ``tags`` (F, K): index of the value of each key, negative where it has none.

    ``geometry``: bytes of all, feature by feature, where each ends. Returns the length of what was written.
    """
    at = 0
    spare = np.empty(20 * tags.shape[1] + 20, np.uint8)
    for feature in range(len(ids)):
        low = ends[feature - 1] if feature else 0
        size = ends[feature] - low
        used = 0
        for key in range(tags.shape[1]):
            if tags[feature, key] >= 0:
                used = _put(key, spare, used)
                used = _put(tags[feature, key], spare, used)
        head = np.empty(64, np.uint8)
        to = _put(8, head, 0)
        to = _put(ids[feature], head, to)
        to = _put(18, head, to)
        to = _put(used, head, to)
        rest = np.empty(16, np.uint8)
        of = _put(24, rest, 0)
        of = _put(3, rest, of)
        of = _put(34, rest, of)
        of = _put(size, rest, of)
        at = _put(18, out, at)
        at = _put(to + used + of + size, out, at)
        for i in range(to):
            out[at + i] = head[i]
        at += to
        for i in range(used):
            out[at + i] = spare[i]
        at += used
        for i in range(of):
            out[at + i] = rest[i]
        at += of
        for i in range(size):
            out[at + i] = geometry[low + i]
        at += size
    return at


def layer(name: str, ids: Array, columns: Mapping[str, Array], geometry: Array, ends: Array) -> bytes:
    """A tile of one layer of polygons.

    ``ids`` (F,) int64; ``columns``: name -> values (F,) of bool, whole numbers, floats or str, of which empty ones
    and NaN are left out; ``geometry``, ``ends``: as :func:`encode_polygons` gives them.
    """
    tags = np.full((len(ids), len(columns)), -1, np.int64)
    values: list[bytes] = []
    count = 0
    for k, column in enumerate(columns.values()):
        there = column != "" if column.dtype.kind == "U" else ~np.isnan(column)
        found, index = np.unique(column[there], return_inverse=True)
        tags[there, k] = index + count
        values.append(_values(found))
        count += len(found)
    out = np.empty(len(geometry) + len(ids) * (20 * len(columns) + 60), np.uint8)
    size = _encode_features(np.asarray(ids, np.int64), tags, geometry, np.asarray(ends, np.int64), out)
    parts = [
        b"\x78\x02",
        _message(0x0A, name.encode()),
        out[:size].tobytes(),
        *(_message(0x1A, key.encode()) for key in columns),
        *values,
        b"\x28" + _varint(EXTENT),
    ]
    return _message(0x1A, b"".join(parts))


def _values(found: Array) -> bytes:
    """Values of one kind as messages of the layer."""
    if found.dtype.kind == "U":
        return b"".join(_message(0x22, _message(0x0A, text.encode())) for text in found.tolist())
    if found.dtype.kind == "b":
        return b"".join(_message(0x22, b"\x38" + _varint(value)) for value in found.tolist())
    if found.dtype.kind == "f":
        messages = np.empty(len(found), [("head", "S3"), ("value", "<f8")])
        messages["head"], messages["value"] = b"\x22\x09\x19", found
        return messages.tobytes()
    out = np.empty(16 * len(found), np.uint8)
    return out[: _encode_integers(np.asarray(found, np.int64), out)].tobytes()


@compiled
def _encode_integers(values: Array, out: Array) -> int:  # pragma: no cover - compiled
    """Whole numbers as messages of the layer; the length of what was written."""
    at = 0
    for value in values:
        out[at] = 0x22
        out[at + 2] = 0x28 if value >= 0 else 0x30
        end = _put(value if value >= 0 else _zigzag(value), out, at + 3)
        out[at + 1] = end - at - 2
        at = end
    return at


def _message(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def most_bytes(ring_offsets: Sequence[int] | Array) -> int:
    """Bytes that :func:`encode_polygons` needs at the most: two varints of 35 bits per corner, three per ring."""
    return int(ring_offsets[-1]) * 10 + 15 * len(ring_offsets)
