"""Polygon files, written as the polygons come: GeoJSON, GeoJSON lines, GeoPackage, GeoParquet, FlatGeobuf.

GeoJSON follows RFC 7946: WGS 84, right-hand rule, 7 decimals, cut at the antimeridian. It is written here, with its
numbers formatted in compiled code. The other formats keep the scene's CRS; GeoPackage and FlatGeobuf are written by
GDAL, which takes Arrow batches in a thread of its own. The same polygons give the same bytes.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

import numpy as np
import pyarrow as pa

# Before TensorFlow, which brings an SQLite without R-trees: GDAL would take its symbols for its own, and a GeoPackage
# would have no spatial index.
import pyogrio
import shapely
from shapely import affinity

from tileseg.errors import TilesegError
from tileseg.grid import Grid
from tileseg.polygons.rings import Array, compiled
from tileseg.polygons.shape import Shapes
from tileseg.spec import VectorFormat

SUFFIXES: dict[VectorFormat, str] = {
    "geojson": ".geojson",
    "geojsonseq": ".geojsonl",
    "gpkg": ".gpkg",
    "parquet": ".parquet",
    "fgb": ".fgb",
}
"""File name endings."""

OF_GEOPACKAGES = {"VERSION": "1.2"}
"""How GDAL makes GeoPackages: readers from before 2023 warn about 1.4, of which nothing is used."""

LAYER = "polygons"
"""Name of the layer in formats that have layers."""

_UNDEFINED = (
    'ENGCRS["Undefined Cartesian SRS with unknown unit",EDATUM["Unknown engineering datum"],CS[Cartesian,2],'
    'AXIS["x",unspecified,ORDER[1]],AXIS["y",unspecified,ORDER[2]],LENGTHUNIT["unknown",0]]'
)
"""What GeoPackage calls the CRS of a scene that has none."""
_ROW_GROUP = 65_536
_VERTICES = 1 << 20
"""Vertices formatted as text at a time."""
_NULL = np.iinfo(np.int64).min
"""Stands for a number that is not finite."""
_WORD = -1
"""Stands for the decimals of a column of words."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the files have in common: the grid and the columns."""

    grid: Grid
    class_names: Mapping[int, str]
    """Names of class ids; an id that is missing is its own name."""
    has_confidence: bool
    """Whether there are the columns mean_probability and min_probability."""

    @property
    def is_georeferenced(self) -> bool:
        """Whether areas are in square metres."""
        return self.grid.geod is not None

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types, in order; the geometry comes after them."""
        unit = ("m2", "m") if self.is_georeferenced else ("px", "px")
        probabilities = {"mean_probability": pa.float64(), "min_probability": pa.float64()}
        return {
            "id": pa.int64(),
            "class": pa.int32(),
            "class_name": pa.string(),
            f"area_{unit[0]}": pa.float64(),
            f"perimeter_{unit[1]}": pa.float64(),
            **(probabilities if self.has_confidence else {}),
            "pixels": pa.int64(),
            "touches_edge": pa.bool_(),
            "touches_nodata": pa.bool_(),
        }

    def name(self, label: int) -> str:
        """Name of a class."""
        return self.class_names.get(label, str(label))

    def values(self, shapes: Shapes, first_id: int) -> list[Array]:
        """Columns of a batch, in order; the names of classes as an array of str."""
        labels, index = np.unique(shapes.label, return_inverse=True)
        columns: list[Array] = [
            np.arange(first_id, first_id + len(shapes)),
            shapes.label,
            np.array([self.name(label) for label in labels.tolist()], object)[index],
            shapes.area,
            shapes.perimeter,
        ]
        if shapes.mean_probability is not None and shapes.min_probability is not None:
            columns += [shapes.mean_probability, shapes.min_probability]
        return [*columns, shapes.pixels, shapes.touches_edge, shapes.touches_nodata]


def write_vectors(shapes: Iterable[Shapes], outputs: Mapping[VectorFormat, Path], table: Table) -> dict[int, int]:
    """Write one stream of shapes to several files; they appear complete or not at all.

    GeoJSON needs shapes with ``lonlat`` where the grid has a CRS. Returns the number of polygons of each class id.
    Raises TilesegError where a file cannot be written.
    """
    counts: dict[int, int] = {}
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(form, path, table)) for form, path in outputs.items()]
        first_id = 1
        for batch in shapes:
            if not len(batch):
                continue
            rows = _Rows(batch, first_id, table)
            for writer in writers:
                writer.write(rows)
            first_id += len(batch)
            for label, count in zip(*np.unique(batch.label, return_counts=True), strict=True):
                counts[int(label)] = counts.get(int(label), 0) + int(count)
        for writer in writers:
            writer.finish()
    return counts


class _Rows:
    """A batch with its Arrow form, made once for all formats that want it."""

    def __init__(self, shapes: Shapes, first_id: int, table: Table) -> None:
        self.shapes = shapes
        self.values = table.values(shapes, first_id)
        self._table = table
        self._arrow: pa.RecordBatch | None = None

    @property
    def arrow(self) -> pa.RecordBatch:
        if self._arrow is None:
            wkb = shapely.to_wkb(self.shapes.geometries(), byte_order=1)
            types = self._table.columns.values()
            arrays = [pa.array(column, kind) for column, kind in zip(self.values, types, strict=True)]
            self._arrow = pa.record_batch([*arrays, pa.array(wkb, pa.binary())], schema=_schema(self._table))
        return self._arrow


def _schema(table: Table) -> pa.Schema:
    return pa.schema([*table.columns.items(), ("geometry", pa.binary())])


class _Writer(Protocol):
    def write(self, rows: _Rows) -> None: ...

    def finish(self) -> None:
        """Everything is written to the file."""


@contextmanager
def _writer(form: VectorFormat, path: Path, table: Table) -> Iterator[_Writer]:
    """A writer to a temporary name, renamed at the end if nothing went wrong."""
    # With the ending, by which GDAL goes; absolute, because it takes colons in a relative path for notation of its own.
    partial = path.absolute().with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        writer: _GeoJson | _Parquet | _Ogr
        if form in ("geojson", "geojsonseq"):
            writer = _GeoJson(partial, table, lines=form == "geojsonseq")
        elif form == "parquet":
            writer = _Parquet(partial, table)
        else:
            writer = _Ogr(partial, table, "GPKG" if form == "gpkg" else "FlatGeobuf")
        with writer:
            yield writer
        partial.replace(path)
    except OSError as error:
        raise TilesegError(
            f"{path}: cannot be written: {error.strerror or error}; make space or choose another folder, "
            "then run the same command again"
        ) from error
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        with suppress(OSError):
            partial.with_name(partial.name + ending).unlink()


class _GeoJson:
    """A FeatureCollection with one feature per line, or features alone (GeoJSON lines)."""

    def __init__(self, path: Path, table: Table, *, lines: bool) -> None:
        self._path, self._table, self._lines = path, table, lines
        self._begun = False

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._path.open("wb", buffering=1 << 20)
        if not self._lines:
            note = {} if self._table.is_georeferenced else {"description": _NO_CRS}
            head = json.dumps({"type": "FeatureCollection", **note}, ensure_ascii=False)
            self._file.write(head[:-1].encode() + b', "features": [\n')
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: _Rows) -> None:
        for text in geojson_features(rows.shapes, rows.values, self._table, b"\n" if self._lines else b",\n"):
            # Every feature begins with the separator; the first of the file has nothing to be separated from.
            self._file.write(text if self._begun else text[1 if self._lines else 2 :])
            self._begun = True

    def finish(self) -> None:
        self._file.write(b"\n" if self._lines and self._begun else b"" if self._lines else b"\n]}\n")
        self._file.flush()
        os.fsync(self._file.fileno())


_NO_CRS = (
    "The scene has no coordinate reference system: coordinates are those of its own grid (x = column, y = row "
    "unless it has a transform), not longitude and latitude."
)


def geojson_features(
    shapes: Shapes, values: list[Array], table: Table, separator: bytes
) -> Iterator[bytes | memoryview]:
    """GeoJSON features, each after a separator, in pieces of about a million vertices.

    ``values``: the columns of ``table`` for these shapes, numbers with at most 4 decimals.
    """
    geographic = shapes.lonlat is not None
    xy = shapes.lonlat if shapes.lonlat is not None else shapes.coordinates
    crossing = np.zeros(len(shapes), np.bool_)
    if geographic and np.ptp(xy[:, 0]) > 180:
        xy = xy.copy()
        _unwrap(xy, shapes.ring_offsets, shapes.polygon_offsets, crossing)
    columns = np.empty((len(values), len(shapes)), np.int64)
    words: list[str] = ["false", "true"]
    decimals = np.zeros(len(values), np.int64)
    for k, (column, kind) in enumerate(zip(values, table.columns.values(), strict=True)):
        if pa.types.is_floating(kind):
            decimals[k] = 4
            finite = np.isfinite(column)
            columns[k] = np.where(finite, np.rint(np.where(finite, column, 0) * 1e4), _NULL)
        elif pa.types.is_string(kind):
            decimals[k] = _WORD
            names, index = np.unique(column.astype(str), return_inverse=True)
            columns[k] = len(words) + index
            words += [json.dumps(name, ensure_ascii=False) for name in names.tolist()]
        else:
            decimals[k] = _WORD if pa.types.is_boolean(kind) else 0
            columns[k] = column
    keys = [f"{json.dumps(name)}: " for name in table.columns]
    between = [separator + b'{"type": "Feature", "properties": {' + keys[0].encode()]
    between += [f", {key}".encode() for key in keys[1:]]
    between += [b'}, "geometry": ', b'{"type": "Polygon", "coordinates": ', b"}}"]
    ends = shapes.ring_offsets[shapes.polygon_offsets]
    low = 0
    while low < len(shapes):
        high = max(low + 1, int(np.searchsorted(ends, ends[low] + _VERTICES, "right")) - 1)
        text, starts, geometries = _format(
            xy, shapes.ring_offsets, shapes.polygon_offsets[low : high + 1], columns[:, low:high], decimals,
            *_joined(between), *_joined([word.encode() for word in words]),
        )  # fmt: skip
        data, written = text.data, 0
        for i in np.flatnonzero(crossing[low:high]).tolist():
            yield data[starts[written] : geometries[i]]
            yield _cut_at_antimeridian(xy, shapes, low + i) + b"}"
            written = i + 1
        yield data[starts[written] :]
        low = high


def _joined(parts: list[bytes]) -> tuple[Array, Array]:
    """Bytes behind one another, and where each begins and ends."""
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)])


def _cut_at_antimeridian(xy: Array, shapes: Shapes, polygon: int) -> bytes:
    """RFC 7946, section 3.1.9: a polygon whose longitudes go beyond 180 degrees, in parts that do not."""
    rings = range(shapes.polygon_offsets[polygon], shapes.polygon_offsets[polygon + 1])
    exterior, *holes = (xy[shapes.ring_offsets[r] : shapes.ring_offsets[r + 1]] for r in rings)
    whole = shapely.make_valid(shapely.Polygon(exterior, holes))
    parts: list[Any] = []
    for turn in (-360, 0, 360):
        part = affinity.translate(whole, turn).intersection(shapely.box(-180, -90, 180, 90))
        parts += [p for p in shapely.get_parts(shapely.orient_polygons(part)) if p.geom_type == "Polygon" and p.area]
    rounded = [[np.round(shapely.get_coordinates(r), 7).tolist() for r in (p.exterior, *p.interiors)] for p in parts]
    return json.dumps({"type": "MultiPolygon", "coordinates": rounded}).encode()


@compiled
def _unwrap(xy: Array, ring_offsets: Array, polygon_offsets: Array, crossing: Array) -> None:
    """Make longitudes run on beyond 180 degrees within a polygon instead of jumping; note where they do."""
    for polygon in range(len(polygon_offsets) - 1):
        first, last = polygon_offsets[polygon], polygon_offsets[polygon + 1]
        if not _unwrap_ring(xy, ring_offsets[first], ring_offsets[first + 1]):
            continue
        crossing[polygon] = True
        west, east = _span(xy, ring_offsets[first], ring_offsets[first + 1])
        for ring in range(first + 1, last):  # bring the holes to where their exterior is
            low, high = ring_offsets[ring], ring_offsets[ring + 1]
            _unwrap_ring(xy, low, high)
            hole_west, hole_east = _span(xy, low, high)
            turn = 360.0 if hole_west < west else -360.0 if hole_east > east else 0.0
            for i in range(low, high):
                xy[i, 0] += turn


@compiled
def _unwrap_ring(xy: Array, low: int, high: int) -> bool:
    """Whether a closed ring jumped; a ring around a pole jumps an odd number of times, and is left alone."""
    jumps = winding = 0
    for i in range(low + 1, high):
        step = xy[i, 0] - xy[i - 1, 0]
        if abs(step) > 180:
            jumps += 1
            winding += 1 if step < 0 else -1
    if jumps == 0 or winding != 0:
        return False
    shift = 0.0
    before = xy[low, 0]
    for i in range(low + 1, high):
        step = xy[i, 0] - before
        before = xy[i, 0]
        if step > 180:
            shift -= 360
        elif step < -180:
            shift += 360
        xy[i, 0] += shift
    return True


@compiled
def _span(xy: Array, low: int, high: int) -> tuple[float, float]:
    west = east = xy[low, 0]
    for i in range(low, high):
        west, east = min(west, xy[i, 0]), max(east, xy[i, 0])
    return west, east


@compiled
def _put_number(out: Array, n: int, value: int | np.int64, decimals: int, least: int) -> int:
    """Write an integer that counts units of 10^-``decimals`` as ASCII; return the position after it.

    It gets as many decimals as it needs, and ``least`` at the least.
    """
    if value == _NULL:
        for k in range(4):
            out[n + k] = b"null"[k]
        return n + 4
    if value < 0:
        out[n] = 45  # -
        n += 1
        value = -value
    unit = np.int64(10) ** decimals
    whole, fraction = value // unit, value % unit
    digits = 1
    power = np.int64(10)
    while power <= whole:
        power *= 10
        digits += 1
    for k in range(digits):
        out[n + digits - 1 - k] = 48 + whole % 10
        whole //= 10
    n += digits
    end = decimals
    while end > least and fraction % 10 == 0:
        fraction //= 10
        end -= 1
    if end > 0:
        out[n] = 46  # .
        for k in range(end):
            out[n + end - k] = 48 + fraction % 10
            fraction //= 10
        n += end + 1
    return n


@compiled
def _put_coordinates(out: Array, n: int, xy: Array, ring_offsets: Array, first: int, last: int) -> int:
    """``[[[x,y],...],...]`` of the rings of a polygon. The exterior is made counter-clockwise, holes not."""
    out[n] = 91  # [
    n += 1
    reverse = False
    for ring in range(first, last):
        low, high = ring_offsets[ring], ring_offsets[ring + 1]
        if ring == first:
            twice = 0.0
            for i in range(low, high - 1):
                x0, y0 = xy[i, 0] - xy[low, 0], xy[i, 1] - xy[low, 1]
                x1, y1 = xy[i + 1, 0] - xy[low, 0], xy[i + 1, 1] - xy[low, 1]
                twice += x0 * y1 - x1 * y0
            reverse = twice < 0
        else:
            out[n] = 44  # ,
            n += 1
        out[n] = 91
        n += 1
        for i in range(high - low):
            k = high - 1 - i if reverse else low + i
            if i > 0:
                out[n] = 44
                n += 1
            out[n] = 91
            n = _put_number(out, n + 1, np.int64(np.rint(xy[k, 0] * 1e7)), 7, 0)
            out[n] = 44
            n = _put_number(out, n + 1, np.int64(np.rint(xy[k, 1] * 1e7)), 7, 0)
            out[n] = 93  # ]
            n += 1
        out[n] = 93
        n += 1
    out[n] = 93
    return n + 1


@compiled
def _format(
    xy: Array,
    ring_offsets: Array,
    polygon_offsets: Array,
    columns: Array,
    decimals: Array,
    between: Array,
    between_offsets: Array,
    words: Array,
    word_offsets: Array,
) -> tuple[Array, Array, Array]:
    """Features as UTF-8: (text, where each begins and the last ends, where its geometry begins).

    ``columns`` (column, polygon) are integers: of units of 10^-decimals, or numbers of words. ``between`` is what
    stands before each of them, then before the geometry, before its coordinates, and behind them.
    """
    count, polygons = columns.shape
    rings = polygon_offsets[polygons] - polygon_offsets[0]
    vertices = ring_offsets[polygon_offsets[polygons]] - ring_offsets[polygon_offsets[0]]
    longest = 24
    for word in range(len(word_offsets) - 1):
        longest = max(longest, word_offsets[word + 1] - word_offsets[word])
    out = np.empty(45 * vertices + 4 * rings + (4 + len(between) + longest * count) * polygons, np.uint8)
    starts = np.zeros(polygons + 1, np.int64)
    geometries = np.empty(polygons, np.int64)
    n = 0
    for polygon in range(polygons):
        for part in range(count + 3):
            for k in range(between_offsets[part], between_offsets[part + 1]):
                out[n] = between[k]
                n += 1
            if part < count:
                value = columns[part, polygon]
                if decimals[part] == _WORD:
                    for k in range(word_offsets[value], word_offsets[value + 1]):
                        out[n] = words[k]
                        n += 1
                else:
                    n = _put_number(out, n, value, decimals[part], min(1, decimals[part]))
            elif part == count:
                geometries[polygon] = n
            elif part == count + 1:
                n = _put_coordinates(out, n, xy, ring_offsets, polygon_offsets[polygon], polygon_offsets[polygon + 1])
        starts[polygon + 1] = n
    return out[:n], starts, geometries


class _Parquet:
    """GeoParquet 1.1 (WKB, planar edges), row group by row group."""

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow.parquet

        self._table = table
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._writer = pyarrow.parquet.ParquetWriter(path, _schema(table), compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, rows: _Rows) -> None:
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

    def finish(self) -> None:
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


class _Ogr:
    """GDAL's writer, which pulls Arrow batches: it runs in a thread and is fed through a short queue."""

    def __init__(self, path: Path, table: Table, driver: str) -> None:
        self._path, self._table, self._driver = path, table, driver
        self._queue: queue.Queue[pa.RecordBatch | None] = queue.Queue(maxsize=2)
        self._problem: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name=f"write {path.suffix}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._stop = True
            self._put(None)
            self._thread.join()

    def write(self, rows: _Rows) -> None:
        self._put(rows.arrow)
        self._check()

    def finish(self) -> None:
        self._put(None)
        self._thread.join()
        self._check()

    def _put(self, batch: pa.RecordBatch | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(batch, timeout=0.2)
            except queue.Full:
                continue
            return

    def _check(self) -> None:
        if self._problem is not None:
            raise OSError(str(self._problem)) from self._problem

    def _batches(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._queue.get()) is not None:
            yield batch
        if self._stop:
            raise InterruptedError("writing was stopped")

    def _run(self) -> None:
        from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

        failures = (DataLayerError, DataSourceError, FeatureError, FieldError, pa.ArrowException, OSError, RuntimeError)
        reader = pa.RecordBatchReader.from_batches(_schema(self._table), self._batches())
        try:
            with _fixed_date():
                pyogrio.write_arrow(
                    reader,
                    self._path,
                    layer=LAYER,
                    driver=self._driver,
                    geometry_name="geometry",
                    geometry_type="Polygon",
                    crs=self._table.grid.crs_wkt or _UNDEFINED,
                    dataset_options=OF_GEOPACKAGES if self._driver == "GPKG" else None,
                )
        except failures as error:
            self._problem = error


_DATE = threading.Lock()
_date_users = 0


@contextmanager
def _fixed_date() -> Iterator[None]:
    """GeoPackage notes when it was written; the same polygons are to give the same bytes."""
    global _date_users  # noqa: PLW0603 - the option is global in GDAL
    with _DATE:
        _date_users += 1
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        yield
    finally:
        with _DATE:
            _date_users -= 1
            if not _date_users:
                pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
