"""GeoJSON as QuPath reads it: annotations with classes and their colours, in pixels of the slide."""

from __future__ import annotations

import json
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
        names = [
            name for name, kind in self._table.columns.items() if str(kind) in ("double", "int64") and name != "id"
        ]
        columns = dict(zip(self._table.columns, rows.values, strict=True))
        shapes = rows.shapes
        for i, label in enumerate(shapes.label.tolist()):
            self._file.write(b",\n" if self._begun else b"")
            self._begun = True
            properties = {
                "objectType": "annotation",
                "classification": {"name": self._table.name(label), "color": self._color(label)},
                "measurements": {name: _number(columns[name][i]) for name in names},
            }
            self._file.write(
                b'{"type": "Feature", "properties": '
                + json.dumps(properties, ensure_ascii=False).encode()
                + b', "geometry": {"type": "Polygon", "coordinates": ['
            )
            for ring in range(shapes.polygon_offsets[i], shapes.polygon_offsets[i + 1]):
                self._file.write(b",[" if ring > shapes.polygon_offsets[i] else b"[")
                for text in self._vertices(shapes.coordinates, *shapes.ring_offsets[ring : ring + 2]):
                    self._file.write(text)
                self._file.write(b"]")
            self._file.write(b"]}}")

    def close(self) -> None:
        """Everything is written to the file."""
        self._file.write(b"\n]}\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _vertices(self, xy: npt.NDArray[Any], first: int, last: int) -> Iterator[bytes]:
        """The points of a ring, in pieces."""
        for start in range(first, last, _VERTICES):
            points = np.asarray(xy[start : min(start + _VERTICES, last)])
            if self._to_pixels is not None:
                gt = self._to_pixels
                points = points @ np.array([[gt.a, gt.d], [gt.b, gt.e]]) + (gt.c, gt.f)
            text = json.dumps(np.round(points, 2).tolist(), separators=(",", ":"))[1:-1]
            yield (b"," if start > first else b"") + text.encode()

    def _color(self, label: int) -> list[int]:
        color = self._table.colors.get(label) or default_color(label, background=False)
        return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _is_pixels(table: Table) -> bool:
    """Whether coordinates count pixels already: those of a slide."""
    crs = table.grid.crs
    return crs is not None and any("pixel" in axis.unit_name for axis in crs.axis_info)


def _number(value: Any) -> float | int | None:
    number = value.item()
    return number if np.isfinite(number) else None
