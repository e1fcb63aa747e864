"""The finished runs of a folder, as their summaries describe them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tileseg.batch.folders import SceneRecord
from tileseg.batch.table import moment
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic
from tileseg.run.names import MOSAIC, SUMMARY
from tileseg.source.vector_file import name_to_write
from tileseg.storage.local import until_whole
from tileseg.storage.place import Url, similar_name
from tileseg.storage.store import at

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_CORNERS = 3
"""Least corners of a polygon."""
_SIDE = 16
"""Points on each side of a footprint: straight lines of one projection are curves of another."""


_SHAPE: dict[str, Any] = {
    "written": str,
    "scene": {"path": str},
    "model": {"name": str, "sha256": str},
    "versions": {"tileseg": str, "keras": str, "tensorflow": str},
    "report": {"outputs": dict, "polygons": dict, "pixels": dict, "blocks": int},
}
"""What is read of ``summary.json``."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run."""

    folder: Path | Url
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its folder, without ending."""
        return self.folder.name.removesuffix(".tileseg")

    @cached_property
    def mosaic(self) -> Mosaic:
        """Its mosaic."""
        return Mosaic(self.folder / MOSAIC)

    @cached_property
    def grid(self) -> Grid:
        """Where the scene lies."""
        return self.mosaic.grid

    @cached_property
    def source(self) -> SceneRecord | None:
        """What a batch noted of the scene; None if it was a single run."""
        return SceneRecord.read(self.folder)

    @property
    def outputs(self) -> dict[str, Path | Url]:
        """Name -> file or folder, of those that are there."""
        files, folders = at(self.folder).listed()
        named = {key: Path(path).name for key, path in self.summary["report"]["outputs"].items()}
        return {key: self.folder / name for key, name in named.items() if name in files or name in folders}

    def outline(self, crs: str) -> shapely.Polygon | None:
        """The scene's border in a coordinate reference system (x, y); None where the scene has none itself.

        Raises InputError where the scene cannot be placed in it: it lies on the Moon, or nowhere on Earth.
        """
        if self.grid.crs is None:
            return None
        from pyproj import Transformer
        from pyproj.exceptions import ProjError

        share = np.arange(_SIDE) / _SIDE
        across = np.concatenate([share, np.ones(_SIDE), 1 - share, np.zeros(_SIDE)]) * self.grid.width
        down = np.concatenate([np.zeros(_SIDE), share, np.ones(_SIDE), 1 - share]) * self.grid.height
        a, b, c, d, e, f = tuple(self.grid.transform)[:6]
        name = self.grid.crs.name
        try:
            to = Transformer.from_crs(self.grid.crs, crs, always_xy=True)
            border = np.column_stack(to.transform(a * across + b * down + c, d * across + e * down + f))
        except ProjError as error:
            raise InputError(f"{self.folder}: the CRS {name!r} cannot be turned into {_name_of(crs)}") from error
        border = border[np.isfinite(border).all(axis=1)]
        if len(border) < _CORNERS:
            raise InputError(f"{self.folder}: lies nowhere in {_name_of(crs)}, as its CRS {name!r} has it")
        return shapely.orient_polygons(shapely.Polygon(border))


def finished_in(folder: Path | Url, tell: Callable[[str], object] | None = None) -> Iterator[FinishedRun]:
    """All finished runs directly below a folder, by name.

    Raises InputError where one cannot be described; with ``tell``, those are left out, and it gets a line for each.
    """
    for name in sorted(at(folder).listed()[1]):
        try:
            found = _finished_run(folder / name)
        except InputError as error:
            if tell is None:
                raise
            tell(str(error))
            continue
        if found is not None:
            yield found


def finished_at(folder: Path) -> list[FinishedRun]:
    """The finished run in a folder, or all directly below it. Raises InputError where there is none."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else f"is not there{similar_name(folder)}"
        raise InputError(f"{folder}: {what}; expected the folder of a run, or one with folders of runs")
    own = _finished_run(folder)
    found = [*finished_in(folder)] if own is None else [own]
    if not found:
        raise InputError(f"{folder}: no finished run there; expected the folder of a run, or one with folders of runs")
    return found


def _finished_run(folder: Path | Url) -> FinishedRun | None:
    """The run in a folder; None where none is finished. Raises InputError where summary or mosaic are damaged."""
    path = folder / SUMMARY
    try:
        summary = json.loads(at(path).read())
    except FileNotFoundError:
        return None
    except ValueError:
        summary = None
    if not _has(summary, _SHAPE) or moment(summary["written"]) is None:
        raise InputError(
            f"{path}: damaged, or not of tileseg; run its scene again with --overwrite, or move the folder elsewhere"
        )
    found = FinishedRun(folder, summary)
    _ = found.grid  # the mosaic is there, too
    return found


def _has(value: Any, shape: Any) -> bool:
    """Whether JSON values have the shape of other ones: the same keys, at least, and values of these types."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and _has(value[key], part) for key, part in shape.items())
    return isinstance(value, shape)


def _name_of(crs: str) -> str:
    from pyproj import CRS

    return CRS.from_user_input(crs).name


def write_frame(frame: GeoDataFrame, path: Path, layer: str) -> None:
    """Write a table with geometries as GeoPackage, FlatGeobuf or GeoParquet; it appears complete or not at all."""
    with until_whole(path, path.suffix) as partial:  # GDAL goes by the ending
        if path.suffix == ".parquet":
            frame.to_parquet(partial)
        else:
            from tileseg.publish.ogr import OF_GEOPACKAGES

            options = OF_GEOPACKAGES if path.suffix == ".gpkg" else {}
            with name_to_write(partial) as name:
                frame.to_file(name, layer=layer, engine="pyogrio", **options)
