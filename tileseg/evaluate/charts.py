"""Charts of the report, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np

from tileseg.card import ClassInfo
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import Matrix, Scores

_INK, _FAINT, _LINE, _PAPER = "#22272e", "#6a737d", "#d0d7de", "#ffffff"
_RIGHT, _WRONG = (47, 129, 77), (201, 72, 54)

Anchor = Literal["start", "middle", "end"]


def bars(classes: Sequence[ClassInfo], series: dict[str, Scores]) -> str:
    """Horizontal bars from 0 to 1: one group per class, one bar per score."""
    row, gap, left, width = 18, 12, 210, 420
    height = 28 + len(classes) * (row * len(series) + gap)
    parts = []
    for i in range(6):
        x = left + width * i / 5
        parts.append(_line(x, 0, x, height - 22))
        parts.append(_text(x, height - 7, f"{i / 5:g}", "tiny"))
    y = 4.0
    for i, info in enumerate(classes):
        middle = y + row * len(series) / 2 + 4
        parts.append(_text(left - 106, middle, _shortened(info.name, 14), "name", "end"))
        for k, (name, values) in enumerate(series.items()):
            value = float(values[i])
            size = 0 if math.isnan(value) else width * min(1.0, max(0.0, value))
            parts.append(_text(left - 6, y + 13, name, "small", "end"))
            parts.append(_box(left, y + 2, size, row - 4, info.color, opacity=1 - 0.45 * k))
            parts.append(_text(left + size + 6, y + 13, _number(value), "value", "start"))
            y += row
        y += gap
    return _svg(left + width + 60, height, parts, "scores by class")


def confusion_chart(classes: Sequence[ClassInfo], matrix: Matrix) -> str:
    """The confusion matrix: each row's shares as shades, with the pixels below."""
    side = 92 if len(classes) <= 4 else 70 if len(classes) <= 8 else 54
    left, top, count = 130, 60, len(classes)
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    parts = [
        _text(left + side * count / 2, 16, "predicted", "small"),
        _text(14, top + side * count / 2, "true", "small", upright=True),
    ]
    for i, info in enumerate(classes):
        middle = (i + 0.5) * side
        parts.append(_text(left + middle, top - 10, _shortened(info.name, 12), "name"))
        parts.append(_text(left - 8, top + middle + 4, _shortened(info.name, 12), "name", "end"))
        for j in range(count):
            share = float(shares[i, j])
            x, y = left + j * side, top + i * side
            fill = ",".join(str(round(255 + share * (c - 255))) for c in (_RIGHT if i == j else _WRONG))
            ink = _PAPER if share > 0.55 else _INK
            parts.append(_box(x, y, side, side, f"rgb({fill})", stroke=_LINE))
            said = f"{share:.1%}" if total[i, 0] else "none"
            parts.append(_text(x + side / 2, y + side / 2, said, "cell", ink=ink))
            parts.append(_text(x + side / 2, y + side / 2 + 15, short_count(int(matrix[i, j])), "tiny", ink=ink))
    return _svg(left + side * count + 10, top + side * count + 10, parts, "confusion matrix")


def reliability(found: Calibration, row: int, title: str, color: str) -> str:
    """Share of pixels that are of the class against their mean probability, and how many pixels each bin has."""
    left, top, side, below = 46, 26, 240, 54
    probability, right = found.diagram
    counts, bins = found.counts[row], found.counts.shape[1]
    parts = [
        _text(left, 15, f"{title}: ECE {_number(float(found.expected_error[row]))}", "name", "start"),
        _box(left, top, side, side, _PAPER, stroke=_LINE),
        _line(left, top + side, left + side, top, dashed=True),
    ]
    points = [
        (left + side * float(probability[row, i]), top + side * (1 - float(right[row, i])))
        for i in range(bins)
        if counts[i]
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points]
    # Counts span orders of magnitude, so their bars are logarithmic.
    tallest = math.log10(max(10, int(counts.max())))
    for i in range(bins):
        size = 32 * math.log10(max(1, int(counts[i]))) / tallest
        parts.append(_box(left + side * i / bins + 1, top + side + below - size, side / bins - 2, size, _LINE))
    for i in range(5):
        parts.append(_text(left - 6, top + side * (1 - i / 4) + 4, f"{i / 4:g}", "tiny", "end"))
        parts.append(_text(left + side * i / 4, top + side + 13, f"{i / 4:g}", "tiny"))
    parts.append(_text(12, top + side / 2, "share that is right", "small", upright=True))
    label = "probability; below: pixels (logarithmic)"
    parts.append(_text(left + side / 2, top + side + below + 16, label, "small"))
    return _svg(left + side + 16, top + side + below + 24, parts, f"reliability of {title}")


def short_count(value: int) -> str:
    """1,234 as ``1.23k``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(
    x: float, y: float, text: str, kind: str, anchor: Anchor = "middle", *, ink: str = "", upright: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
    fill = f' style="fill:{ink}"' if ink else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{fill}{turn}>{escape(text)}</text>'


def _box(
    x: float, y: float, width: float, height: float, fill: str, *, stroke: str = "none", opacity: float = 1
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" stroke="{stroke}" '
        f'fill-opacity="{opacity:.2f}"/>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, *, dashed: bool = False) -> str:
    dash = f' stroke="{_FAINT}" stroke-dasharray="4 4"' if dashed else f' stroke="{_LINE}"'
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"{dash}/>'


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
