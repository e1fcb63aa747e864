"""What an SQLite file (GeoPackage, SpatiaLite, MBTiles) would have GDAL open besides itself."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from tileseg.errors import InputError

MAGIC = b"SQLite format 3\0"
_HARMLESS = re.compile(
    r"using\s+\W?(rtree|fts[345]|virtual(spatialindex|elementary|knn2?|network|routing|bbox))\b", re.IGNORECASE
)
"""Virtual tables that keep their content in the file itself."""


def check_tables(file: Path, shown: str) -> set[str]:
    """Refuse virtual tables, which open whatever file their definition names; names of all tables.

    Raises InputError.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            found = database.execute("SELECT name, sql FROM sqlite_master").fetchall()
    except sqlite3.Error as error:
        raise InputError(f"{shown}: cannot be read as a GeoPackage: {error}") from error
    for name, sql in found:
        if re.match(r"\s*create\s+virtual\b", sql or "", re.IGNORECASE) and not _HARMLESS.search(sql):
            raise InputError(f"{shown}: its table {name!r} is a virtual one, which may read other files; remove it")
    return {str(name) for name, _ in found}


def check_rasters(file: Path, shown: str) -> None:
    """Refuse what is no GeoPackage, or has virtual tables. Raises InputError."""
    tables = check_tables(file, shown)
    if "gpkg_contents" not in tables:
        what = "MBTiles" if {"tiles", "metadata"} <= tables else "an SQLite database without rasters"
        raise InputError(
            f"{shown}: is {what}, expected a GeoPackage with rasters; convert it: gdal_translate -of COG {shown} "
            "copy.tif"
        )
