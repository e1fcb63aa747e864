"""Where labelling pays most: windows of finished runs whose answers are the least certain, spread over the ground.

Uncertainty sampling with a spread (Settles, Active Learning Literature Survey, 2009, sections 3.1 and 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from pydantic import ValidationError

from tileseg.batch.outputs import FinishedRun, write_frame
from tileseg.errors import InputError, UsageError
from tileseg.labels import CERTAIN, NODATA, SPREAD_STEP
from tileseg.nn.folder import load_card, resolve_model
from tileseg.publish.ogr import UNDEFINED
from tileseg.run.prepare import open_as_asked
from tileseg.source.appearance import Scaled, distance, look_at
from tileseg.source.statistics import scaling_for
from tileseg.spec import RunSpec
from tileseg.window import Window, tile

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_STRIP = 8
"""Windows in a row and column that are read at once."""
_LOOKED_AT = 4
"""So many times as many windows as are wanted are compared with the training's images: that reads the scene."""
_SPREAD = 4.0
"""Sides of a window: closer than that to one that is chosen already, a window counts for less."""
_FORMATS = (".gpkg", ".parquet", ".fgb")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A window of a run, and how much its labels would teach."""

    run: int
    """Position of the run."""
    window: Window
    uncertainty: float
    """0 to 1: mean over its pixels of how far the probability of their class is from 1; 1 is a guess."""
    disagreement: float | None
    """0 to 1: mean disagreement of the views, over the largest there is; None: not kept."""
    distance: float | None = None
    """How far it looks from the training's images, over what is usual; None: not known."""

    @property
    def score(self) -> float:
        """0 to 1: the mean of what is known."""
        unlike = None if self.distance is None else min(1.0, self.distance / 2)
        known = [value for value in (self.uncertainty, self.disagreement, unlike) if value is not None]
        return sum(known) / len(known)


def suggest(
    runs: Sequence[FinishedRun], out: Path, count: int, side: int, tell: Callable[[str], object] = lambda _: None
) -> list[Candidate]:
    """Choose windows of ``side`` x ``side`` pixels of the scenes, the best first, and write them as polygons.

    ``tell`` gets a line for each run whose scene cannot be looked at. Raises UsageError for values that make no sense,
    InputError where a run keeps labels only.
    """
    if count < 1 or side < 16:
        raise UsageError(f"--count {count} --size {side}: expected at least 1 window of at least 16 pixels")
    if out.suffix.lower() not in _FORMATS:
        raise UsageError(f"--out {out}: expected a file ending in {', '.join(_FORMATS)}")
    found = [candidate for number, run in enumerate(runs) for candidate in _of_run(run, number, side)]
    if not found:
        raise InputError(f"no window of {side} x {side} pixels has data over at least half of it")
    first = _spread(found, _LOOKED_AT * count, side)
    looked = [one for number, run in enumerate(runs) for one in _with_distance(run, number, first, tell)]
    chosen = _spread(looked, count, side)
    write_frame(_table(runs, chosen), out, "windows")
    return chosen


def _of_run(run: FinishedRun, number: int, side: int) -> Iterator[Candidate]:
    """All windows of a run of which at least half has data; smaller ones at the right and bottom."""
    mosaic = run.mosaic
    if mosaic.keep == "labels":
        raise InputError(
            f"{run.folder}: was made with --keep labels, so nothing tells what is uncertain; run it with --keep logits"
        )
    guess = 1 - 1 / len(mosaic.classes)
    for large in tile(run.grid.extent, _STRIP * side, _STRIP * side):
        labels, confidence = mosaic.read_labels(large), mosaic.read_confidence(large)
        disagreement = mosaic.read_disagreement(large)
        assert confidence is not None
        doubt = (1 - confidence.astype(np.float32) / CERTAIN) / np.float32(guess)
        for small in tile(Window(0, 0, large.height, large.width), side, side):
            valid = labels[small.slices] != NODATA
            if 2 * np.count_nonzero(valid) < side * side:
                continue
            views = None
            if disagreement is not None:
                views = min(1.0, 2 * SPREAD_STEP * float(disagreement[small.slices][valid].mean()))
            window = Window(large.row_off + small.row_off, large.col_off + small.col_off, small.height, small.width)
            yield Candidate(number, window, min(1.0, float(doubt[small.slices][valid].mean())), views)


