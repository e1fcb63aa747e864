"""What is compared: a label raster, polygons, or the folder of a run; what its values are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio  # before TensorFlow, see nn/backend.py

from tileseg.card import ClassInfo
from tileseg.dataset.spec import VECTORS, is_there
from tileseg.dataset.vector_truth import feature_bounds
from tileseg.errors import InputError, UsageError, first_line
from tileseg.evaluate.delivered import Delivered
from tileseg.formats import FORMATS
from tileseg.grid import Grid
from tileseg.run.names import LABELS, MOSAIC, SUMMARY
from tileseg.source.vector_file import name_to_read, unreadable
from tileseg.window import tile

if TYPE_CHECKING:
    from pyproj import CRS

    from tileseg.source.label_raster import LabelRaster

_BLOCK = 2048
_MOST_VALUES = 255
ALL = ""
"""The one value of polygons without classes."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared, before anything of it is read."""

    path: Path
    """As the user named it."""
    labels: Path
    """The raster or vector file that holds the labels."""
    grid: Grid | None
    """Where its pixels lie; None for polygons, and for what a model has yet to predict."""
    values: Mapping[str, str | None]
    """Every value that occurs, or that its makers named, and its name: ids as text, or values of an attribute."""
    infos: Mapping[str, ClassInfo] = field(default_factory=dict)
    """Name -> colour, and whether it is background, as far as the file says."""
    attribute: str | None = None
    """Column of the polygons' values."""
    mosaic: Path | None = None
    """The mosaic of a run, which may hold probabilities."""
    delivered: Delivered | None = None
    """The polygons of a run, if it wrote any and they are still there."""
    scene: Path | None = None
    """The image that a run was made of."""
    empty: bool = False
    """Polygons, but not a single one."""
    nodata: str | None = None
    """The value that a raster calls nodata."""
    hidden: float = 0.0
    """Share of its pixels that have that value."""
    trust_vrt: bool = False
    """Whether a virtual raster may refer to files outside its own folder."""

    @property
    def is_vector(self) -> bool:
        """Whether it is polygons."""
        return self.grid is None

    @property
    def is_named(self) -> bool:
        """Whether its values have names."""
        return any(name is not None for name in self.values.values())


def describe_side(path: Path, attribute: str | None = None, *, trust_vrt: bool = False) -> Side:
    """Look at a file or a run's folder. Label rasters without names are read once, to see which ids occur.

    ``attribute`` is the column of a vector file that says the class; by default ``class_name``, which tileseg writes.
    Raises InputError, UsageError.
    """
    if path.suffix.lower() in VECTORS and not _is_raster_package(path):
        return _vectors(path, attribute)
    if path.is_dir():
        return _run(path)
    return _raster(path, trust_vrt)


def describe_model(name: str, classes: Sequence[ClassInfo]) -> Side:
    """What a model of these classes will predict, as far as classes go."""
    return Side(Path(name), Path(name), None, _numbered(classes), {info.name: info for info in classes})


def _numbered(classes: Sequence[ClassInfo]) -> dict[str, str | None]:
    """Ids as text, and names."""
    return {str(i): info.name for i, info in enumerate(classes)}


def _run(folder: Path) -> Side:
    labels, mosaic, summary = folder / LABELS, folder / MOSAIC, folder / SUMMARY
    try:
        facts = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{folder}: not the folder of a finished run (no {SUMMARY} that can be read); expected one, "
            "a label raster or polygons"
        ) from None
    from tileseg.mosaic import Mosaic
    from tileseg.source.label_raster import open_labels

    classes = Mosaic(mosaic).classes
    scene = Path(facts["scene"]["path"])
    grid = open_labels(labels).grid
    return Side(
        folder,
        labels,
        grid,
        _numbered(classes),
        {info.name: info for info in classes},
        mosaic=mosaic,
        delivered=_delivered(folder, facts, grid, classes),
        scene=scene if is_there(scene) else None,
        trust_vrt=facts["spec"].get("trust_vrt", False),
    )


def _delivered(folder: Path, facts: Mapping[str, Any], grid: Grid, classes: Sequence[ClassInfo]) -> Delivered | None:
    """The polygons of a run's folder, of the formats that it wrote the one with the least rounding."""
    written = facts["report"]["outputs"]
    for form in sorted(FORMATS.values(), key=lambda form: form.in_degrees):
        if form.reader and form.name in written and (path := folder / Path(written[form.name]).name).is_file():
            asked = facts["spec"].get("classes")
            skipped = [
                info.name
                for i, info in enumerate(classes)
                if asked is not None and not info.background and not {info.name, str(i)} & set(asked)
            ]
            return Delivered(path, form.name, grid, tuple(skipped))
    return None


