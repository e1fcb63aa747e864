"""One layer of the polygons of many scenes: every piece of ground once, objects whole across scenes.

Where scenes overlap, a piece of ground belongs to the scene with the nearest centre, of those that have data there: the
line runs through the middle of the overlap, far from the edges, where networks see least. Polygons are cut along it.
Then polygons of the same class from different scenes that share more of their border than a corner become one.
All polygons are in memory while that is done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely import Polygon

from tileseg.batch.outputs import FinishedRun, finished_in, write_frame
from tileseg.errors import InputError, UsageError
from tileseg.formats import FORMATS, Format
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic
from tileseg.polygons.cut import within_180
from tileseg.publish.table import Table
from tileseg.run.names import SUMMARY
from tileseg.run.vectorize import Classes, regular_classes, vectorize
from tileseg.spec import VectorOptions
from tileseg.window import Window

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pyproj import CRS

ENDINGS = (".parquet", ".gpkg", ".fgb")
_TURN = 360.0
_Count = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
_EXACT, _ROUNDED = 1 / 100, 1 / 10
"""Share of a pixel by which borders of neighbours may differ and still be one."""


@dataclass(frozen=True)
class LayerReport:
    """What became one layer."""

    scenes: int
    polygons: int
    joined: int
    """Polygons that were made from those of several scenes."""
    cut: int
    """Polygons that lay partly or wholly on ground that belongs to another scene."""
    crs: str


@dataclass(frozen=True)
class _PlacedScene:
    """A scene in the common coordinate reference system."""

    run: FinishedRun
    area: Any
    """Ground that it has data of (a polygon or several)."""
    centre: npt.NDArray[np.float64]
    pixel: float
    """Side of a pixel, in units of the system."""
    tolerance: float

    def yields_to(self, other: _PlacedScene, first: bool) -> Any:
        """The ground of both that belongs to the other; ``first``: this one comes first, which decides a tie."""
        both = shapely.intersection(self.area, other.area)
        if both.is_empty or not both.area:
            return Polygon()
        way = other.centre - self.centre
        length = float(np.hypot(*way))
        if length < self.tolerance:
            return Polygon() if first else both
        far = 4 * float(np.hypot(*(np.array(both.bounds[2:]) - both.bounds[:2]))) + 4 * length
        along, across = way / length * far, np.array([-way[1], way[0]]) / length * far
        middle = (self.centre + other.centre) / 2
        return shapely.intersection(
            both, Polygon([middle - across, middle + across, middle + across + along, middle - across + along])
        )


def write_layer(folder: Path, out: Path, crs: str | None = None, options: VectorOptions | None = None) -> LayerReport:
    """Write the polygons of all finished runs below a folder as one layer.

    ``crs``: of the result; by default that of the scenes where all share it, else WGS 84. ``options``: the least area,
    holes and outlines of the layer's polygons; they come on top of those of the runs. Raises UsageError for an unknown
    ending, system or class, InputError where a scene has no coordinate reference system or no polygons.
    """
    import geopandas
    import pandas as pd

    if out.suffix not in ENDINGS:
        raise UsageError(f"{out}: expected one of {', '.join(ENDINGS)}")
    runs = list(finished_in(folder))
    if not runs:
        raise UsageError(f"{folder}: no finished runs there (expected folders with {SUMMARY})")
    target = _target(runs, crs)
    count = _count_of_longitudes(runs, target)
    options = options or VectorOptions()
    named = None if options.regularize is None else _named(runs, options.regularize)
    placed = [_place(run, target.to_wkt(), count) for run in runs]
    frames, cut = [], 0
    tree = shapely.STRtree([scene.area for scene in placed])
    for i, scene in enumerate(placed):
        others = sorted(int(j) for j in tree.query(scene.area, predicate="intersects") if j != i)
        lost = shapely.union_all([scene.yields_to(placed[j], first=i < j) for j in others])
        frame, number = _without(_read(scene.run, target, count), lost, scene.tolerance)
        frame["scene"], frame["_scene"] = scene.run.name, i
        frames.append(frame)
        cut += number
    # Where some have polygons, columns are theirs.
    frames = [frame for frame in frames if len(frame)] or frames[:1]
    frame = geopandas.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=target)
    frame, joined = _joined(frame, max(scene.tolerance for scene in placed))
    frame = _shaped(frame, target, options, named, max(scene.pixel for scene in placed))
    if count is _from_0_to_360:
        frame["geometry"] = [within_180(shape) for shape in frame.geometry]
    frame["id"] = np.arange(1, len(frame) + 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_frame(frame.drop(columns=["_scene", "_open", "_changed"]), out, "polygons")
    return LayerReport(len(runs), len(frame), joined, cut, target.name)


def _target(runs: Sequence[FinishedRun], wanted: str | None) -> CRS:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    for run in runs:
        if run.grid.crs is None:
            raise InputError(f"{run.folder}: the scene has no coordinate reference system, so it has no neighbours")
    if wanted is not None:
        try:
            return CRS.from_user_input(wanted)
        except CRSError as error:
            raise UsageError(f"--crs {wanted}: not a coordinate reference system") from error
    first = runs[0].grid.crs
    assert first is not None
    return first if all(run.grid.crs == first for run in runs) else CRS.from_epsg(4326)


def _count_of_longitudes(runs: Sequence[FinishedRun], target: CRS) -> _Count:
    """How longitudes are counted while scenes are joined: from 0 to 360 where they lie closer together then.

    Never where a scene reaches over 0 degrees, which would be torn apart.
    """
    if not target.is_geographic:
        return _as_they_are
    found = []
    for run in runs:
        lon = shapely.get_coordinates(run.outline(target.to_wkt()))[:, 0]
        plain, turned = np.remainder(lon + _TURN / 2, _TURN) - _TURN / 2, np.remainder(lon, _TURN)
        # In degrees an outline is what the scene says, as wide as that may be; from other systems it comes within 180.
        own = run.grid.crs is not None and run.grid.crs.is_geographic
        if lon.min() // _TURN != lon.max() // _TURN if own else np.ptp(turned) > np.ptp(plain):
            return _within_180
        found.append((plain, turned))
    plain, turned = (np.concatenate(each) for each in zip(*found, strict=True))
    return _from_0_to_360 if np.ptp(turned) < np.ptp(plain) else _within_180


def _as_they_are(shapes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return shapes


def _within_180(shapes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Geometries in degrees, those of scenes with longitudes from 0 to 360 turned to where others have them."""
    beyond = np.abs(shapely.bounds(shapes)[:, [0, 2]]).max(axis=1) > _TURN / 2
    return np.array([within_180(shape) if turn else shape for shape, turn in zip(shapes, beyond, strict=True)])


