"""The vector formats that there are: adding one is a line here and a module that writes it.

No library is imported for it, so that the command line knows the formats without any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tileseg.errors import did_you_mean


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file that holds polygons."""

    name: str
    """As users write it, and as outputs are called in reports."""
    suffix: str
    """How its files end."""
    media_type: str
    """As STAC and web servers call it."""
    writer: str
    """``module:callable`` that opens a file for writing, imported when it is needed: (path, table) to a
    :class:`tileseg.publish.table.Writer` that is a context manager."""
    reader: str | None = None
    """``module:callable`` that reads a file as a GeoDataFrame; None where nothing does."""
    in_degrees: bool = False
    """Whether coordinates are longitude and latitude, rounded; else they are those of the scene's own CRS."""

    def open(self, path: Path, table: Any) -> Any:
        """A writer (see ``writer``) of a :class:`tileseg.publish.table.Table`."""
        return _named(self.writer)(path, table)

    def read(self, path: Path) -> Any:
        """A file as a GeoDataFrame."""
        assert self.reader is not None
        return _named(self.reader)(path)


FORMATS = {
    form.name: form
    for form in (
        Format(
            "geojson", ".geojson", "application/geo+json", "tileseg.publish.geojson:collection",
            "pyogrio:read_dataframe", in_degrees=True,
        ),
        Format(
            "geojsonseq", ".geojsonl", "application/geo+json-seq", "tileseg.publish.geojson:lines",
            "pyogrio:read_dataframe", in_degrees=True,
        ),
        Format(
            "gpkg", ".gpkg", "application/geopackage+sqlite3", "tileseg.publish.ogr:geopackage",
            "pyogrio:read_dataframe",
        ),
        Format(
            "parquet", ".parquet", "application/vnd.apache.parquet", "tileseg.publish.parquet:Parquet",
            "geopandas:read_parquet",
        ),
        Format(
            "fgb", ".fgb", "application/vnd.flatgeobuf", "tileseg.publish.ogr:flatgeobuf", "pyogrio:read_dataframe",
        ),
    )
}  # fmt: skip
"""Name -> format."""

DEFAULT = "geojson"


def known_format(name: str) -> str:
    """The name itself. Raises ValueError, which names the formats, where there is none of that name."""
    if name not in FORMATS:
        raise ValueError(f"{name!r}: expected some of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return name


def vector_paths(folder: Path, formats: Iterable[str], stem: str = "polygons") -> dict[str, Path]:
    """The usual file of each format: ``folder/polygons.geojson`` ..."""
    return {name: folder / f"{stem}{FORMATS[name].suffix}" for name in formats}


def _named(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)
