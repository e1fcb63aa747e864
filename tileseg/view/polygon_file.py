"""A run's polygon file, read as far as is needed: attributes alone, or some polygons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyogrio  # before TensorFlow, see nn/backend.py

from tileseg.formats import Format
from tileseg.source.vector_file import name_to_read
from tileseg.webmap import Placement

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

_AT_A_TIME = 200
"""Polygons asked for by their ids in one go."""


def attributes(form: Format, path: Path) -> DataFrame:
    """All rows without their geometries."""
    if form.name == "parquet":
        import pyarrow.parquet

        names = [name for name in pyarrow.parquet.read_schema(path).names if name != "geometry"]
        return pyarrow.parquet.read_table(path, columns=names).to_pandas()
    with name_to_read(path) as name:
        return pyogrio.read_dataframe(name, layer=form.layer, read_geometry=False)


def some(form: Format, path: Path, ids: Sequence[int]) -> GeoDataFrame:
    """The polygons of these ids, with their attributes, in any order."""
    import geopandas
    import pandas as pd

    if form.name == "parquet":
        return geopandas.read_parquet(path, filters=[("id", "in", list(ids))])
    parts = []
    with name_to_read(path) as name:
        for low in range(0, max(1, len(ids)), _AT_A_TIME):
            listed = ", ".join(f"{i:d}" for i in ids[low : low + _AT_A_TIME]) or "-1"
            parts.append(pyogrio.read_dataframe(name, layer=form.layer, where=f"id IN ({listed})"))
    return geopandas.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=parts[0].crs)


def in_degrees(frame: GeoDataFrame, placement: Placement) -> GeoDataFrame:
    """Polygons as the map wants them: in degrees, or as they are where the grid lies nowhere."""
    if placement.globe is None or frame.crs is None:
        return frame
    return frame.to_crs(placement.globe.degrees)