def _from_0_to_360(shapes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Geometries in degrees with longitudes from 0 to 360, their parts on both sides of 180 degrees joined again."""
    turned = shapely.transform(shapes, lambda xy: np.column_stack([np.remainder(xy[:, 0], _TURN), xy[:, 1]]))
    return np.asarray(shapely.union_all(shapely.make_valid(turned)[:, None], axis=1))


def _place(run: FinishedRun, crs: str, count: _Count) -> _PlacedScene:
    outline = run.outline(crs)
    assert outline is not None
    (outline,) = count(np.array([outline]))
    pixel = float(np.sqrt(outline.area / (run.grid.height * run.grid.width)))
    rounded = _source(run)[0].in_degrees
    full = sum(run.summary["report"]["pixels"].values()) == run.grid.height * run.grid.width
    area = outline if full else _valid_area(run, crs, count)
    centre = np.array([outline.centroid.x, outline.centroid.y])
    return _PlacedScene(run, area, centre, pixel, pixel * (_ROUNDED if rounded else _EXACT))


@dataclass(frozen=True)
class _DataMask:
    """A mosaic's pixels with data, as labels: 1 and 0."""

    mosaic: Mosaic

    @property
    def grid(self) -> Grid:
        return self.mosaic.grid

    @property
    def nodata(self) -> int:
        return 0

    def read_labels(self, window: Window) -> npt.NDArray[np.uint8]:
        return np.asarray(self.mosaic.read_labels(window) != self.mosaic.nodata, np.uint8)

    def read_confidence(self, window: Window) -> None:
        del window

    def read_disagreement(self, window: Window) -> None:
        del window


def _valid_area(run: FinishedRun, crs: str, count: _Count) -> Any:
    """Where a scene has data."""
    import geopandas

    with tempfile.TemporaryDirectory(prefix="tileseg-") as temporary:
        path = Path(temporary) / "valid.parquet"
        vectorize(_DataMask(run.mosaic), {"parquet": path}, Classes({1: "valid"}), VectorOptions())
        frame = geopandas.read_parquet(path)
    shapes = frame.to_crs(crs).geometry.to_numpy()
    return shapely.make_valid(shapely.union_all(count(shapes)))


def _source(run: FinishedRun) -> tuple[Format, Path]:
    """The file of polygons to read: with the scene's own coordinates if there is one, else in degrees."""
    outputs = {name: path for name, path in run.outputs.items() if isinstance(path, Path)}
    for form in sorted(FORMATS.values(), key=lambda form: form.in_degrees):
        if form.name in outputs and form.reader is not None:
            return form, outputs[form.name]
    raise InputError(f"{run.folder}: no polygons there")


def _read(run: FinishedRun, crs: CRS, count: _Count) -> GeoDataFrame:
    import geopandas

    form, path = _source(run)
    if not sum(run.summary["report"]["polygons"].values()):
        # Not all formats have columns without rows.
        kinds = Table(run.grid, {}, has_confidence=False).columns
        empty = {name: np.empty(0, kind.to_pandas_dtype()) for name, kind in kinds.items()}
        frame = geopandas.GeoDataFrame(empty, geometry=[], crs=crs)
    else:
        frame = form.read(path)
        frame = frame[~frame.geometry.isna()]  # beside the map
    frame = frame.to_crs(crs).astype({"id": "int64", "class": "int32", "pixels": "int64"})
    if len(frame):
        frame["geometry"] = count(frame.geometry.to_numpy())
    frame["_open"] = frame["touches_edge"] | frame["touches_nodata"]
    frame["_changed"] = False
    return frame


def _without(frame: GeoDataFrame, lost: Any, tolerance: float) -> tuple[GeoDataFrame, int]:
    """A scene's polygons without the ground that belongs to others; how many that concerned."""
    if lost.is_empty:
        return frame, 0
    shapes = frame.geometry.to_numpy()
    shapely.prepare(lost)
    near = np.flatnonzero(shapely.intersects(lost, shapes))
    frame = frame.copy()
    frame.loc[frame.index[near], "_open"] = True
    hit = near[_has_width(shapely.intersection(shapes[near], lost), tolerance)]
    # In the units of the coordinates, degrees as well: only shares of it count.
    frame["_density"] = frame["pixels"] / shapely.area(shapes)
    frame.loc[frame.index[hit], "geometry"] = shapely.difference(shapes[hit], lost)
    frame.loc[frame.index[hit], "_changed"] = True
    parts = frame[~frame.geometry.is_empty].explode(index_parts=False, ignore_index=True)
    changed = parts["_changed"].to_numpy()
    parts = parts[~changed | _has_width(parts.geometry.to_numpy(), tolerance)].reset_index(drop=True)
    rows = np.flatnonzero(parts["_changed"].to_numpy())
    areas = shapely.area(parts.geometry.to_numpy()[rows])
    parts.loc[rows, "pixels"] = np.rint(areas * parts["_density"].to_numpy()[rows]).astype(np.int64)
    return parts.drop(columns="_density"), len(hit)


def _has_width(shapes: npt.NDArray[Any], tolerance: float) -> npt.NDArray[np.bool_]:
    """Whether they are more than the slivers that rounded coordinates leave along a line."""
    return np.asarray(~shapely.is_empty(shapely.buffer(shapes, -tolerance)))


def _joined(frame: GeoDataFrame, tolerance: float) -> tuple[GeoDataFrame, int]:
    """Polygons of one class that touch across scenes as one; how many there are of those."""
    import geopandas
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.flatnonzero(frame["_open"].to_numpy())
    shapes = frame.geometry.to_numpy()[rows]
    scenes, names = frame["_scene"].to_numpy()[rows], frame["class_name"].to_numpy()[rows]
    a, b = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=tolerance)
    wanted = (a < b) & (scenes[a] != scenes[b]) & (names[a] == names[b])
    a, b = a[wanted], b[wanted]
    # More than a corner: the strips along both borders share more than the square that two corners share.
    wide = shapely.buffer(shapes, tolerance, join_style="mitre")
    shared = shapely.area(shapely.intersection(wide[a], wide[b])) > 8 * tolerance**2
    a, b = a[shared], b[shared]
    links = coo_array((np.ones(len(a)), (a, b)), shape=(len(rows), len(rows)))
    group = connected_components(links, directed=False)[1]
    together = np.flatnonzero(np.bincount(group, minlength=1)[group] > 1) if len(rows) else rows
    made = []
    for _, members in pd.Series(together).groupby(group[together]):
        part = frame.iloc[rows[members.to_numpy()]]
        largest = shapely.area(part.geometry.to_numpy()).argmax()
        row = part.iloc[largest].copy()
        row["geometry"] = shapely.union_all(part.geometry.to_numpy(), grid_size=2 * tolerance)
        row["pixels"] = int(part["pixels"].sum())
        if "mean_probability" in part:
            weights = np.maximum(part["pixels"].to_numpy(), 1)
            row["mean_probability"] = float(np.average(part["mean_probability"], weights=weights))
            row["min_probability"] = float(part["min_probability"].min())
        for name in {"mean_disagreement", "confidence"} & set(part):
            weights = np.maximum(part["pixels"].to_numpy(), 1)
            row[name] = float(np.average(part[name], weights=weights))
        row["touches_edge"], row["touches_nodata"] = (
            bool(part["touches_edge"].any()),
            bool(part["touches_nodata"].any()),
        )
        row["_changed"] = True
        made.append(row)
    alone = frame.drop(index=frame.index[rows[together]])
    if made:
        alone = pd.concat([alone, geopandas.GeoDataFrame(made, crs=frame.crs)], ignore_index=True)
    return geopandas.GeoDataFrame(alone.astype(frame.dtypes.drop("geometry").to_dict()), crs=frame.crs), len(made)