def _with_distance(
    run: FinishedRun, number: int, candidates: Sequence[Candidate], tell: Callable[[str], object]
) -> list[Candidate]:
    """Those of a run, with how far they look from what its model was trained on, where that is known."""
    own = [candidate for candidate in candidates if candidate.run == number]
    if not own:
        return own
    try:
        spec = RunSpec.model_validate(run.summary["spec"])
        card = load_card(resolve_model(spec.model))
        usual = card.appearance
        if usual is None:
            return own
        scene = open_as_asked(spec, card)
        scale = float(Fraction(run.summary["identity"]["scale"]))
        scaling, scaled = scaling_for(card, scene, spec.value_window), Scaled.by(scene, scale)
        found = []
        for one in own:
            windows = look_at([_scaled(one.window, scale, scaled.extent)], scaled.read, scaling)
            far = distance(windows, usual) / usual.far
            found.append(replace(one, distance=None if math.isnan(far) else far))
    except (InputError, UsageError, ValidationError, KeyError) as error:
        tell(f"{run.folder}: its scene is not compared with the training's images: {error}")
        return own
    return found


def _scaled(window: Window, scale: float, extent: Window) -> Window:
    """A window of the scene in pixels of the network."""
    top, left = (min(int(first * scale), size - 1) for first, size in (
        (window.row_off, extent.height), (window.col_off, extent.width)
    ))  # fmt: skip
    found = Window(top, left, max(1, round(window.height * scale)), max(1, round(window.width * scale)))
    inside = found.intersection(extent)
    assert inside is not None
    return inside


def _spread(candidates: Sequence[Candidate], count: int, side: int) -> list[Candidate]:
    """The best, one after the other; what lies near one that is chosen counts for less."""
    left = list(candidates)
    weights = np.array([candidate.score for candidate in left])
    centres = np.array([(c.window.row_off + c.window.height / 2, c.window.col_off + c.window.width / 2) for c in left])
    runs = np.array([candidate.run for candidate in left])
    chosen: list[Candidate] = []
    free = np.ones(len(left), np.bool_)
    while free.any() and len(chosen) < count:
        best = int(np.argmax(np.where(free, weights, -1)))
        chosen.append(left[best])
        free[best] = False
        apart = np.hypot(*(centres - centres[best]).T) / (_SPREAD * side)
        weights = np.where(runs == runs[best], weights * np.minimum(1, apart), weights)
    return chosen


def _table(runs: Sequence[FinishedRun], chosen: Sequence[Candidate]) -> GeoDataFrame:
    """The windows as polygons: in the scenes' CRS where they share one, else in longitude and latitude."""
    import geopandas
    import pandas as pd

    frames = []
    for rank, one in enumerate(chosen, start=1):
        run = runs[one.run]
        corners = [run.grid.transform @ corner for corner in _corners(one.window)]
        row = {
            "rank": rank,
            "run": str(run.folder),
            "scene": run.summary["scene"]["path"],
            "score": round(one.score, 4),
            "uncertainty": round(one.uncertainty, 4),
            "disagreement": None if one.disagreement is None else round(one.disagreement, 4),
            "distance": None if one.distance is None else round(one.distance, 3),
        }
        frame = pd.DataFrame([row]).astype({"disagreement": "float64", "distance": "float64"})
        frames.append(geopandas.GeoDataFrame(frame, geometry=[shapely.Polygon(corners)], crs=run.grid.crs_wkt))
    if len({frame.crs for frame in frames}) > 1:
        if any(frame.crs is None for frame in frames):
            raise UsageError("some of the runs have a coordinate reference system and some have none; give them apart")
        frames = [frame.to_crs("EPSG:4326") for frame in frames]
    return geopandas.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=frames[0].crs or UNDEFINED)


def _corners(window: Window) -> list[tuple[int, int]]:
    left, top, right, bottom = window.col_off, window.row_off, window.col_stop, window.row_stop
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
