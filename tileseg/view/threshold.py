"""Labels and polygons by other thresholds: of a window at once, of the whole by ``tileseg vectorize``."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from tileseg.errors import InputError, UsageError
from tileseg.formats import DEFAULT, vector_paths
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic
from tileseg.run.vectorize import Classes, vectorize
from tileseg.spec import VectorOptions
from tileseg.view.tiles import MOST
from tileseg.view.viewed import ViewedRun
from tileseg.window import Window

_OPTIONS = ("classes", "min_area", "fill_holes", "simplify", "regularize", "tolerance", "pixel_size")
"""Of a run: those that decide its polygons, as the options of vectorize are called."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A window of a mosaic as labels to be vectorised."""

    mosaic: Mosaic
    window: Window

    @property
    def grid(self) -> Grid:
        return self.mosaic.grid[self.window]

    @property
    def nodata(self) -> int:
        return self.mosaic.nodata

    def _moved(self, window: Window) -> Window:
        row, col = window.row_off + self.window.row_off, window.col_off + self.window.col_off
        return Window(row, col, window.height, window.width)

    def read_labels(self, window: Window) -> npt.NDArray[Any]:
        return self.mosaic.read_labels(self._moved(window))

    def read_confidence(self, window: Window) -> npt.NDArray[Any] | None:
        return self.mosaic.read_confidence(self._moved(window))

    def read_disagreement(self, window: Window) -> npt.NDArray[Any] | None:
        return self.mosaic.read_disagreement(self._moved(window))


def _given(run: ViewedRun) -> dict[str, Any]:
    """Options of the run's polygons that are not the usual ones."""
    summary = run.summary
    spec = {} if summary is None else summary["spec"]
    given = {name: spec[name] for name in _OPTIONS if spec.get(name) is not None}
    if spec.get("connectivity", 4) != 4:
        given["connectivity"] = spec["connectivity"]
    if spec.get("raw"):
        given["raw"] = True
    return given


def texts_of(thresholds: Mapping[int, float], run: ViewedRun) -> list[str]:
    """As ``--threshold`` takes them. Raises UsageError."""
    classes = run.mosaic.classes
    for i, value in thresholds.items():
        if not 0 <= i < len(classes) or not 0 <= value <= 1:
            raise UsageError(f"threshold {i}={value:g}: expected one of {len(classes)} classes, and 0 to 1")
    return [f"{classes[i].name}={value:g}" for i, value in sorted(thresholds.items())]


def polygons_of(
    run: ViewedRun, box: tuple[float, float, float, float], thresholds: Mapping[int, float]
) -> dict[str, Any]:
    """The polygons of a box (west, south, east, north) as GeoJSON, with ``counts`` by class name and ``whole``.

    ``whole``: whether the box has the whole scene, so that the counts are those of vectorize. Instead ``too_large``
    where the box has more pixels than are decided at once.
    """
    window = _window(run, box)
    if window is None:
        return {"type": "FeatureCollection", "features": [], "counts": {}, "whole": False}
    if max(window.height, window.width) > MOST:
        return {"too_large": MOST}
    mosaic = run.mosaic.with_thresholds(texts_of(thresholds, run))
    options = VectorOptions.parse(_given(run)).handing_over(mosaic.hands_over)[0]
    classes = Classes.of_card(mosaic.classes, options.classes)
    with tempfile.TemporaryDirectory(prefix="tileseg-view-") as folder:
        path = Path(folder) / "window.parquet"
        report = vectorize(_Part(mosaic, window), {"parquet": path}, classes, options)
        import geopandas

        frame = geopandas.read_parquet(path)
    columns = [name for name in frame.columns if name != "geometry"]
    _, corners, offsets = shapely.to_ragged_array(frame.geometry.to_numpy()) if len(frame) else (None, None, None)
    features: list[dict[str, Any]] = []
    if corners is not None and offsets is not None:
        degrees = run.placement.lonlat(run.placement.of_crs(corners))
        shapes = shapely.from_ragged_array(shapely.GeometryType.POLYGON, np.round(degrees, 9), offsets)
        rows = frame[columns].to_dict("records")
        features = [
            {"type": "Feature", "properties": row, "geometry": shape.__geo_interface__}
            for row, shape in zip(rows, shapes, strict=True)
        ]
    whole = window == run.grid.extent
    return {"type": "FeatureCollection", "features": features, "counts": report.counts, "whole": whole}


def _window(run: ViewedRun, box: tuple[float, float, float, float]) -> Window | None:
    """The pixels that lie in a box; None: none do."""
    west, south, east, north = box
    share = np.linspace(0, 1, 17)
    x, y = np.meshgrid(west + share * (east - west), south + share * (north - south))
    pixels = run.placement.pixels(run.placement.of_lonlat(np.column_stack([x.ravel(), y.ravel()])))
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(pixels):
        return None
    grid = run.grid
    left, top = np.clip(np.floor(pixels.min(axis=0)), 0, [grid.width, grid.height]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(pixels.max(axis=0)), 0, [grid.width, grid.height]).astype(int).tolist()
    return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None


def command_of(run: ViewedRun, thresholds: Mapping[int, float]) -> list[str]:
    """The command line that makes the polygons of the whole scene by these thresholds."""
    texts = texts_of(thresholds, run)
    name = "-".join(["polygons", *(text.replace("=", "-").replace("/", "_") for text in texts)])
    summary = run.summary
    formats = [] if summary is None else summary["spec"].get("formats", [])
    command = ["tileseg", "vectorize", str(run.folder)]
    for text in texts:
        command += ["--threshold", text]
    for option, value in _given(run).items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            command.append(flag)
        else:
            command += [flag, ",".join(value) if isinstance(value, list | tuple) else str(value)]
    return [*command, "--format", ",".join(formats or [DEFAULT]), "--name", name, "--overwrite"]


def write(run: ViewedRun, thresholds: Mapping[int, float]) -> dict[str, Any]:
    """Run that command: its files and what it said. Raises InputError where it fails."""
    command = command_of(run, thresholds)
    done = subprocess.run([sys.executable, "-m", "tileseg", *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(lines[-1] if lines else f"{shlex.join(command)} failed")
    name = command[command.index("--name") + 1]
    formats = command[command.index("--format") + 1].split(",")
    files = [str(path) for path in vector_paths(run.folder, formats, name).values()]
    return {"command": shlex.join(command), "files": files, "said": done.stdout.strip()}
