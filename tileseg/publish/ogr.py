"""GeoPackage and FlatGeobuf, by GDAL."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyogrio  # before TensorFlow, see nn/backend.py

from tileseg.publish.table import LAYER, Rows, Table, schema_of
from tileseg.source.vector_file import gdal_options, name_to_write

OF_GEOPACKAGES = {"VERSION": "1.2"}
"""How GDAL makes GeoPackages: readers from before 2023 warn about 1.4, of which nothing is used."""

_FIXED_DATE = {"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"}
"""GeoPackage notes when it was written; the same polygons are to give the same bytes."""

_UNDEFINED = (
    'ENGCRS["Undefined Cartesian SRS with unknown unit",EDATUM["Unknown engineering datum"],CS[Cartesian,2],'
    'AXIS["x",unspecified,ORDER[1]],AXIS["y",unspecified,ORDER[2]],LENGTHUNIT["unknown",0]]'
)
"""What GeoPackage calls the CRS of a scene that has none."""


class Ogr:
    """GDAL's writer, which pulls Arrow batches: it runs in a thread and is fed through a short queue."""

    def __init__(self, path: Path, table: Table, driver: str) -> None:
        self._path, self._table, self._driver = path, table, driver
        self._queue: queue.Queue[pa.RecordBatch | None] = queue.Queue(maxsize=2)
        self._problem: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name=f"write {path.suffix}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._stop = True
            self._put(None)
            self._thread.join()

    def write(self, rows: Rows) -> None:
        self._put(rows.arrow)
        self._check()

    def close(self) -> None:
        self._put(None)
        self._thread.join()
        self._check()

    def _put(self, batch: pa.RecordBatch | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(batch, timeout=0.2)
            except queue.Full:
                continue
            return

    def _check(self) -> None:
        if self._problem is not None:
            raise OSError(str(self._problem)) from self._problem

    def _batches(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._queue.get()) is not None:
            yield batch
        if self._stop:
            raise InterruptedError("writing was stopped")

    def _run(self) -> None:
        from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

        failures = (DataLayerError, DataSourceError, FeatureError, FieldError, pa.ArrowException, OSError, RuntimeError)
        reader = pa.RecordBatchReader.from_batches(schema_of(self._table), self._batches())
        try:
            with gdal_options(_FIXED_DATE), name_to_write(self._path) as name:
                pyogrio.write_arrow(
                    reader,
                    name,
                    layer=LAYER,
                    driver=self._driver,
                    geometry_name="geometry",
                    geometry_type="Polygon",
                    crs=self._table.grid.crs_wkt or _UNDEFINED,
                    dataset_options=OF_GEOPACKAGES if self._driver == "GPKG" else None,
                )
        except failures as error:
            self._problem = error


def geopackage(path: Path, table: Table) -> Ogr:
    """A GeoPackage."""
    return Ogr(path, table, "GPKG")


def flatgeobuf(path: Path, table: Table) -> Ogr:
    """A FlatGeobuf file."""
    return Ogr(path, table, "FlatGeobuf")
