"""One picture of a result: what was found, as outlines over the scene, beside the bare scene and the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tileseg.card import ClassInfo
from tileseg.labels import NODATA
from tileseg.overlay import color_of, draw_outlines, outline_colors
from tileseg.storage.local import until_whole

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (110, 114, 120)
_EMPTY, _DARK = (224, 224, 224), (70, 72, 76)
_GAP = 16
_SMALLEST_PANEL = 640
"""Pixels: smaller scenes are enlarged to about this length."""
_NARROWEST = 560
"""Pixels: width of a page that leaves room for title and legend."""
_LONG = 2
"""Scenes that are longer by this factor are shown three times in their full size, side by side."""

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the legend."""

    text: str
    fill: Color
    """Colour of its labels."""
    line: Color | None = None
    """Colour of its outlines, if it has any."""


def write_quicklook(
    path: Path,
    title: str,
    rgb: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    metres_per_pixel: float | None,
) -> None:
    """Write a PNG: the scene with outlines, large; scene and labels, small; with title, scale bar and legend.

    ``rgb`` (y, x, 3) and ``labels`` (y, x) show the same part of the scene; labels of another size are brought to
    that of ``rgb``. ``metres_per_pixel`` is that of ``rgb``; without it there is no scale bar. Nodata (255) is grey.
    Background classes have no outline, the others one of a colour that the scene has not. Scenes more than twice as
    long as wide are shown in their full size three times.
    """
    labels = _resize(labels, rgb.shape[:2])
    lines = outline_colors(rgb, labels != NODATA, classes)
    zoom = max(1, round(_SMALLEST_PANEL / max(rgb.shape[:2])))
    rgb, labels = (pixels.repeat(zoom, axis=0).repeat(zoom, axis=1) for pixels in (rgb, labels))
    palette = np.full((256, 3), _EMPTY, np.uint8)
    for i, info in enumerate(classes):
        palette[i] = color_of(info)
    panels = [
        Image.fromarray(np.ascontiguousarray(pixels))
        for pixels in (draw_outlines(rgb, labels, classes, lines), rgb, palette[labels])
    ]
    width, height = panels[0].size
    size = int(np.clip(max(width, height) // 42, 15, 22))
    caption = round(size * 1.6)
    places, (right, bottom) = _arranged(width, height, caption)
    font, small, large = (_font(s) for s in (size, round(size * 0.9), round(size * 1.5)))
    margin = _GAP + size // 2
    page_width = max(_NARROWEST, right + 2 * margin)
    entries = _legend(labels, classes, palette, lines)
    bar = None if metres_per_pixel is None else _scale_bar(max(width, 240), metres_per_pixel / zoom)
    used = 0 if bar is None else bar[0] + size + round(small.getlength(bar[1])) + 2 * _GAP
    rows = _wrap(entries, font, page_width - 2 * margin - used)
    top = margin + round(size * 2.4)
    page = Image.new("RGB", (page_width, top + bottom + _GAP + round(size * 1.9) * len(rows) + margin), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin), _fit(title, large, page_width - 2 * margin), _INK, large)
    for panel, name, place in zip(panels, ("outlines", "scene", "labels"), places, strict=True):
        left, above = margin + place[0], top + place[1]
        draw.text((left, above - caption), name, _FAINT, font)
        reduced = panel if place[2] == panel.size else panel.resize(place[2], _RESAMPLING[name])
        page.paste(reduced, (left, above))
    below = top + bottom + _GAP
    if bar is not None:
        _draw_bar(draw, (margin, below), bar, size, small)
    for i, row in enumerate(rows):
        left = margin + used
        for entry in row:
            left = _draw_entry(draw, (left, below + round(size * 1.9) * i), entry, size, font)
    with until_whole(path) as partial:
        page.save(partial, "PNG", compress_level=4)


_RESAMPLING = {
    "outlines": Image.Resampling.BOX, "scene": Image.Resampling.BOX, "labels": Image.Resampling.NEAREST,
}  # fmt: skip


def _arranged(width: int, height: int, caption: int) -> tuple[list[tuple[int, int, tuple[int, int]]], tuple[int, int]]:
    """Where three panels stand (left, top, size), and the size of the whole; ``caption``: height of a line above one.

    The first keeps its size; the others stand beside it, half as large, one above the other.
    """
    whole = (width, height)
    first = (0, caption, whole)
    if height > _LONG * width:
        step = max(width + _GAP, (_NARROWEST - width) // 3)  # so that there is room for captions
        places = [first, (step, caption, whole), (2 * step, caption, whole)]
    elif width > _LONG * height:
        step = height + _GAP + caption
        places = [first, (0, caption + step, whole), (0, caption + 2 * step, whole)]
    else:
        # So high that both, and what stands above the second, are as high as the first.
        low = max(1, (height - _GAP - caption) // 2)
        half = (max(1, round(width * low / height)), low)
        left = width + _GAP
        places = [first, (left, caption, half), (left, caption + height - low, half)]
    return places, (max(x + size[0] for x, _, size in places), max(y + size[1] for _, y, size in places))


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: the same on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is for every given size
    return font


def _resize(labels: npt.NDArray[np.uint8], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The label at the centre of each pixel of another size."""
    rows, cols = (
        ((np.arange(n) + 0.5) * have / n).astype(np.int64) for n, have in zip(shape, labels.shape, strict=True)
    )
    return np.asarray(labels[rows[:, None], cols], np.uint8)


def _legend(
    labels: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    palette: npt.NDArray[np.uint8],
    lines: npt.NDArray[np.uint8],
) -> list[Entry]:
    """The classes that occur, with their share of the data, and nodata if there is any."""
    counts = np.bincount(labels.ravel(), minlength=256)
    total = max(1, int(counts[: len(classes)].sum()))
    found = [
        Entry(
            f"{info.name}  {_percent(int(counts[i]) / total)}",
            _color(palette[i]),
            None if info.background else _color(lines[i]),
        )
        for i, info in enumerate(classes)
        if counts[i]
    ]
    return [*found, Entry("no data", _EMPTY)] if counts[NODATA] else found


def _color(color: npt.NDArray[np.uint8]) -> Color:
    red, green, blue = (int(c) for c in color)
    return red, green, blue


def _percent(share: float) -> str:
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _wide(entry: Entry, font: ImageFont.FreeTypeFont) -> int:
    """Pixels that an entry of the legend takes, and the space after it."""
    boxes = 1 if entry.line is None else 2
    return round(font.getlength(entry.text) + (1.2 * boxes + 1.6) * font.size)


def _wrap(entries: list[Entry], font: ImageFont.FreeTypeFont, room: int) -> list[list[Entry]]:
    """Break the legend into lines that fit."""
    lines: list[list[Entry]] = [[]]
    left = 0
    for entry in entries:
        wide = _wide(entry, font)
        if lines[-1] and left + wide > room:
            lines.append([])
            left = 0
        lines[-1].append(entry)
        left += wide
    return lines


def _draw_entry(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], entry: Entry, size: int, font: ImageFont.FreeTypeFont
) -> int:
    """Draw a line of the legend: the outline's colour on grey, that of the labels, the name. Returns where it ends."""
    left, top = at
    if entry.line is not None:
        draw.rectangle((left, top + 2, left + size, top + 2 + size), _DARK)
        draw.rectangle((left + 3, top + 5, left + size - 3, top + size - 1), None, entry.line, 2)
        left += round(1.2 * size)
    draw.rectangle((left, top + 2, left + size, top + 2 + size), entry.fill, _FAINT)
    draw.text((left + round(size * 1.4), top), entry.text, _INK, font)
    return at[0] + _wide(entry, font)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, shortened in the middle if it is too long."""
    line = " ".join(text.split())
    keep = len(line)
    while keep > 8 and font.getlength(line) > width:
        keep -= 4
        line = f"{text[: keep // 2]} ... {text[-keep // 2 :]}"
    return line


def _scale_bar(width: int, metres: float) -> tuple[int, str]:
    """The longest of 1, 2 or 5 x 10^n metres that fits two fifths of a panel: its pixels, and what it says."""
    most = 0.4 * width * metres
    unit = 10 ** math.floor(math.log10(most))
    length = next(step * unit for step in (5, 2, 1) if step * unit <= most)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m" if length >= 1 else f"{length * 100:g} cm"
    return max(1, round(length / metres)), text


def _draw_bar(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], bar: tuple[int, str], size: int, font: ImageFont.FreeTypeFont
) -> None:
    pixels, text = bar
    left, middle = at[0], at[1] + size // 2 + 2
    draw.rectangle((left, middle - 2, left + pixels, middle + 1), _INK)
    for end in (left, left + pixels):
        draw.rectangle((end - 1, middle - size // 2, end + 1, middle + size // 2), _INK)
    draw.text((left + pixels + size // 2 + 2, at[1] + 1), text, _INK, font)
