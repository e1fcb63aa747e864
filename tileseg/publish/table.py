"""The attributes of polygons, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import shapely

from tileseg.card import default_color
from tileseg.grid import Grid
from tileseg.polygons.chance import chance_of, features_of
from tileseg.polygons.ground import digits_of_areas
from tileseg.polygons.rings import Array
from tileseg.polygons.shape import Shapes
from tileseg.publish.qgis import Look, by_class, by_probability, style
from tileseg.publish.wkb import large_polygon

_SHARES = ("probability", "disagreement", "confidence")
"""Endings of the columns of numbers from 0 to 1."""

LAYER = "polygons"
"""Name of the layer in formats that have layers."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the files have in common: the grid and the columns."""

    grid: Grid
    class_names: Mapping[int, str]
    """Names of class ids; an id that is missing is its own name."""
    has_confidence: bool
    """Whether there are the columns mean_probability and min_probability."""
    has_disagreement: bool = False
    """Whether there is the column mean_disagreement."""
    colors: Mapping[int, str] = field(default_factory=dict)
    """Colours (``#rrggbb``) of class ids; an id that is missing has one by its number."""
    wanted: frozenset[int] = frozenset()
    """Ids that a style names whether they occur or not."""
    chances: Mapping[int, Array] = field(default_factory=dict)
    """Class id -> weights of the chance that its polygons are real objects, see :mod:`tileseg.polygons.chance`."""

    @property
    def is_georeferenced(self) -> bool:
        """Whether areas are in square metres."""
        return self.grid.geod is not None

    @property
    def has_chances(self) -> bool:
        """Whether there is the column confidence: of areas in square metres and probabilities alone."""
        return bool(self.chances) and self.is_georeferenced and self.has_confidence

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types, in order; the geometry comes after them."""
        unit = ("m2", "m") if self.is_georeferenced else ("px", "px")
        probabilities = {"mean_probability": pa.float64(), "min_probability": pa.float64()}
        return {
            "id": pa.int64(),
            "class": pa.int32(),
            "class_name": pa.string(),
            f"area_{unit[0]}": pa.float64(),
            f"perimeter_{unit[1]}": pa.float64(),
            **(probabilities if self.has_confidence else {}),
            **({"mean_disagreement": pa.float64()} if self.has_disagreement else {}),
            **({"confidence": pa.float64()} if self.has_chances else {}),
            "pixels": pa.int64(),
            "touches_edge": pa.bool_(),
            "touches_nodata": pa.bool_(),
        }

    @property
    def decimals(self) -> dict[str, int]:
        """Column -> decimals with which numbers that are not whole are written."""
        digits, names = (
            digits_of_areas(self.grid),
            [n for n, kind in self.columns.items() if pa.types.is_floating(kind)],
        )
        return {name: 4 if name.endswith(_SHARES) else digits for name in names}

    def name(self, label: int) -> str:
        """Name of a class."""
        return self.class_names.get(label, str(label))

    def looks(self, found: Iterable[int]) -> list[Look]:
        """How the classes are shown that are wanted or found, by their ids."""
        ids = sorted({*self.wanted, *found})
        return [Look(i, self.name(i), self.colors.get(i) or default_color(i, background=False)) for i in ids]

    def styles(self, found: Iterable[int]) -> dict[str, str]:
        """QGIS's styles of the polygons by their names, the first of which is the usual one."""
        named = {"class": style(by_class(self.looks(found)))}
        return {**named, "probability": style(by_probability())} if self.has_confidence else named

    def values(self, shapes: Shapes, first_id: int) -> list[Array]:
        """Columns of a batch, in order; the names of classes as an array of str."""
        labels, index = np.unique(shapes.label, return_inverse=True)
        columns: list[Array] = [
            np.arange(first_id, first_id + len(shapes)),
            shapes.label,
            np.array([self.name(label) for label in labels.tolist()], object)[index],
            shapes.area,
            shapes.perimeter,
        ]
        if shapes.mean_probability is not None and shapes.min_probability is not None:
            columns += [shapes.mean_probability, shapes.min_probability]
        if shapes.mean_disagreement is not None:
            columns.append(shapes.mean_disagreement)
        if self.has_chances:
            columns.append(self._confidence(shapes))
        return [*columns, shapes.pixels, shapes.touches_edge, shapes.touches_nodata]

    def _confidence(self, shapes: Shapes) -> Array:
        """(P,) chance that a polygon is a real object; NaN for classes of which it is not known."""
        assert shapes.mean_probability is not None
        features = features_of(shapes.area, shapes.mean_probability, shapes.touches_edge)
        found = np.full(len(shapes), np.nan)
        for label, weights in self.chances.items():
            mine = shapes.label == label
            found[mine] = np.round(chance_of(features[mine], weights), 4)
        return found


class Rows:
    """A batch with its Arrow form, made once for all formats that want it."""

    def __init__(self, shapes: Shapes, first_id: int, table: Table) -> None:
        self.shapes = shapes
        self.values = table.values(shapes, first_id)
        self._table = table
        self._arrow: pa.RecordBatch | None = None

    @property
    def arrow(self) -> pa.RecordBatch:
        """The rows as Arrow, made once for all formats."""
        if self._arrow is None:
            shapes, types = self.shapes, self._table.columns.values()
            arrays = [pa.array(column, kind) for column, kind in zip(self.values, types, strict=True)]
            if len(shapes) == 1 and len(shapes.coordinates) > shapes.scratch.in_memory:
                geometry = large_polygon(shapes.coordinates, shapes.ring_offsets, shapes.scratch)
            else:
                geometry = pa.array(shapely.to_wkb(shapes.geometries(), byte_order=1), pa.binary())
            self._arrow = pa.record_batch([*arrays, geometry], schema=schema_of(self._table))
        return self._arrow


def schema_of(table: Table) -> pa.Schema:
    """Columns of a file: the attributes, and the geometry as WKB."""
    return pa.schema([*table.columns.items(), ("geometry", pa.binary())])


class Writer(Protocol):
    """Writes one file of polygons."""

    def write(self, rows: Rows) -> None:
        """Append some polygons."""

    def close(self) -> None:
        """Everything is written to the file."""
