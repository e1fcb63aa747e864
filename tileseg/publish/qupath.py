"""GeoJSON as QuPath reads it: annotations with classes and their colours, in pixels of the slide."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tileseg.card import default_color
from tileseg.publish.table import Rows, Table

_VERTICES = 1 << 16
"""Vertices written at a time."""


class QuPath:
    """A FeatureCollection for *File > Import objects from file*.

    Coordinates are pixels of the picture, x to the right and y down, which is what QuPath counts; of a slide those of
    its full size, whichever level was looked at.
    """

    def __init__(self, path: Path, table: Table) -> None:
        self._path, self._table = path, table
        plane = table.grid.crs is not None and table.grid.crs.is_engineering and _is_pixels(table)
        self._to_pixels = None if plane else ~table.grid.transform
        self._begun = False

    def __enter__(self) -> Self:
        self._file = self._path.open("wb", buffering=1 << 20)
        self._file.write(b'{"type": "FeatureCollection", "features": [\n')
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Rows) -> None:
        """Append polygons."""
        shapes = rows.shapes
        heads = self._heads(rows)
        small = len(shapes.coordinates) <= shapes.scratch.in_memory
        points = self._pixels(shapes.coordinates).tolist() if small else None
        offsets = shapes.ring_offsets.tolist()
        for head, first, last in zip(heads, shapes.polygon_offsets[:-1], shapes.polygon_offsets[1:], strict=True):
            self._file.write(b",\n" if self._begun else b"")
            self._begun = True
            self._file.write(b'{"type": "Feature", "properties": ' + head.encode())
            self._file.write(b', "geometry": {"type": "Polygon", "coordinates": ')
            if points is not None:
                rings = [points[offsets[ring] : offsets[ring + 1]] for ring in range(first, last)]
                self._file.write(json.dumps(rings, separators=(",", ":")).encode())
            else:
                for ring in range(first, last):
                    self._file.write(b"," if ring > first else b"[")
                    for text in self._pieces(shapes.coordinates, offsets[ring], offsets[ring + 1]):
                        self._file.write(text)
                self._file.write(b"]")
            self._file.write(b"}}")

    def _heads(self, rows: Rows) -> list[str]:
        """The properties of each polygon, as JSON."""
        kinds = self._table.columns.items()
        names = [name for name, kind in kinds if str(kind) in ("double", "int64") and name != "id"]
        columns = dict(zip(self._table.columns, rows.values, strict=True))
        measured = zip(*(columns[name].tolist() for name in names), strict=True)
        labels = rows.shapes.label.tolist()
        classes = {i: {"name": self._table.name(i), "color": self._color(i)} for i in set(labels)}
        return [
            json.dumps(
                {
                    "objectType": "annotation",
                    "classification": classes[label],
                    "measurements": {n: v if math.isfinite(v) else None for n, v in zip(names, values, strict=True)},
                },
                ensure_ascii=False,
            )
            for label, values in zip(labels, measured, strict=True)
        ]

    def close(self) -> None:
        """Everything is written to the file."""
        self._file.write(b"\n]}\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _pieces(self, xy: npt.NDArray[Any], first: int, last: int) -> Iterator[bytes]:
        """A ring of any size, in pieces."""
        for start in range(first, last, _VERTICES):
            points = self._pixels(np.asarray(xy[start : min(start + _VERTICES, last)])).tolist()
            text = json.dumps(points, separators=(",", ":"))[1:-1].encode()
            yield (b"," if start > first else b"[") + text
        yield b"]"

    def _pixels(self, xy: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(n, 2) x and y in pixels, to a hundredth."""
        if self._to_pixels is not None:
            gt = self._to_pixels
            xy = xy @ np.array([[gt.a, gt.d], [gt.b, gt.e]]) + (gt.c, gt.f)
        return np.round(xy, 2)

    def _color(self, label: int) -> list[int]:
        color = self._table.colors.get(label) or default_color(label, background=False)
        return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _is_pixels(table: Table) -> bool:
    """Whether coordinates count pixels already: those of a slide."""
    crs = table.grid.crs
    return crs is not None and any("pixel" in axis.unit_name for axis in crs.axis_info)
