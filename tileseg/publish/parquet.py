"""GeoParquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tileseg.polygons.scratch import release
from tileseg.publish.table import Rows, Table, schema_of

_ROW_GROUP = 65_536
_BYTES = 64 << 20
"""Of a row group, or of one row."""


class Parquet:
    """GeoParquet 1.1 (WKB, planar edges), row group by row group."""

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow.parquet

        self._table = table
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        # A dictionary, and the least and greatest of geometries, are of no use; a large one would be copied for them.
        attributes = list(table.columns)
        self._writer = pyarrow.parquet.ParquetWriter(
            path, schema_of(table), compression="zstd", use_dictionary=attributes, write_statistics=attributes
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: Rows) -> None:
        xy, most = rows.shapes.coordinates, rows.shapes.scratch.in_memory
        for low in range(0, len(xy), most):
            part = xy[low : low + most]
            least, greatest = (
                np.minimum(self._bounds[:2], part.min(axis=0)),
                np.maximum(self._bounds[2:], part.max(axis=0)),
            )
            self._bounds = np.concatenate([least, greatest])
            release(xy)
        if rows.arrow.nbytes >= _BYTES:
            self._flush()  # so that what is large need not be copied to stand beside it
        self._waiting.append(rows.arrow)
        self._rows += rows.arrow.num_rows
        self._bytes += rows.arrow.nbytes
        if self._rows >= _ROW_GROUP or self._bytes >= _BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            group = pa.Table.from_batches(self._waiting).combine_chunks()
            self._writer.write_table(group, row_group_size=max(1, group.num_rows))
        self._waiting, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        self._flush()
        crs = self._table.grid.crs
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None if crs is None else crs.to_json_dict(),
            "orientation": "counterclockwise",
            "edges": "planar",
        }
        if np.isfinite(self._bounds).all():
            column["bbox"] = self._bounds.tolist()
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._writer.add_key_value_metadata({"geo": json.dumps(geo)})