def _named(runs: Sequence[FinishedRun], wanted: Sequence[str]) -> frozenset[str] | None:
    """Names of the classes of ``--regularize``, which may be ids of a run; None: all. Raises UsageError."""
    found: set[str] = set()
    for run in runs:
        names = {i: info.name for i, info in enumerate(run.mosaic.classes)}
        ids = regular_classes(names, wanted, known=True)
        if ids is None:
            return None
        found |= {names[i] for i in ids}
    return frozenset(found)


def _shaped(
    frame: GeoDataFrame, crs: CRS, options: VectorOptions, named: frozenset[str] | None, pixel: float
) -> GeoDataFrame:
    """The polygons measured, those that are large enough, with the outlines that are wanted.

    ``named``: classes whose outlines are made regular, None: all; ``pixel``: side of the largest pixel in units of the
    system.
    """
    from tileseg.batch.outlines import Ground, outlined, without_small

    _measure(frame, crs)
    if not len(frame) or not options.shapes:
        return frame
    frame = frame.explode(index_parts=False, ignore_index=True)  # a polygon each, as outlines know them
    geod = crs.get_geod()
    assert geod is not None

    def area(shapes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        import geopandas

        degrees = geopandas.GeoSeries(shapes, crs=crs).to_crs(crs.geodetic_crs)
        return np.array([abs(geod.geometry_area_perimeter(shape)[0]) for shape in degrees], np.float64)

    pixels = frame["area_m2"].sum() / max(1, frame["pixels"].sum())
    shapes, large = without_small(frame.geometry.to_numpy(), options, float(pixels), area)
    frame["geometry"] = shapes
    frame = frame[large].reset_index(drop=True)
    if len(frame) and (options.regularize is not None or options.simplify is not None):
        wanted = np.ones(len(frame), np.bool_) if named is None else frame["class_name"].isin(named).to_numpy()
        ground = Ground.of(crs, frame.total_bounds, pixel)
        frame["geometry"] = outlined(frame.geometry.to_numpy(), options, wanted, ground)
    frame["_changed"] = True
    _measure(frame, crs)
    return frame


def _measure(frame: GeoDataFrame, crs: CRS) -> None:
    """Areas and perimeters, on the ellipsoid, of the polygons that are not as their run left them."""
    geod, rows = crs.get_geod(), np.flatnonzero(frame["_changed"].to_numpy())
    if geod is None or not len(rows):
        return
    degrees = frame.geometry.iloc[rows].to_crs(crs.geodetic_crs)
    found = [geod.geometry_area_perimeter(shape) for shape in degrees]
    frame.loc[frame.index[rows], "area_m2"] = [abs(area) for area, _ in found]
    frame.loc[frame.index[rows], "perimeter_m"] = [length for _, length in found]
