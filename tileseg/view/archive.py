"""A run's polygons as vector tiles, and what is known of them: numbers, areas, which are least certain."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tileseg.errors import TilesegError
from tileseg.formats import Format
from tileseg.publish.pmtiles import VectorTiles, fractions_of
from tileseg.view.polygon_file import attributes, in_degrees, some
from tileseg.view.viewed import ViewedRun
from tileseg.webmap import Placement

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_ROWS = 20_000
"""Polygons made tiles of at a time."""

LISTED = 500
"""The least certain polygons that are listed."""


@dataclass
class PolygonArchive:
    """The polygons of one run, read in the background. Safe to ask from several threads at once."""

    run: ViewedRun
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _made: Path | None = None
    _facts: dict[str, Any] | None = None
    _problem: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _of: int = -1

    def start(self) -> None:
        """Begin to read, unless that was begun; again where the run was finished, or its polygons made anew, since."""
        with self._lock:
            if self._thread is not None and (self._thread.is_alive() or self._of == self.run.written):
                return
            self._of, self._facts, self._problem = self.run.written, None, None
            self._thread = threading.Thread(target=self._read, name="polygons", daemon=True)
            self._thread.start()

    @property
    def path(self) -> Path | None:
        """The archive of tiles; None: not there yet, or never."""
        return self.run.archive() or self._made

    @property
    def facts(self) -> dict[str, Any]:
        """``ready``, or ``problem``; then classes with numbers and areas, the least certain polygons."""
        if self._problem is not None:
            return {"ready": True, "problem": self._problem, "tiles": self.path is not None}
        return {"ready": self._facts is not None, "tiles": self.path is not None, **(self._facts or {})}

    def close(self) -> None:
        """Remove the tiles that were made for looking only."""
        if self._folder is not None:
            self._folder.cleanup()

    def _read(self) -> None:
        found, own = self.run.polygons(), self.run.archive()
        if found is None:
            self._problem = None if own is not None else "this run has no polygons that can be read"
            self._facts = {} if own is not None else None
            return
        form, path = found
        try:
            self._facts = facts_of(form, path, self.run.placement)
            if own is None:
                self.close()
                self._folder = tempfile.TemporaryDirectory(prefix="tileseg-view-", ignore_cleanup_errors=True)
                made = Path(self._folder.name) / "polygons.pmtiles"
                write_archive(made, self.run, in_degrees(form.read(path), self.run.placement))
                self._made = made
        except (TilesegError, OSError, ValueError, RuntimeError) as error:
            self._problem = f"{path}: cannot be shown: {error}"


def write_archive(path: Path, run: ViewedRun, frame: GeoDataFrame) -> None:
    """Vector tiles of polygons in degrees; in the grid's own coordinates where it lies nowhere."""
    columns = [name for name in frame.columns if name != frame.geometry.name]
    kinds = {name: frame[name].to_numpy().dtype for name in columns}
    kinds = {name: kind if kind.kind in "biuf" else np.dtype(object) for name, kind in kinds.items()}
    tiles = VectorTiles(path, run.placement, kinds)
    for low in range(0, len(frame), _ROWS):
        part = frame.iloc[low : low + _ROWS]
        values = [
            part[name].fillna("").astype(str).to_numpy() if kinds[name].hasobject else part[name].to_numpy()
            for name in columns
        ]
        polygons, owner = fractions_of(part.geometry.to_numpy(), run.placement)
        tiles.add(polygons, owner, part["class"].to_numpy(np.int64), values)
    tiles.close()


def facts_of(form: Format, path: Path, placement: Placement) -> dict[str, Any]:
    """Numbers and areas of classes, and the least certain polygons with a box around each, as JSON values."""
    table = attributes(form, path)
    area = next((name for name in table.columns if name.startswith("area_")), None)
    by_class = {
        int(label): {"count": len(part), "area": 0.0 if area is None else round(float(part[area].sum()), 2)}
        for label, part in table.groupby("class")
    }
    sure = next((name for name in ("confidence", "mean_probability") if name in table.columns), None)
    uncertain: list[dict[str, Any]] = []
    if sure is not None and len(table):
        ordered = table[table[sure].notna()].sort_values([sure, "id"]).head(LISTED)
        ids = [int(i) for i in ordered["id"]]
        boxes = _boxes(in_degrees(some(form, path, ids), placement), placement)
        rows = zip(ids, ordered["class_name"].tolist(), ordered[sure].tolist(), strict=True)
        uncertain = [{"id": i, "class": name, "value": value, "box": boxes[i]} for i, name, value in rows if i in boxes]
    return {
        "classes": by_class,
        "unit": (area or "area_").removeprefix("area_"),
        "sure": sure,
        "uncertain": uncertain,
        "total": len(table),
    }


def _boxes(frame: GeoDataFrame, placement: Placement) -> dict[int, list[float]]:
    """Id -> west, south, east, north of polygons."""
    corners = shapely.bounds(frame.geometry.to_numpy()).reshape(-1, 2)
    if not placement.on_globe:
        corners = placement.lonlat(placement.of_crs(corners))
    # From what is pixels, the first corner need not be the south-western one.
    low, high = np.sort(corners.reshape(-1, 2, 2), axis=1).transpose(1, 0, 2)
    boxes = np.round(np.hstack([low, high]), 8).tolist()
    return {int(i): box for i, box in zip(frame["id"], boxes, strict=True)}
