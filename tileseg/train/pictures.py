"""Pictures of a training: its curves, and examples of what it finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tileseg.card import ClassInfo
from tileseg.evaluate.confusion import IGNORE
from tileseg.labels import Labels
from tileseg.storage.local import until_whole
from tileseg.train.journal import STEPS, VALIDATIONS, read_columns

_PAPER, _INK, _FAINT, _GRID = (255, 255, 255), (32, 33, 36), (110, 114, 120), (228, 230, 234)
_LOSS, _PALE = (31, 119, 180), (190, 212, 232)
_UNKNOWN = (160, 160, 160)
_WIDE, _HIGH, _MARGIN = 620, 360, 56
_GAP = 6

Image8 = npt.NDArray[np.uint8]


def write_curves(path: Path, folder: Path, classes: Sequence[ClassInfo]) -> None:
    """Draw a journal's loss and scores as a PNG."""
    steps, losses = read_columns(folder / STEPS, "step", "loss")
    names = [f"iou_{info.name}" for info in classes]
    at, *scores = read_columns(folder / VALIDATIONS, "step", *names)
    if not steps:
        return
    page = Image.new("RGB", (2 * _WIDE, _HIGH), _PAPER)
    draw = ImageDraw.Draw(page)
    known = [loss for loss in losses if math.isfinite(loss)]
    top = _rounded_up(max(float(np.percentile(known, 99)) if known else 1.0, 1e-6))
    left = _Axes(draw, 0, steps[-1], top, "training loss")
    left.line(steps, losses, _PALE, 1)
    left.line(*_smoothed(steps, losses), _LOSS, 2)
    right = _Axes(draw, _WIDE, steps[-1], 1.0, "validation IoU")
    for i, (info, column) in enumerate(zip(classes, scores, strict=True)):
        color = _dark_enough(info.color)
        right.line(at, column, color, 2)
        last = next((value for value in reversed(column) if not math.isnan(value)), math.nan)
        if not math.isnan(last) and i < 14:
            draw.text((_WIDE + _MARGIN + 10, 34 + 18 * i), f"{info.name}  {last:.3f}", color, _font(13))
    _save(page, path)


def write_panel(
    path: Path, images: npt.NDArray[np.float32], truth: Labels, found: Labels, classes: Sequence[ClassInfo]
) -> None:
    """Draw examples below each other: image, truth, prediction.

    Args:
        path: PNG.
        images: (n, y, x, band); the first three bands (or the first alone) are stretched to what the eye sees.
        truth: (n, y, x); what is not known is grey.
        found: (n, y, x).
        classes: Their colours.
    """
    palette = np.full((256, 3), _UNKNOWN, np.uint8)
    for i, info in enumerate(classes):
        palette[i] = tuple(bytes.fromhex(info.color.removeprefix("#")))
    count, height, width = truth.shape
    title = 22
    page = Image.new("RGB", (3 * width + 2 * _GAP, title + count * (height + _GAP)), _PAPER)
    draw = ImageDraw.Draw(page)
    for column, caption in enumerate(("image", "truth", "prediction")):
        draw.text((column * (width + _GAP) + 2, 3), caption, _FAINT, _font(13))
    for row in range(count):
        shown = np.where(truth[row] == IGNORE, np.uint8(IGNORE), found[row])
        for column, pixels in enumerate((_visible(images[row]), palette[truth[row]], palette[shown])):
            page.paste(Image.fromarray(pixels), (column * (width + _GAP), title + row * (height + _GAP)))
    _save(page, path)


class _Axes:
    """One plot: from 0 to the last step, from 0 to ``top``."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: int, last: float, top: float, title: str) -> None:
        self._draw, self._last, self._top = draw, max(last, 1.0), top
        self._left, self._right = left + _MARGIN, left + _WIDE - 16
        self._upper, self._lower = 28, _HIGH - 40
        draw.text((self._left, 6), title, _INK, _font(15))
        for i in range(6):
            value = top * i / 5
            y = self._y(value)
            draw.line((self._left, y, self._right, y), _GRID)
            draw.text((self._left - 44, y - 8), f"{value:.3g}", _FAINT, _font(12))
            x = self._x(self._last * i / 5)
            draw.text((x - 10, self._lower + 8), f"{self._last * i / 5:.0f}", _FAINT, _font(12))
        draw.text((self._right - 30, self._lower + 23), "step", _FAINT, _font(12))

    def _x(self, step: float) -> float:
        return self._left + (self._right - self._left) * step / self._last

    def _y(self, value: float) -> float:
        return self._lower - (self._lower - self._upper) * min(value, self._top) / self._top

    def line(self, steps: Sequence[float], values: Sequence[float], color: tuple[int, int, int], width: int) -> None:
        """A curve; NaN leaves it out."""
        points = [(self._x(x), self._y(value)) for x, value in zip(steps, values, strict=True) if math.isfinite(value)]
        if len(points) > 1:
            self._draw.line(points, color, width, joint="curve")
        for x, y in points if len(points) <= 40 else ():
            self._draw.ellipse((x - 2, y - 2, x + 2, y + 2), color)


def _rounded_up(value: float) -> float:
    """To a number whose fifths are short to write."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.5, 2, 2.5, 5, 10) if step * unit >= value * 0.999)


def _smoothed(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of a fortieth of all steps each."""
    size = max(1, len(values) // 40)
    groups = range(0, len(values) - size + 1, size)
    return (
        [float(np.mean(steps[i : i + size])) for i in groups],
        [float(np.mean(values[i : i + size])) for i in groups],
    )


def _visible(image: npt.NDArray[np.float32]) -> Image8:
    rgb = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    low, high = np.percentile(rgb, (1, 99))
    return np.asarray(np.clip((rgb - low) / max(float(high - low), 1e-6) * 255, 0, 255), np.uint8)


def _dark_enough(color: str) -> tuple[int, int, int]:
    """A class's colour, darkened until it shows on paper."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    brightness = (299 * red + 587 * green + 114 * blue) / 1000
    share = min(1.0, 150 / brightness) if brightness else 1.0
    return round(red * share), round(green * share), round(blue * share)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is for every given size
    return font


def _save(page: Image.Image, path: Path) -> None:
    with until_whole(path) as partial:
        page.save(partial, "PNG", compress_level=4)
