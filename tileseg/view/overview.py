"""One page about a folder of runs: where their scenes lie, what became of each, what came out."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from tileseg.run.names import QUICKLOOK
from tileseg.view.page import jpeg, table, write_page
from tileseg.view.viewed import ViewedRun
from tileseg.window import tile

_BATCH = "batch.json"
_COLORS = {"finished": "#0072b2", "under way": "#e69f00", "failed": "#d55e00"}
"""Of the palette of Okabe and Ito, which are told apart by everybody."""
_DASHES = {"under way": "4 2", "failed": "1.5 2"}
_WIDTH, _MARGIN = 900, 16
"""Of the map, in pixels."""
_TALLEST = 620
_DOT = 5.0
"""Pixels: scenes that are smaller on the map are shown as large as this."""
_THUMBNAILS, _THUMBNAIL = 120, 220
"""How many scenes are shown at the most, and how wide, so that the page can still be sent."""


@dataclass(frozen=True)
class _Row:
    """What is told of a scene."""

    name: str
    state: str
    """A key of ``_COLORS``."""
    message: str
    run: ViewedRun | None


def write_overview(runs: Sequence[ViewedRun], folder: Path, path: Path) -> None:
    """Write the page about the runs of a folder, and about scenes of its batch that have none."""
    rows = _rows(runs, _results(folder))
    counts = Counter(row.state for row in rows)
    told = ", ".join(f"{counts[state]:,} {state}" for state in _COLORS if counts[state])
    head = f"<h1>{escape(folder.resolve().name)}</h1><p class=sub>{len(rows):,} scenes: {told}</p>"
    sections = [
        ("Where they lie", _map(rows)),
        ("Scenes", _scenes(rows, path)),
        ("Pictures", _pictures(rows)),
    ]
    write_page(path, folder.resolve().name, head, sections)


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    """Folder of a scene -> what the batch that was last said of it; nothing where there was no batch."""
    try:
        scenes = json.loads((folder / _BATCH).read_text(encoding="utf-8"))["scenes"]
        return {str(scene["folder"]): scene for scene in scenes}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _rows(runs: Sequence[ViewedRun], results: dict[str, dict[str, Any]]) -> list[_Row]:
    rows = []
    for run in runs:
        result = results.pop(run.folder.name, {})
        if run.summary is not None:
            state, message = "finished", ""
        else:
            done, blocks = len(run.ledger.done()), len(tile(run.grid.extent, *run.block))
            state = "failed" if result.get("status") in ("failed", "unusable") else "under way"
            message = f"{done:,} of {blocks:,} blocks; {result.get('message') or ''}".removesuffix("; ")
        rows.append(_Row(run.scene_name, state, message, run))
    for result in results.values():
        known = result.get("status") in ("failed", "unusable")
        state, message = "failed" if known else "under way", str(result.get("message") or result.get("status", ""))
        rows.append(_Row(Path(str(result.get("scene", ""))).name, state, message, None))
    return rows


def _map(rows: Sequence[_Row]) -> str:
    """Outlines of the scenes, north up, each a link to its row."""
    rings = {
        i: np.asarray(row.run.ring((0, row.run.grid.height), (0, row.run.grid.width)))
        for i, row in enumerate(rows)
        if row.run is not None and row.run.placement.on_globe
    }
    if not rings:
        return ""
    points = np.concatenate(list(rings.values()))
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    shrink = max(0.01, math.cos(math.radians((south + north) / 2)))  # degrees of longitude are shorter
    across, up = max((east - west) * shrink, 1e-9), max(north - south, 1e-9)
    scale = min((_WIDTH - 2 * _MARGIN) / across, (_TALLEST - 2 * _MARGIN) / up)
    width, height = across * scale + 2 * _MARGIN, up * scale + 2 * _MARGIN
    shapes = []
    for i, ring in rings.items():
        row = rows[i]
        drawn = np.column_stack([(ring[:, 0] - west) * shrink, north - ring[:, 1]]) * scale + _MARGIN
        low, high = drawn.min(axis=0), drawn.max(axis=0)
        if (high - low).max() < _DOT:
            middle = (low + high) / 2
            drawn = middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * _DOT / 2
        dash = f" stroke-dasharray='{_DASHES[row.state]}'" if row.state in _DASHES else ""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn.tolist())
        color = _COLORS[row.state]
        shapes.append(
            f"<a href='#s{i}'><polygon points='{corners}' fill='{color}' fill-opacity='0.25' stroke='{color}'{dash}>"
            f"<title>{escape(row.name)}: {row.state}</title></polygon></a>"
        )
    box = f"width='{width:.0f}' height='{height:.0f}' viewBox='0 0 {width:.1f} {height:.1f}'"
    style = "max-width:100%;height:auto;border:1px solid #d0d7de;background:#f6f8fa"
    drawing = f"<svg xmlns='http://www.w3.org/2000/svg' {box} style='{style}' role=img>{''.join(shapes)}</svg>"
    keys = ", ".join(
        f"<i class=key style='background:{color}'></i>{state}"
        for state, color in _COLORS.items()
        if any(rows[i].state == state for i in rings)
    )
    beside = len(rows) - len(rings)
    left_out = f"; {beside:,} of no known place are left out" if beside else ""
    place = f"{_degrees(south, 'S', 'N')} to {_degrees(north, 'S', 'N')}, {_degrees(west, 'W', 'E')} to"
    return (
        f"<figure>{drawing}<figcaption>{keys}. North is up; {place} {_degrees(east, 'W', 'E')}{left_out}."
        "</figcaption></figure>"
    )


def _degrees(value: float, below: str, above: str) -> str:
    return f"{abs(value):.4f}&deg; {below if value < 0 else above}"


def _scenes(rows: Sequence[_Row], page: Path) -> str:
    lines = []
    for i, row in enumerate(rows):
        summary = None if row.run is None else row.run.summary
        report = {} if summary is None else summary["report"]
        polygons = sum(report["polygons"].values()) if report.get("polygons") else 0
        size = "" if row.run is None else f"{row.run.grid.height * row.run.grid.width / 1e6:,.1f}"
        lines.append(
            [
                f"<a id=s{i}></a>{_link(row, page)}",
                f"<i class=key style='background:{_COLORS[row.state]}'></i>{row.state}",
                size,
                f"{polygons:,}" if summary is not None else "",
                f"{report.get('wall_seconds', 0):,.0f}" if summary is not None else "",
                escape(row.message),
            ]
        )
    return table(["scene", "state", "MPix", "polygons", "seconds", ""], lines)


def _link(row: _Row, page: Path) -> str:
    """The scene's name; a link to its folder, from where the page lies."""
    if row.run is None:
        return escape(row.name)
    where = os.path.relpath(row.run.folder.resolve(), page.resolve().parent)
    return f"<a href='{escape(quote(where))}/'>{escape(row.name)}</a>"


def _pictures(rows: Sequence[_Row]) -> str:
    figures: list[str] = []
    for i, row in enumerate(rows):
        path = None if row.run is None else row.run.folder / QUICKLOOK
        if path is None or not path.is_file() or len(figures) == _THUMBNAILS:
            continue
        with Image.open(path) as picture:
            picture.thumbnail((_THUMBNAIL * 2, _THUMBNAIL * 2))
            rgb = np.asarray(picture.convert("RGB"))
        figures.append(
            f"<figure><a href='#s{i}'><img src='{jpeg(rgb)}' width={_THUMBNAIL} alt='{escape(row.name)}'></a>"
            f"<figcaption>{escape(row.name)}</figcaption></figure>"
        )
    more = sum(row.run is not None for row in rows) - len(figures)
    left = f"<p class=sub>{more:,} more have no picture here.</p>" if more > 0 else ""
    return f"<div class=charts>{''.join(figures)}</div>{left}" if figures else ""
