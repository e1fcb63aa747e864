"""What people think of polygons: right, wrong, or to be looked at again, kept in ``review.gpkg``."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyogrio  # before TensorFlow, see nn/backend.py

from tileseg.batch.outputs import write_frame
from tileseg.errors import InputError, UsageError
from tileseg.publish.ogr import UNDEFINED
from tileseg.source.vector_file import name_to_read
from tileseg.view.polygon_file import some
from tileseg.view.viewed import ViewedRun

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

FILE = "review.gpkg"
VERDICTS = ("right", "wrong", "again")


@dataclass
class Reviews:
    """The marks of one run; each is on the disk when it is given. Safe to use from several threads at once."""

    run: ViewedRun
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        """The file."""
        return self.run.folder / FILE

    def marks(self) -> dict[int, str]:
        """Polygon -> verdict."""
        if not self.path.is_file():
            return {}
        frame = self._read()
        return {int(i): str(verdict) for i, verdict in zip(frame["id"], frame["verdict"], strict=True)}

    def mark(self, polygon: int, verdict: str | None) -> dict[int, str]:
        """Give a polygon a verdict, or take it back (None); all marks then. Raises UsageError, InputError."""
        import geopandas
        import pandas as pd

        if verdict is not None and verdict not in VERDICTS:
            raise UsageError(f"{verdict!r}: expected one of {', '.join(VERDICTS)}")
        with self._lock:
            frame = self._read() if self.path.is_file() else None
            kept = None if frame is None else frame[frame["id"] != polygon]
            if verdict is not None:
                row = self._polygon(polygon)
                row["verdict"] = verdict
                row["marked"] = datetime.now(UTC).isoformat(timespec="seconds")
                if row.crs is None:
                    row = row.set_crs(UNDEFINED)
                if kept is None or not len(kept):
                    kept = row
                else:
                    kept = pd.concat([kept.set_crs(row.crs, allow_override=True), row], ignore_index=True)
            if kept is not None and len(kept):
                kept["teaches"] = [
                    self._taught(str(verdict), str(name))
                    for verdict, name in zip(kept["verdict"], kept["class_name"], strict=True)
                ]
                write_frame(geopandas.GeoDataFrame(kept), self.path, "review")
            else:
                self.path.unlink(missing_ok=True)
            return {} if kept is None else dict(zip(kept["id"].astype(int), kept["verdict"], strict=True))

    def _taught(self, verdict: str, name: str) -> str:
        """What a training may learn from a mark: the class of the pixels within the polygon, or ``ignore``.

        A wrong polygon is background where there is one other class; of several, any could be right.
        """
        classes = self.run.mosaic.classes
        behind = [info.name for info in classes if info.background]
        if verdict == "right":
            return name
        return behind[0] if verdict == "wrong" and len(behind) == 1 and len(classes) == 2 else "ignore"

    def _read(self) -> GeoDataFrame:
        try:
            with name_to_read(self.path) as name:
                return pyogrio.read_dataframe(name, layer="review")
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise InputError(f"{self.path}: cannot be read; move it elsewhere: {error}") from error

    def _polygon(self, polygon: int) -> Any:
        """One polygon with its attributes, in the run's own file."""
        found = self.run.polygons()
        if found is None:
            raise InputError(f"{self.run.folder}: has no polygons to be marked")
        form, path = found
        row = some(form, path, [polygon])
        if not len(row):
            raise UsageError(f"{path}: has no polygon {polygon}")
        return row.reset_index(drop=True)
