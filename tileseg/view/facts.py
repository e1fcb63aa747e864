"""What the viewer's page is told of a run, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tileseg.view.viewed import ViewedRun
from tileseg.webmap import MOST_ZOOM
from tileseg.window import tile

_STEPS = 16
"""Straight parts that a line along a block is drawn with."""

_MOST_LINES = 400
"""Lines along blocks at the most, each way."""


def facts_of(run: ViewedRun) -> dict[str, Any]:
    """All that does not change while the run is looked at."""
    grid, placement, mosaic, summary = run.grid, run.placement, run.mosaic, run.summary
    size = grid.pixel_metres
    names = [f"probability of {info.name}" for info in mosaic.classes if not info.background] if run.can_change else []
    report = {} if summary is None else summary["report"]
    return {
        "name": run.folder.name.removesuffix(".tileseg"),
        "scene": run.scene_name,
        "scene_problem": run.scene if isinstance(run.scene, str) else None,
        "finished": summary is not None,
        "height": grid.height,
        "width": grid.width,
        "bounds": placement.degrees,
        "on_globe": placement.on_globe,
        "pixel": None if size is None else list(size),
        "zoom": min(MOST_ZOOM, max(0, placement.zoom(256))),
        "polygon_zoom": placement.zoom(1024),
        "classes": [
            {
                "id": i, "name": info.name, "color": info.color, "background": info.background,
                "pixels": report.get("pixels", {}).get(info.name),
            }
            for i, info in enumerate(mosaic.classes)
        ],
        "measures": [*dict.fromkeys([*run.rasters, *names])],
        "can_change": run.can_change,
        "fraction": placement.pixel,
        "outline": [run.ring((0, grid.height), (0, grid.width))],
        "notices": list(report.get("notices", [])),
    }  # fmt: skip


def seams_of(run: ViewedRun) -> dict[str, Any]:
    """The lines along which blocks meet, as GeoJSON."""
    height, width = run.grid.height, run.grid.width
    lines = [*_lines(run, height, run.block[0], down=True), *_lines(run, width, run.block[1], down=False)]
    geometry = {"type": "MultiLineString", "coordinates": lines}
    return {"type": "Feature", "properties": {"blocks": f"{run.block[0]} x {run.block[1]}"}, "geometry": geometry}


def _lines(run: ViewedRun, size: int, block: int, *, down: bool) -> Iterator[list[list[float]]]:
    step = block * max(1, math.ceil(size / block / _MOST_LINES))
    across = np.linspace(0, run.grid.width if down else run.grid.height, _STEPS + 1)
    for at in range(step, size, step):
        fixed = np.full(_STEPS + 1, float(at))
        pixels = np.column_stack([across, fixed] if down else [fixed, across])
        yield np.round(run.placement.lonlat(run.placement.of_pixels(pixels)), 8).tolist()


def progress_of(run: ViewedRun) -> dict[str, Any]:
    """How far the run is: blocks done and in all, and those that are done as GeoJSON while it is not finished."""
    cores = tile(run.grid.extent, *run.block)
    finished = run.summary is not None
    done = range(len(cores)) if finished else sorted(run.ledger.done())
    features = [] if finished else [
        {
            "type": "Feature", "properties": {"block": i},
            "geometry": {
                "type": "Polygon",
                "coordinates": [run.ring((core.row_off, core.row_stop), (core.col_off, core.col_stop))],
            },
        }
        for i in done if i < len(cores) for core in [cores[i]]
    ]  # fmt: skip
    return {
        "finished": finished, "done": len(done), "blocks": len(cores),
        "area": {"type": "FeatureCollection", "features": features},
    }  # fmt: skip
