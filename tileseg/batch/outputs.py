"""The finished runs of a folder, as their summaries tell of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tileseg.batch.folders import Source
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic
from tileseg.run.names import SUMMARY
from tileseg.storage.local import until_whole
from tileseg.storage.place import Url
from tileseg.storage.store import at

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_SIDE = 16
"""Points on each side of a footprint: straight lines of one projection are curves of another."""


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path | Url
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder, without ending."""
        return self.folder.name.removesuffix(".tileseg")

    @cached_property
    def mosaic(self) -> Mosaic:
        """Its mosaic."""
        return Mosaic(self.folder / "mosaic.zarr")

    @cached_property
    def grid(self) -> Grid:
        """Where the scene lies."""
        return self.mosaic.grid

    @cached_property
    def source(self) -> Source | None:
        """What a batch noted of the scene; None if it was a single run."""
        return Source.read(self.folder)

    @property
    def outputs(self) -> dict[str, Path | Url]:
        """Name -> file or folder, of those that are there."""
        files, folders = at(self.folder).listed()
        named = {key: Path(path).name for key, path in self.summary["report"]["outputs"].items()}
        return {key: self.folder / name for key, name in named.items() if name in files or name in folders}

    def outline(self, crs: str) -> shapely.Polygon | None:
        """The scene's border in a coordinate reference system (x, y); None where the scene has none itself."""
        if self.grid.crs is None:
            return None
        from pyproj import Transformer

        share = np.arange(_SIDE) / _SIDE
        across = np.concatenate([share, np.ones(_SIDE), 1 - share, np.zeros(_SIDE)]) * self.grid.width
        down = np.concatenate([np.zeros(_SIDE), share, np.ones(_SIDE), 1 - share]) * self.grid.height
        a, b, c, d, e, f = tuple(self.grid.transform)[:6]
        to = Transformer.from_crs(self.grid.crs, crs, always_xy=True)
        x, y = to.transform(a * across + b * down + c, d * across + e * down + f)
        return shapely.orient_polygons(shapely.Polygon(np.column_stack([x, y])))


def finished_in(folder: Path | Url, tell: Callable[[str], None] | None = None) -> Iterator[Finished]:
    """All finished runs directly below a folder, by name.

    Raises InputError where one cannot be described; with ``tell``, those are left out, and it is told of them, a line
    each.
    """
    for name in sorted(at(folder).listed()[1]):
        try:
            found = _finished(folder / name)
        except InputError as error:
            if tell is None:
                raise
            tell(str(error))
            continue
        if found is not None:
            yield found


def _finished(folder: Path | Url) -> Finished | None:
    """The run in a folder; None where none is finished. Raises InputError where summary or mosaic are damaged."""
    path = folder / SUMMARY
    try:
        summary = json.loads(at(path).read())
    except FileNotFoundError:
        return None
    except ValueError:
        summary = None
    if not isinstance(summary, dict) or not summary.keys() >= {"report", "scene", "model", "written"}:
        raise InputError(f"{path}: damaged, or not of tileseg; run its scene again with --overwrite")
    found = Finished(folder, summary)
    _ = found.grid  # the mosaic is there, too
    return found


def write_frame(frame: GeoDataFrame, path: Path, layer: str) -> None:
    """Write a table with geometries as GeoPackage, FlatGeobuf or GeoParquet; it appears complete or not at all."""
    with until_whole(path, path.suffix) as partial:  # GDAL goes by the ending
        if path.suffix == ".parquet":
            frame.to_parquet(partial)
        else:
            from tileseg.publish.ogr import OF_GEOPACKAGES

            options = OF_GEOPACKAGES if path.suffix == ".gpkg" else {}
            frame.to_file(partial, layer=layer, engine="pyogrio", **options)
