"""The vector formats that there are: adding one is a line here and a module that writes it.

No library is imported for it, so that the command line knows the formats without any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    qgis: int | None = None
    """How well QGIS opens it: of several, its project shows the one with the least number, and a style lies beside each
    (``.qml``). None: QGIS knows no polygons in it."""
    styler: str | None = None
    """``module:callable`` that puts styles into a finished file: (path, name -> style); the first is the default."""
    layer: str | None = None
    """Name of the polygons' layer, where a file has other tables, too."""
    in_degrees: bool = False
    """Whether coordinates come from longitude and latitude, rounded; else they are those of the scene's own CRS."""

    def open(self, path: Path, table: Any) -> Any:
        """A writer (see ``writer``) of a :class:`tileseg.publish.table.Table`."""
        return _named(self.writer)(path, table)

    def add_styles(self, path: Path, styles: Mapping[str, str]) -> None:
        """Put QGIS's styles into a finished file, if the format has a place for them."""
        if self.styler is not None:
            _named(self.styler)(path, styles)

    def read(self, path: Path) -> Any:
        """A file as a GeoDataFrame."""
        assert self.reader is not None
        return _named(self.reader)(path, **({} if self.layer is None else {"layer": self.layer}))


FORMATS = {
    form.name: form
    for form in (
        Format(
            "geojson", ".geojson", "application/geo+json", "tileseg.publish.geojson:collection",
            "pyogrio:read_dataframe", qgis=3, in_degrees=True,
        ),
        Format(
            "geojsonseq", ".geojsonl", "application/geo+json-seq", "tileseg.publish.geojson:lines",
            "pyogrio:read_dataframe", qgis=4, in_degrees=True,
        ),
        Format(
            "gpkg", ".gpkg", "application/geopackage+sqlite3", "tileseg.publish.ogr:geopackage",
            "pyogrio:read_dataframe", qgis=1, styler="tileseg.publish.ogr:add_styles", layer="polygons",
        ),
        Format(
            "parquet", ".parquet", "application/vnd.apache.parquet", "tileseg.publish.parquet:Parquet",
            "geopandas:read_parquet", qgis=5,
        ),
        Format(
            "fgb", ".fgb", "application/vnd.flatgeobuf", "tileseg.publish.ogr:flatgeobuf", "pyogrio:read_dataframe",
            qgis=2,
        ),
        Format("qupath", ".qupath.geojson", "application/geo+json", "tileseg.publish.qupath:QuPath"),
        Format("pmtiles", ".pmtiles", "application/vnd.pmtiles", "tileseg.publish.pmtiles:PMTiles", in_degrees=True),
    )
}  # fmt: skip
"""Name -> format."""

DEFAULT = "geojson"

STYLE = ".qml"
"""Ending of the style that QGIS looks for beside a file: ``polygons.qml`` beside ``polygons.gpkg``."""


def known_format(name: str) -> str:
    """The name itself. Raises ValueError, which names the formats, where there is none of that name."""
    if name not in FORMATS:
        raise ValueError(f"{name!r}: expected some of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return name


def vector_paths(folder: Path, formats: Iterable[str], stem: str = "polygons") -> dict[str, Path]:
    """The usual file of each format: ``folder/polygons.geojson`` ..."""
    return {name: folder / f"{stem}{FORMATS[name].suffix}" for name in formats}


def style_paths(outputs: Mapping[str, Path]) -> dict[str, Path]:
    """The styles beside files of some formats: files of one name have one, ``polygons.qml``. By the name of an output.

    QGIS looks for them there.
    """
    styles = {path.with_suffix(STYLE) for form, path in outputs.items() if FORMATS[form].qgis is not None}
    return {f"{path.stem}_style": path for path in sorted(styles)}


def _named(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)
