"""GeoPackage and FlatGeobuf, by GDAL."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
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

UNDEFINED = (
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
                    crs=self._table.grid.crs_wkt or UNDEFINED,
                    dataset_options=OF_GEOPACKAGES if self._driver == "GPKG" else None,
                )
        except failures as error:
            self._problem = error


_TABLE = """
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
  f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
  update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""
"""The table that QGIS keeps styles in, and looks into when it opens a GeoPackage."""

_CONTENT = """
INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)
VALUES ('layer_styles', 'attributes', 'layer_styles', '', :date, 0)
"""

_STYLE = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML,
  styleSLD, useAsDefault, description, owner, update_time)
SELECT '', '', table_name, column_name, :name, :style, '', :default, '', '', :date FROM gpkg_geometry_columns
"""


def add_styles(path: Path, styles: Mapping[str, str]) -> None:
    """Put styles of QGIS (name -> ``.qml``) into a GeoPackage that is whole; the first is the default."""
    date = _FIXED_DATE["OGR_CURRENT_DATE"]
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(_TABLE)
            database.execute(_CONTENT, {"date": date})
            for i, (name, style) in enumerate(styles.items()):
                database.execute(_STYLE, {"name": name, "style": style, "default": i == 0, "date": date})
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def geopackage(path: Path, table: Table) -> Ogr:
    """A GeoPackage."""
    return Ogr(path, table, "GPKG")


def flatgeobuf(path: Path, table: Table) -> Ogr:
    """A FlatGeobuf file."""
    return Ogr(path, table, "FlatGeobuf")
