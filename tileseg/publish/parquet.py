"""GeoParquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tileseg.publish.table import Rows, Table, schema_of

_ROW_GROUP = 65_536


class Parquet:
    """GeoParquet 1.1 (WKB, planar edges), row group by row group."""

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow.parquet

        self._table = table
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._writer = pyarrow.parquet.ParquetWriter(path, schema_of(table), compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: Rows) -> None:
        xy = rows.shapes.coordinates
        self._bounds = np.concatenate(
            [np.minimum(self._bounds[:2], xy.min(axis=0)), np.maximum(self._bounds[2:], xy.max(axis=0))]
        )
        self._waiting.append(rows.arrow)
        self._rows += rows.arrow.num_rows
        self._bytes += rows.arrow.nbytes
        if self._rows >= _ROW_GROUP or self._bytes >= 64 << 20:
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
