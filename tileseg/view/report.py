"""``report.html``: one run on one page with everything in it, to be sent, kept or printed."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError
from tileseg.labels import NODATA
from tileseg.overlay import draw_outlines, outline_colors
from tileseg.source.picture import overview_rgb
from tileseg.spec import RunSpec
from tileseg.view.page import jpeg, table, write_page
from tileseg.view.viewed import ViewedRun
from tileseg.window import Window

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_PIXELS = 900
"""Of the longest side of a picture."""
_CLOSE = (4, 12)
"""How much closer the second and third picture are than the first."""
_BINS = 24
_NONE = "&ndash;"


def write_report(run: ViewedRun, path: Path) -> None:
    """Write the page. Raises InputError where the run is not finished."""
    summary = run.summary
    if summary is None:
        raise InputError(f"{run.folder}: the run is not finished: run the same command again first")
    found = run.polygons()
    frame = None if found is None else found[0].read(found[1])
    head = (
        f"<h1>{escape(run.scene_name)}</h1><p class=sub>{run.grid.width:,} &times; {run.grid.height:,} pixels, "
        f"segmented {escape(str(summary.get('written', ''))[:16].replace('T', ' '))} UTC by the model "
        f"{escape(str(summary.get('model', {}).get('name', '')))}</p>"
    )
    notices = "".join(f"<p class=warn>{escape(line)}</p>" for line in summary["report"].get("notices", []))
    sections = [
        ("Pictures", _pictures(run, frame)),
        ("Classes", _classes(run, summary, frame)),
        ("Polygons", "" if frame is None or not len(frame) else _histograms(frame)),
        ("Exactness", _exactness(summary)),
        ("Time and memory", _costs(summary)),
        ("How it was made", _made(summary)),
    ]
    write_page(path, run.scene_name, head + notices, sections)


def _pictures(run: ViewedRun, frame: GeoDataFrame | None) -> str:
    """The whole scene with outlines, and closer where most polygons are."""
    scene = run.scene
    if isinstance(scene, str):
        return f"<p>The scene cannot be shown: {escape(scene)}</p>"
    height, width = run.grid.height, run.grid.width
    windows = [run.grid.extent]
    centre = _densest(run, frame)
    for closer in _CLOSE:
        side = max(64, max(height, width) // closer)
        rows, cols = min(height, side), min(width, side)
        row = min(max(0, int(centre[1]) - rows // 2), height - rows)
        col = min(max(0, int(centre[0]) - cols // 2), width - cols)
        windows.append(Window(row, col, rows, cols))
    figures = []
    for i, window in enumerate(windows):
        rgb = overview_rgb(scene, _PIXELS if i == 0 else _PIXELS // 2, window)
        labels = _labels(run, window, rgb.shape[:2])
        colors = outline_colors(rgb, labels != NODATA, run.mosaic.classes)
        drawn = draw_outlines(rgb, labels, run.mosaic.classes, colors)
        place = "the whole scene"
        if i:
            down, across = (f"{low:,} to {high:,}" for low, high in _ranges(window))
            place = f"rows {down}, columns {across}"
        figures.append(
            f"<figure><img src='{jpeg(drawn)}' alt='The scene with outlines of its classes: {place}'>"
            f"<figcaption>{place}; outlines: {_keys(run, colors)}</figcaption></figure>"
        )
    return f"{figures[0]}<div class=pair>{''.join(figures[1:])}</div>"


def _ranges(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.row_off, window.row_stop), (window.col_off, window.col_stop)


def _densest(run: ViewedRun, frame: GeoDataFrame | None) -> tuple[float, float]:
    """Column and row of the middle of the part (of 8 x 8) that has most polygons."""
    middle = run.grid.width / 2, run.grid.height / 2
    found = run.polygons()
    if frame is None or found is None or not len(frame):
        return middle
    corners = frame.geometry.representative_point()
    xy = np.column_stack([corners.x, corners.y])
    place = run.placement.of_lonlat if found[0].in_degrees and run.placement.on_globe else run.placement.of_crs
    pixels = run.placement.pixels(place(xy))
    pixels = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(pixels):
        return middle
    counts, cols, rows = np.histogram2d(
        pixels[:, 0], pixels[:, 1], bins=8, range=[[0, run.grid.width], [0, run.grid.height]]
    )
    col, row = np.unravel_index(counts.argmax(), counts.shape)
    return float(cols[col : col + 2].mean()), float(rows[row : row + 2].mean())


def _labels(run: ViewedRun, window: Window, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    mosaic = run.mosaic
    wanted = max(1, window.height // shape[0])
    level = max((level for level in (1, *mosaic.levels) if level <= wanted), default=1)
    row, col = window.row_off // level, window.col_off // level
    part = Window(row, col, -(-window.row_stop // level) - row, -(-window.col_stop // level) - col)
    read = mosaic.read_labels(part, level)
    rows = (np.arange(shape[0]) * part.height) // shape[0]
    cols = (np.arange(shape[1]) * part.width) // shape[1]
    return np.asarray(read[rows[:, None], cols])


def _keys(run: ViewedRun, colors: npt.NDArray[np.uint8]) -> str:
    return ", ".join(
        f"<i class=key style='background:#{bytes(colors[i]).hex()}'></i>{escape(info.name)}"
        for i, info in enumerate(run.mosaic.classes)
        if not info.background
    )


def _classes(run: ViewedRun, summary: dict[str, Any], frame: GeoDataFrame | None) -> str:
    pixels = summary["report"].get("pixels", {})
    total = max(1, sum(pixels.values()))
    area = None if frame is None else next((name for name in frame.columns if name.startswith("area_")), None)
    rows = []
    for info in run.mosaic.classes:
        mine = None if frame is None else frame[frame["class_name"] == info.name]
        has = mine is not None and len(mine) > 0
        rows.append(
            [
                f"<i class=key style='background:{info.color}'></i>{escape(info.name)}"
                + (" (background)" if info.background else ""),
                f"{pixels.get(info.name, 0):,}",
                f"{100 * pixels.get(info.name, 0) / total:.1f} %",
                f"{len(mine):,}" if mine is not None and not info.background else _NONE,
                f"{mine[area].sum():,.0f}" if has and area is not None and mine is not None else _NONE,
                f"{mine['mean_probability'].mean():.3f}"
                if has and mine is not None and "mean_probability" in mine
                else _NONE,
            ]
        )
    unit = {"area_m2": "m²", "area_px": "px"}.get(area or "", "")
    return table(["class", "pixels", "share", "polygons", f"their area {unit}", "mean probability"], rows)


def _histograms(frame: GeoDataFrame) -> str:
    charts = []
    for name, title in (("confidence", "confidence"), ("mean_probability", "mean probability")):
        if name in frame and frame[name].notna().any():
            charts.append(_bars(np.histogram(frame[name].dropna(), bins=_BINS, range=(0, 1)), f"polygons by {title}"))
            break
    area = next((name for name in frame.columns if name.startswith("area_")), None)
    if area is not None and (frame[area] > 0).any():
        values = np.log10(frame[area][frame[area] > 0])
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 0.1)
        counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
        unit = {"area_m2": "m²"}.get(area, "pixels")
        charts.append(_bars((counts, 10**edges), f"polygons by area in {unit} (each bar is wider by the same factor)"))
    return f"<div class=charts>{''.join(charts)}</div>"


def _bars(found: tuple[npt.NDArray[Any], npt.NDArray[Any]], title: str) -> str:
    """A histogram: counts and the edges of their bins."""
    counts, edges = found
    width, height, left, top = 440, 190, 52, 24
    step, most = (width - left - 8) / len(counts), max(1, int(counts.max()))
    parts = [f'<text x="{left}" y="14" style="font-weight:600">{escape(title)}</text>']
    for share in (0, 0.5, 1):
        y = top + (1 - share) * (height - top - 22)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 8}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{most * share:,.0f}</text>')
    tall = (counts / most * (height - top - 22)).tolist()
    parts += [
        f'<rect x="{left + i * step + 1:.1f}" y="{height - 22 - size:.1f}" width="{step - 2:.1f}" height="{size:.1f}" '
        'fill="#0b57a4"/>'
        for i, size in enumerate(tall)
    ]
    for i in range(0, len(edges), len(counts) // 4):
        anchor = "end" if i == len(counts) else "middle"
        parts.append(f'<text x="{left + i * step:.1f}" y="{height - 6}" text-anchor="{anchor}">{edges[i]:.3g}</text>')
    box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _exactness(summary: dict[str, Any]) -> str:
    plan = summary.get("plan", {})
    blocks = plan.get("blocks", 0)
    if plan.get("exact"):
        told = "tiles equal the network over the whole scene, so nothing shows where blocks meet"
    else:
        told = f"seams are approximate, tiles are put together by {escape(str(plan.get('stitch', 'blending')))}"
    return (
        f"<p>{blocks:,} block{'s' * (blocks != 1)} of {_sides(plan.get('block'))} pixels, halo "
        f"{', '.join(map(str, plan.get('halo', [])))}: {told}.</p>"
    )


def _sides(size: Any) -> str:
    return " &times; ".join(map(str, size)) if isinstance(size, list) else "?"


def _costs(summary: dict[str, Any]) -> str:
    report = summary["report"]
    seconds = {name: spent for name, spent in report.get("seconds", {}).items() if spent >= 0.01}
    most = max([*seconds.values(), 1e-9])
    rows = [[escape(name), f"{spent:,.1f} s", _bar(spent / most)] for name, spent in seconds.items()]
    gib = 2**30
    told = (
        f"<p>{report.get('wall_seconds', 0):,.0f} s in all, {report.get('megapixels_per_second', 0):g} MPix/s; memory "
        f"{report.get('peak_memory', 0) / gib:.2f} GiB at most, {report.get('projected_memory', 0) / gib:.2f} GiB "
        "projected. Stages of blocks overlap, so they may add up to more.</p>"
    )
    return told + table(["stage", "time", ""], rows)


def _bar(share: float) -> str:
    size = "width=200 height=12"
    return f"<svg {size} aria-hidden=true><rect width='{200 * share:.0f}' height=12 fill='#0b57a4'/></svg>"


def _made(summary: dict[str, Any]) -> str:
    engine, versions = summary.get("engine", {}), summary.get("versions", {})
    facts = {
        "engine": f"{engine.get('name', '')}, {engine.get('precision', '')}",
        "model": f"{summary.get('model', {}).get('name', '')}, SHA-256 {summary.get('model', {}).get('sha256', '')}",
        "scene": str(summary["scene"].get("path", "")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "credits": "; ".join(summary.get("model", {}).get("credits", [])),
    }
    rows = "".join(f"<tr><th scope=row>{n}</th><td class=text>{escape(v)}</td></tr>" for n, v in facts.items() if v)
    return f"<pre>{escape(shlex.join(command_of(summary)))}</pre><table>{rows}</table>"


def command_of(summary: dict[str, Any]) -> list[str]:
    """A command line that makes the same: options that are not the usual ones, as they were resolved."""
    spec = summary["spec"]
    named = spec.get("scene", "")
    command = ["tileseg", "run", *(map(str, named) if isinstance(named, list) else [str(named)])]
    usual = RunSpec.model_construct(scene=Path()).model_dump(mode="json")
    for name, value in spec.items():
        if name in ("scene", "overwrite") or value is None or value == usual.get(name):
            continue
        flag = f"--{'format' if name == 'formats' else name.replace('_', '-')}"
        if value is True:
            command.append(flag)
        elif value is not False:
            command += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return command
