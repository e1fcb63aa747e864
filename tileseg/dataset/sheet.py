"""A contact sheet: parts of each scene, and the same with its labels' outlines over it. Wrong labels show at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tileseg.card import ClassInfo
from tileseg.dataset.facts import DatasetReport
from tileseg.dataset.labelled import LabelledScene, Pixels
from tileseg.dataset.patches import count_cells
from tileseg.dataset.spec import IGNORE
from tileseg.overlay import draw_outlines, outline_colors
from tileseg.storage.local import until_whole
from tileseg.window import Window

_PAPER, _INK, _FAINT, _DARK = (255, 255, 255), (32, 33, 36), (110, 114, 120), (70, 72, 76)
_SIDE = 288
"""Pixels: side of a part."""
_GAP, _MARGIN, _CAPTION = 12, 24, 22
_MOST_PARTS = 36
_SEAM = 4
"""Pixels inside an outline that are tinted a little."""
_ACROSS = 4
"""Parts, each image and overlay, side by side."""


def write_sheet(path: Path, report: DatasetReport) -> None:
    """Write a PNG: of each scene its most mixed parts, as image and with labels over it; of many scenes, some.

    Parts are at the dataset's ground sample distance, one pixel per pixel. Classes that are no background have their
    outlines drawn in a colour that the images have not; hatched is where no class is known.
    """
    chosen = _some(report.scenes, _MOST_PARTS)
    each = max(1, min(4, _MOST_PARTS // 2 // max(1, len(chosen))))
    parts = [(scene, window) for scene in chosen for window in _mixed_windows(scene, each)]
    across = min(_ACROSS, len(parts))
    across = each if each > 1 else max(1, across)
    cell = 2 * _SIDE + 4
    width = max(2 * _MARGIN + across * cell + (across - 1) * _GAP, 760)
    top = _MARGIN + 64
    rows = -(-len(parts) // across)
    page = Image.new("RGB", (width, top + rows * (_SIDE + _CAPTION + _GAP) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    bold, small = _font(20), _font(13)
    count = len(report.scenes)
    shown = "" if len(chosen) == count else f", {len(chosen)} of them shown"
    draw.text((_MARGIN, _MARGIN), f"{report.path.name}: {count} scene{'s' * (count != 1)}{shown}", _INK, bold)
    read = [scene.read(window) for scene, window in parts]
    pictures = [visible(pixels, labels != IGNORE) for pixels, labels in read]
    colors = _colors(pictures, [labels for _, labels in read], report.classes)
    _draw_legend(draw, (_MARGIN, _MARGIN + 36), colors, report, small)
    for i, ((scene, window), picture) in enumerate(zip(parts, pictures, strict=True)):
        left = _MARGIN + i % across * (cell + _GAP)
        row = top + i // across * (_SIDE + _CAPTION + _GAP)
        caption = f"{scene.name} ({scene.split})  row {window.row_off}, column {window.col_off}"
        draw.text((left, row), _fit(caption, small, cell), _FAINT, small)
        for k, panel in enumerate((picture, overlay(picture, read[i][1], report.classes, colors))):
            page.paste(Image.fromarray(panel), (left + k * (_SIDE + 4), row + _CAPTION))
    with until_whole(path) as partial:
        page.save(partial, "PNG", compress_level=4)


def visible(pixels: Pixels, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pixels (y, x, band) as a picture (y, x, 3): 8 bit as they are, others from their 2nd to 98th percentile.

    The first three bands, or the first one as grey. ``known`` (y, x) says which pixels decide the stretch.
    """
    shown = pixels[..., [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]]
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    picture = np.zeros(shown.shape, np.uint8)
    decides = known if known.any() else np.ones_like(known)
    for band in range(3):
        values = shown[..., band].astype(np.float32)
        low, high = np.percentile(values[decides], [2, 98])
        picture[..., band] = np.clip((values - low) * (255 / max(float(high - low), 1e-12)), 0, 255)
    return picture


def overlay(
    picture: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    classes: Sequence[ClassInfo],
    colors: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Outlines of labels (y, x) drawn over a picture (y, x, 3), in the colours (256, 3) of classes."""
    drawn = draw_outlines(picture, labels, classes, colors, seam=_SEAM)
    rows, cols = np.indices(labels.shape)
    unknown = labels == IGNORE
    drawn[unknown] = 0.6 * drawn[unknown] + 0.4 * 255
    drawn[unknown & ((rows + cols) % 9 < 2)] = _FAINT
    return drawn


def _colors(
    pictures: Sequence[npt.NDArray[np.uint8]], labels: Sequence[npt.NDArray[np.uint8]], classes: Sequence[ClassInfo]
) -> npt.NDArray[np.uint8]:
    """The colour (256, 3) of each class's outline, one for all parts."""
    if not pictures:
        return np.zeros((256, 3), np.uint8)
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
    return outline_colors(pixels, np.concatenate([part.ravel() != IGNORE for part in labels]), classes)


def _some(scenes: Sequence[LabelledScene], most: int) -> list[LabelledScene]:
    """At most ``most`` scenes, evenly spread."""
    if len(scenes) <= most:
        return list(scenes)
    return [scenes[int((i + 0.5) * len(scenes) / most)] for i in range(most)]


def _mixed_windows(scene: LabelledScene, count: int) -> list[Window]:
    """Windows with the most different labels, apart from each other; fewer where the scene is small."""
    height, width = (min(_SIDE, length) for length in (scene.grid.height, scene.grid.width))
    counts = count_cells([scene], len(scene.classes), _SIDE).counts[0].astype(np.float64)
    shares = counts / (height * width)
    mixed = np.where(shares > 0, -shares * np.log(np.maximum(shares, 1e-12)), 0).sum(axis=2) + 0.01 * shares.sum(axis=2)
    order = np.argsort(-mixed, axis=None, kind="stable")[:count]
    found = []
    for row, col in zip(*np.unravel_index(order, mixed.shape), strict=True):
        top = min(int(row) * _SIDE, scene.grid.height - height)
        left = min(int(col) * _SIDE, scene.grid.width - width)
        found.append(Window(top, left, height, width))
    return found


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: the same on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is for every given size
    return font


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while font.getlength(text) > width and len(text) > 8:
        text = text[: math.floor(0.9 * len(text))]
    return text


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    colors: npt.NDArray[np.uint8],
    report: DatasetReport,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Each class with its share of the training scenes; background, which has no outline, as an empty box."""
    left, top = at
    for info, color, share in zip(report.classes, colors.tolist(), report.shares("train"), strict=False):
        draw.rectangle((left, top + 1, left + 13, top + 14), _PAPER if info.background else _DARK, _FAINT)
        if not info.background:
            draw.rectangle((left + 2, top + 3, left + 11, top + 12), None, tuple(color), 2)
        text = f"{info.name}  {100 * share:.1f} %"
        draw.text((left + 20, top), text, _INK, font)
        left += 44 + round(font.getlength(text))
    draw.text((left, top), "hatched: class not known", _FAINT, font)
