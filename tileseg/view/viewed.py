"""A run's folder as the viewer sees it: what is there, finished or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tileseg.errors import InputError, TilesegError, UsageError, first_line
from tileseg.formats import FORMATS, Format
from tileseg.grid import Grid
from tileseg.mosaic import Mosaic
from tileseg.reading import ReadingOptions
from tileseg.run.ledger import Ledger
from tileseg.run.names import DISAGREEMENT, MOSAIC, STATE, SUMMARY, probability_files
from tileseg.source.protocol import PixelSource, ReadRequest
from tileseg.source.scene import opener_of
from tileseg.storage.place import parse_places
from tileseg.webmap import Placement

_CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])


@dataclass(frozen=True)
class ViewedRun:
    """A run that is looked at."""

    folder: Path
    scene_path: Path | None = None
    """Where the scene lies now, if not where the run read it."""

    @cached_property
    def mosaic(self) -> Mosaic:
        """Its mosaic."""
        return Mosaic(self.folder / MOSAIC)

    @cached_property
    def grid(self) -> Grid:
        """Where it lies."""
        return self.mosaic.grid

    @cached_property
    def placement(self) -> Placement:
        """Where it lies on the map."""
        return Placement(self.grid)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` says; None while the run is not finished."""
        try:
            values = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            raise InputError(f"{self.folder / SUMMARY}: damaged: not JSON; run its scene again") from None
        if not isinstance(values, dict) or not {"report", "identity", "scene", "spec"} <= values.keys():
            raise InputError(f"{self.folder / SUMMARY}: is not the summary of a run of tileseg")
        return values

    @cached_property
    def ledger(self) -> Ledger:
        """Which of its blocks are done."""
        return Ledger(self.folder / STATE)

    @cached_property
    def record(self) -> dict[str, Any]:
        """``run.json``: identity, scene and sizes; of a finished run without its state what the summary has of them."""
        summary = self.summary
        found = self.ledger.read_run()
        if isinstance(found, dict) and isinstance(found.get("identity"), dict):
            return found
        return {} if summary is None else {"identity": summary["identity"], "scene": summary["scene"]["path"]}

    @property
    def scene_name(self) -> str:
        """What the scene is called."""
        return Path(str(self.record.get("scene", self.folder.name))).name

    @cached_property
    def scene(self) -> PixelSource | str:
        """The scene, or why there is none to be looked at."""
        identity, summary = self.record.get("identity", {}), self.summary
        spec = {} if summary is None else summary["spec"]
        try:
            said = self.scene_path or parse_places(spec.get("scene") or str(self.record.get("scene", "")))
            path = said
            if isinstance(said, Path):
                places = (said, self.folder / said, self.folder.parent / said.name)
                path = next((place for place in places if place.exists()), said)
            known = {**identity, **spec}
            options = ReadingOptions.model_validate(
                {name: known[name] for name in ReadingOptions.model_fields if known.get(name) is not None}
            )
            names = tuple(identity.get("card", {}).get("bands") or ["red", "green", "blue"])
            # Of a slide's levels the one that the run read is the one with its pixels.
            wanted = ReadRequest.asked(options, names, self.grid.ground_sample_distance)
            found = opener_of(path).open(path, wanted)
        except (TilesegError, OSError, ValidationError) as error:
            return first_line(error)
        size = found.grid.height, found.grid.width
        if size != (self.grid.height, self.grid.width):
            return f"{path}: has {size[0]} x {size[1]} pixels, the run {self.grid.height} x {self.grid.width}"
        return found

    @property
    def rasters(self) -> dict[str, Path]:
        """Name -> COG of what is kept of pixels beside their labels: ``probability of building``, ``disagreement``."""
        classes = self.mosaic.classes
        files = {f"probability of {classes[i].name}": name for i, name in probability_files(classes).items()}
        found = {**files, "disagreement of views": DISAGREEMENT}
        return {name: self.folder / file for name, file in found.items() if (self.folder / file).is_file()}

    @property
    def written(self) -> int:
        """When the summary was written, in nanoseconds; 0: not yet."""
        try:
            return (self.folder / SUMMARY).stat().st_mtime_ns
        except OSError:
            return 0

    def polygons(self) -> tuple[Format, Path] | None:
        """The file of polygons to read; None where there is none."""
        summary = self.summary
        written = {} if summary is None else summary["report"]["outputs"]
        for form in sorted(FORMATS.values(), key=lambda form: (form.qgis or 9, form.name)):
            path = self.folder / Path(written.get(form.name, "none")).name
            if form.reader is not None and path.is_file():
                return form, path
        return None

    def archive(self) -> Path | None:
        """The run's own vector tiles; None where it has none."""
        summary = self.summary
        written = {} if summary is None else summary["report"]["outputs"]
        path = self.folder / Path(written.get("pmtiles", "none")).name
        return path if path.is_file() else None

    @cached_property
    def block(self) -> tuple[int, int]:
        """Size of its blocks (rows, columns)."""
        return self.mosaic.block

    @property
    def can_change(self) -> bool:
        """Whether there are probabilities from which labels are made anew."""
        return self.mosaic.keep != "labels"

    def ring(self, rows: tuple[float, float], cols: tuple[float, float]) -> list[list[float]]:
        """A rectangle of pixels as a closed ring of longitudes and latitudes."""
        corners = _CORNERS * [cols[1] - cols[0], rows[1] - rows[0]] + [cols[0], rows[0]]
        fractions = self.placement.of_pixels(corners)
        return np.round(self.placement.lonlat(fractions), 8).tolist()  # type: ignore[no-any-return]


def look_into(folder: Path, scene: Path | None = None) -> ViewedRun:
    """A run's folder, finished or begun. Raises UsageError, InputError in one line where it is none."""
    if not folder.exists():
        from tileseg.storage.place import similar_name

        raise InputError(f"{folder}: is not there{similar_name(folder)}; expected the folder of a run, or one of runs")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected the folder of a run, or one with the folders of runs")
    if not (folder / MOSAIC / "zarr.json").is_file():
        raise InputError(
            f"{folder}: is not the folder of a run (no {MOSAIC} in it), nor has it folders of runs in it; expected "
            "what tileseg run or tileseg batch wrote"
        )
    if scene is not None and not scene.exists():
        raise UsageError(f"--scene {scene}: is not there")
    run = ViewedRun(folder, scene)
    _ = run.grid, run.mosaic.classes, run.record
    return run


def runs_in(folder: Path, scene: Path | None = None, tell: Callable[[str], object] = print) -> list[ViewedRun]:
    """The run of a folder, or all runs directly below it. ``tell``: gets a line for each that cannot be shown.

    Raises UsageError, InputError in one line where there is none.
    """
    if folder.is_dir() and not (folder / MOSAIC).exists():
        found = []
        for place in sorted(folder.iterdir()):
            if (place / MOSAIC / "zarr.json").is_file():
                try:
                    found.append(look_into(place))
                except TilesegError as error:
                    tell(str(error))
        if found:
            if scene is not None:
                raise UsageError("--scene is for the folder of one run; this one has several")
            return found
    return [look_into(folder, scene)]
