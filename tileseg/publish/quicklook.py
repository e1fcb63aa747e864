"""One picture of a result: the scene, its labels, and both together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tileseg.card import ClassInfo
from tileseg.labels import NODATA
from tileseg.storage.local import until_whole

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (110, 114, 120)
_EMPTY = (224, 224, 224)
_GAP = 16
_SMALLEST_PANEL = 320
"""Pixels: smaller scenes are enlarged to about this width."""
_TINT = 0.45


def write_quicklook(
    path: Path,
    title: str,
    rgb: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    metres_per_pixel: float | None,
) -> None:
    """Write a PNG: scene, labels and overlay side by side, with title, scale bar and legend.

    ``rgb`` (y, x, 3) and ``labels`` (y, x) show the same part of the scene; labels of another size are brought to
    that of ``rgb``. ``metres_per_pixel`` is that of ``rgb``; without it there is no scale bar. Nodata (255) is grey. In
    the overlay, background classes are not tinted, and every other has its border drawn.
    """
    labels = _resize(labels, rgb.shape[:2])
    zoom = max(1, round(_SMALLEST_PANEL / max(rgb.shape[:2])))
    palette = np.full((256, 3), _EMPTY, np.uint8)
    for i, info in enumerate(classes):
        palette[i] = tuple(bytes.fromhex(info.color.removeprefix("#")))
    panels = [
        Image.fromarray(np.ascontiguousarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)))
        for pixels in (rgb, palette[labels], _overlay(rgb, labels, classes, palette))
    ]
    width, height = panels[0].size
    size = int(np.clip(width // 36, 13, 22))
    font, small, large = (_font(s) for s in (size, round(size * 0.9), round(size * 1.5)))
    margin = _GAP + size // 2
    page_width = 3 * width + 2 * _GAP + 2 * margin
    entries = _legend(labels, classes, palette)
    bar = None if metres_per_pixel is None else _scale_bar(width, metres_per_pixel / zoom)
    lines = _wrap(entries, font, width if bar else 0, page_width - 2 * margin)
    top = margin + round(size * 1.5) + size + round(size * 2.2)
    page = Image.new("RGB", (page_width, top + height + _GAP + round(size * 1.9) * len(lines) + margin), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin), _fit(title, large, page_width - 2 * margin), _INK, large)
    for i, (panel, caption) in enumerate(zip(panels, ("scene", "labels", "overlay"), strict=True)):
        left = margin + i * (width + _GAP)
        draw.text((left, top - round(size * 1.6)), caption, _FAINT, font)
        page.paste(panel, (left, top))
    row = top + height + _GAP
    if bar is not None:
        _draw_bar(draw, (margin, row), bar, size, small)
    for i, line in enumerate(lines):
        left = margin + (width + _GAP if bar else 0)
        for text, color in line:
            y = row + round(size * 1.9) * i
            draw.rectangle((left, y + 2, left + size, y + 2 + size), color, _FAINT)
            draw.text((left + round(size * 1.5), y), text, _INK, font)
            left += round(size * 3) + round(font.getlength(text))
    with until_whole(path) as partial:
        page.save(partial, "PNG", compress_level=4)


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


def _overlay(
    rgb: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    palette: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    tinted = np.zeros(256, bool)
    tinted[: len(classes)] = [not info.background for info in classes]
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    strength = np.where(tinted[labels], np.where(border, 0.9, _TINT), 0)[..., None]
    return np.asarray(rgb + strength * (palette[labels].astype(np.float32) - rgb), np.uint8)


def _legend(
    labels: npt.NDArray[np.uint8], classes: Sequence[ClassInfo], palette: npt.NDArray[np.uint8]
) -> list[tuple[str, tuple[int, int, int]]]:
    """The classes that occur, with their share of the data, and nodata if there is any."""
    counts = np.bincount(labels.ravel(), minlength=256)
    total = max(1, int(counts[: len(classes)].sum()))
    found = [
        (f"{info.name}  {_percent(int(counts[i]) / total)}", _rgb(palette[i]))
        for i, info in enumerate(classes)
        if counts[i]
    ]
    return [*found, ("no data", _EMPTY)] if counts[NODATA] else found


def _rgb(color: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in color)
    return red, green, blue


def _percent(share: float) -> str:
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _wrap(
    entries: list[tuple[str, tuple[int, int, int]]], font: ImageFont.FreeTypeFont, used: int, available: int
) -> list[list[tuple[str, tuple[int, int, int]]]]:
    """Break the legend into lines that fit beside the scale bar."""
    room = available - (used + _GAP if used else 0)
    lines: list[list[tuple[str, tuple[int, int, int]]]] = [[]]
    left = 0.0
    for text, color in entries:
        wide = 3 * font.size + font.getlength(text)
        if lines[-1] and left + wide > room:
            lines.append([])
            left = 0.0
        lines[-1].append((text, color))
        left += wide
    return lines


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
