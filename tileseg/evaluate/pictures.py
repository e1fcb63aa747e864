"""A window to look at: the image, the truth, the prediction, and where they differ."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from tileseg.card import ClassInfo
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.scores import Comparison
from tileseg.labels import Labels
from tileseg.window import Window

MISSED, FALSE, CONFUSED = "#2b7de9", "#f08c1e", "#c2317f"
"""Colours of pixels of a class that were given to background, the other way round, and of one class for another."""
CAPTIONS = ("image", "truth", "prediction", "difference")

_SIDE = 288
"""Pixels of a panel's longer side in the report."""
_TINT = 0.55
_QUALITY = 86

Rgb = npt.NDArray[np.uint8]


def panels(pair: Comparison, window: Window, classes: Sequence[ClassInfo]) -> tuple[Rgb, ...]:
    """The four pictures (y, x, 3) of a window. Without an image, labels stand on grey."""
    truth, prediction = pair.truth.read(window), pair.prediction.read(window)
    image = np.full((window.height, window.width, 3), 208, np.uint8) if pair.picture is None else pair.picture(window)
    return (
        image,
        _overlay(image, truth, classes),
        _overlay(image, prediction, classes),
        difference(image, truth, prediction, classes),
    )


def data_uri(picture: Rgb) -> str:
    """A picture in the text of a page, at most 288 pixels wide and high."""
    height, width = picture.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    shown = Image.fromarray(np.ascontiguousarray(picture))
    if factor < 1:
        shown = shown.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BOX)
    text = io.BytesIO()
    shown.save(text, "JPEG", quality=_QUALITY, optimize=True)
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


def _overlay(image: Rgb, labels: Labels, classes: Sequence[ClassInfo]) -> Rgb:
    """Classes that are no background in their colours over the image; white where unknown."""
    colors = np.zeros((256, 3), np.float32)
    strength = np.zeros((256, 1), np.float32)
    for i, info in enumerate(classes):
        colors[i] = _rgb(info.color)
        strength[i] = 0 if info.background else _TINT
    colors[IGNORE], strength[IGNORE] = 250, 1
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    share = np.where(border[..., None] & (strength[labels] > 0), 0.95, strength[labels])
    return np.asarray(image + share * (colors[labels] - image), np.uint8)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
