"""A window to look at: the image, the truth, the prediction, and where they differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tileseg.card import ClassInfo
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.scores import Comparison
from tileseg.labels import Labels
from tileseg.overlay import draw_outlines, outline_colors
from tileseg.window import Window

MISSED, FALSE, CONFUSED = "#2b7de9", "#f08c1e", "#c2317f"
"""Colours of pixels of a class that were given to background, the other way round, and of one class for another."""
CAPTIONS = ("image", "truth", "prediction", "difference")

_SIDE = 288
"""Pixels of a panel's longer side in the report."""
_SEAM = 4
"""Pixels inside an outline that are tinted a little."""
_QUALITY = 86

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Part:
    """A window as it is shown: at most 288 pixels wide and high."""

    image: Rgb
    """(y, x, 3); grey where there is no image."""
    truth: Labels
    prediction: Labels
    difference: Rgb
    """(y, x, 3) from all pixels of the window."""


def read_part(pair: Comparison, window: Window, classes: Sequence[ClassInfo]) -> Part:
    """Read a window of a scene, and reduce it. Raises InputError where a scene cannot be read any more."""
    truth, prediction = pair.truth.read(window), pair.prediction.read(window)
    image = np.full((window.height, window.width, 3), 208, np.uint8) if pair.picture is None else pair.picture(window)
    wrong = difference(image, truth, prediction, classes)
    factor = min(1.0, _SIDE / max(truth.shape))
    reduced = _reduced(image, factor)
    near = np.ix_(
        *(((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(reduced.shape, truth.shape, strict=False))
    )
    return Part(reduced, truth[near], prediction[near], _reduced(wrong, factor))


def colors_over(parts: Sequence[Part], classes: Sequence[ClassInfo]) -> Rgb:
    """The colour (256, 3) of each class's outline, one for all parts."""
    if not parts:
        return np.zeros((256, 3), np.uint8)
    pixels = np.concatenate([part.image.reshape(-1, 3) for part in parts])
    known = np.concatenate([((part.truth != IGNORE) | (part.prediction != IGNORE)).ravel() for part in parts])
    return outline_colors(pixels, known, classes)


def panels(part: Part, classes: Sequence[ClassInfo], colors: Rgb) -> tuple[Rgb, ...]:
    """The four pictures (y, x, 3) of a window, as ``CAPTIONS`` has them."""
    outlined = (_outlined(part.image, labels, classes, colors) for labels in (part.truth, part.prediction))
    return (part.image, *outlined, part.difference)


def data_uri(picture: Rgb) -> str:
    """A picture in the text of a page."""
    text = io.BytesIO()
    # Without optimize: for it, Pillow takes a buffer of a byte a pixel, which noise in full colour does not fit.
    Image.fromarray(np.ascontiguousarray(picture)).save(text, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(text.getvalue()).decode()


def difference(image: Rgb, truth: Labels, prediction: Labels, classes: Sequence[ClassInfo]) -> Rgb:
    """Wrong pixels in colour on a pale image; what is unknown on either side is white."""
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    out = np.repeat(120 + 0.45 * grey, 3, axis=2)
    background = np.zeros(256, bool)
    background[: len(classes)] = [info.background for info in classes]
    wrong = truth != prediction
    none_true, none_predicted = background[truth], background[prediction]
    for mask, color in (
        (wrong & none_predicted, MISSED),
        (wrong & none_true, FALSE),
        (wrong & ~none_true & ~none_predicted, CONFUSED),
    ):
        out[mask] = _rgb(color)
    out[(truth == IGNORE) | (prediction == IGNORE)] = 250
    return out.astype(np.uint8)


def _outlined(image: Rgb, labels: Labels, classes: Sequence[ClassInfo], colors: Rgb) -> Rgb:
    """Outlines of the classes that are no background over the image; white where unknown."""
    drawn = draw_outlines(image, labels, classes, colors, seam=_SEAM)
    drawn[labels == IGNORE] = 250
    return drawn


def _reduced(picture: Rgb, factor: float) -> Rgb:
    if factor == 1:
        return picture
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    shown = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(shown.resize((width, height), Image.Resampling.BOX))


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