def _raster(path: Path, trust_vrt: bool) -> Side:
    from tileseg.source.label_raster import open_labels

    raster = open_labels(path, trust_vrt=trust_vrt)
    names: dict[str, str | None] = {str(i): name for i, name in sorted(raster.names.items())}
    infos = {
        name: ClassInfo(name=name, color=raster.colors[i], background=i in raster.background)
        for i, name in raster.names.items()
        if i in raster.colors and name
    }
    found, hidden = _ids(raster)
    for value in found:
        names.setdefault(str(value), None)
    nodata = None if raster.nodata is None else str(raster.nodata)
    return Side(path, path, raster.grid, names, infos, nodata=nodata, hidden=hidden, trust_vrt=trust_vrt)


def _ids(raster: LabelRaster) -> tuple[list[int], float]:
    """All ids that occur, but the one of nodata, and the share of the pixels that have that."""
    found: set[int] = set()
    hidden = 0
    for window in tile(raster.grid.extent, _BLOCK, _BLOCK):
        labels = raster.read_labels(window)
        if labels.dtype == np.uint8:
            here = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        else:
            here = np.unique(labels)
        found.update(int(v) for v in here)
        hidden += 0 if raster.nodata is None else int(np.count_nonzero(labels == raster.nodata))
        if len(found) > _MOST_VALUES + 1:
            raise InputError(f"{raster.path}: has more than {_MOST_VALUES} different ids; expected classes")
    found.discard(raster.nodata if raster.nodata is not None else -1)
    return sorted(found), hidden / raster.grid.extent.pixels


def _is_raster_package(path: Path) -> bool:
    """A GeoPackage may hold either."""
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return False
    try:
        with name_to_read(path) as name:
            return not any(kind is not None for _, kind in pyogrio.list_layers(name))
    except pyogrio.errors.DataSourceError:
        return False


def _vectors(path: Path, attribute: str | None) -> Side:
    columns = _columns(path)
    if attribute is not None and attribute not in columns:
        raise UsageError(f"{path}: has no column {attribute!r}; it has {', '.join(columns) or 'none'}")
    if attribute is None and "class_name" in columns:
        attribute = "class_name"
    empty = not np.isfinite(bounds(path)[1]).all()
    if attribute is None or empty:
        return Side(path, path, None, {ALL: None}, empty=empty)
    found = sorted({_text(value) for value in _column(path, attribute)})
    if len(found) > _MOST_VALUES:
        raise InputError(f"{path}: {attribute} has {len(found)} different values; expected classes")
    # Numbers are ids, texts are names.
    return Side(path, path, None, {v: None if v.lstrip("-").isdigit() else v for v in found}, attribute=attribute)


def _columns(path: Path) -> list[str]:
    if not is_there(path):
        raise InputError(f"{path}: is not there; expected a label raster, polygons or the folder of a run")
    if _is_parquet(path):
        from pyarrow import ArrowInvalid, parquet

        try:
            return [str(name) for name in parquet.read_schema(path).names]
        except (ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: cannot be read as GeoParquet: {first_line(error)}") from error
    try:
        with name_to_read(path) as name:
            return [str(field) for field in pyogrio.read_info(name)["fields"]]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise unreadable(path, error) from error


def _column(path: Path, name: str) -> Any:
    if _is_parquet(path):
        from pyarrow import parquet

        return parquet.read_table(path, columns=[name])[name].to_pylist()
    with name_to_read(path) as file:
        return pyogrio.raw.read(file, columns=[name], read_geometry=False)[3][0].tolist()


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".geoparquet")


def _text(value: Any) -> str:
    """As the dataset's ``label_map`` has it."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return "null"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def bounds(path: Path) -> tuple[CRS | None, tuple[float, float, float, float]]:
    """Coordinate reference system of a vector file, and left, bottom, right, top of its polygons (NaN: none)."""
    if _is_parquet(path):
        import geopandas

        frame = geopandas.read_parquet(path)
        crs, box = frame.crs, frame.total_bounds
    else:
        with name_to_read(path) as name:
            crs, box = pyogrio.read_info(name)["crs"], feature_bounds(path)
    left, bottom, right, top = (float(v) for v in box)
    from pyproj import CRS

    return None if crs is None else CRS.from_user_input(crs), (left, bottom, right, top)
