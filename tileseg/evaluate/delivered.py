"""The polygons that a run delivered, read from its folder as whoever gets them would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyogrio  # before TensorFlow, see nn/backend.py
import shapely

from tileseg.errors import InputError, first_line
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.objects import Floats, Objects
from tileseg.formats import FORMATS
from tileseg.grid import Grid
from tileseg.polygons.chance import features_of
from tileseg.source.on_grid import on_grid
from tileseg.source.vector_file import name_to_read, unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyproj import CRS

_CLASS = "class"
"""Column of class ids, in every format that a run writes."""

_SAID = ("area_m2", "mean_probability", "touches_edge")
"""Columns that :func:`tileseg.polygons.chance.features_of` takes."""

_BATCH = 1 << 14
"""Polygons read at a time."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Where a run's polygons are."""

    path: Path
    form: str
    """A name of :data:`tileseg.formats.FORMATS`."""
    grid: Grid
    """The run's."""
    skipped: tuple[str, ...] = ()
    """Classes that are no background, of which no polygons were asked for."""

    @property
    def crs(self) -> CRS | None:
        """What the coordinates are in; None: the run's own."""
        if FORMATS[self.form].in_degrees and self.grid.geod is not None:
            from pyproj import CRS

            return CRS.from_user_input("OGC:CRS84")
        return self.grid.crs


@dataclass(frozen=True, slots=True)
class DeliveredObjects:
    """A run's polygons on a grid."""

    delivered: Delivered
    meaning: Mapping[str, int]
    """The run's class id, as text -> the class that is scored, or IGNORE."""
    grid: Grid
    """Whose pixels the polygons are wanted in."""

    def batches(self) -> Iterator[Objects]:
        """Some thousands at a time. Raises InputError where the file cannot be read."""
        path = self.delivered.path
        for batch in _read(path, FORMATS[self.delivered.form].layer):
            shapes = shapely.from_wkb(batch.column(batch.num_columns - 1).to_numpy(zero_copy_only=False))
            ids = batch.column(0).to_numpy(zero_copy_only=False)
            strange = next((str(i) for i in np.unique(ids) if str(i) not in self.meaning), None)
            if strange is not None:
                raise InputError(f"{path}: has polygons of class {strange}, which the run's mosaic does not know")
            placed, owner = on_grid(shapes, self.delivered.crs, self.grid)
            labels = np.array([self.meaning[str(i)] for i in ids[owner]], np.int64)
            features = _features(batch)
            found = Objects(placed, labels, None if features is None else features[owner])
            yield found.chosen(labels != IGNORE)


def _features(batch: pa.RecordBatch) -> Floats | None:
    """What a run says of its polygons (n, features); None where it does not know all of it."""
    if not {*_SAID} <= set(batch.schema.names):
        return None
    return features_of(*(batch.column(name).to_numpy(zero_copy_only=False) for name in _SAID))


def _read(path: Path, layer: str | None) -> Iterator[pa.RecordBatch]:
    """Batches of columns: class ids, what else is said of polygons as far as it is, and these as WKB, which is last."""
    if path.suffix == FORMATS["parquet"].suffix:
        from pyarrow import ArrowInvalid, parquet

        try:
            with parquet.ParquetFile(path) as file:
                said = [name for name in _SAID if name in file.schema_arrow.names]
                columns = [_CLASS, *said, "geometry"]
                yield from (batch.select(columns) for batch in file.iter_batches(batch_size=_BATCH, columns=columns))
        except (ArrowInvalid, KeyError, OSError) as error:
            raise InputError(f"{path}: cannot be read as GeoParquet: {first_line(error)}") from error
        return
    try:
        with (
            name_to_read(path) as name,
            pyogrio.open_arrow(
                name, layer=layer, columns=[_CLASS, *_SAID], batch_size=_BATCH, use_pyarrow=True
            ) as opened,
        ):
            meta, reader = opened
            shape = meta["geometry_name"] or "wkb_geometry"
            said = [column for column in _SAID if column in meta["fields"]]
            yield from (batch.select([_CLASS, *said, shape]) for batch in reader)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, KeyError, ValueError) as error:
        raise unreadable(path, error) from error
