"""Labels over a picture: as outlines in colours that the picture has not, so that what lies under them is seen.

A tint hides what it lies on, and a red one over red roofs even hides which of them were missed. Distances between
colours are those of CIE 1976 L*a*b*, the least for full sight, protanopia and deuteranopia (Machado, Oliveira and
Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency", table for severity 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tileseg.card import ClassInfo

Rgb = npt.NDArray[np.uint8]
"""(..., 3): red, green, blue."""

DISTINCT = 40.0
"""Distance in L*a*b* from which on a thin line is easily told from what is beside it."""

_CANDIDATES = np.array(
    [
        (255, 225, 0), (0, 229, 255), (40, 60, 255), (255, 0, 200),
        (255, 255, 255), (255, 120, 0), (90, 255, 90), (0, 0, 0),
    ],
    np.uint8,
)  # fmt: skip
"""Yellow, cyan, blue, magenta, white, orange, green, black: what outlines are drawn in, by how well they are seen on
imagery from above."""

_SIGHTS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
"""Of linear red, green and blue: what is seen with full sight, protanopia, deuteranopia."""

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _TO_XYZ.sum(axis=1)
_SAMPLE = 4000
"""Pixels of a picture that its colours are known from."""
_SEAM = 0.35
_FEW = 5
"""Percent of the pixels that may be more like a colour than its distance says."""


def outline_colors(picture: Rgb, known: npt.NDArray[np.bool_], classes: Sequence[ClassInfo]) -> Rgb:
    """The colour (256, 3) of each class's outline over a picture (y, x, 3), or over pixels (n, 3) of several.

    ``known`` (y, x) or (n,) says where there is data.

    Each class that is no background keeps its own colour if that is easily told from the picture and from the classes
    before it; else it gets the first of eight that is, or the one that is told best. The same picture and classes give
    the same colours, and pictures of one archive mostly do.
    """
    colors = np.zeros((256, 3), np.uint8)
    pixels = picture[known] if known.any() else picture.reshape(-1, 3)
    pixels = pixels[:: -(-len(pixels) // _SAMPLE)]
    chosen = np.empty((0, 3), np.uint8)
    from_picture = np.percentile(_distances(_CANDIDATES, pixels), _FEW, axis=1)
    for i, info in enumerate(classes):
        if info.background:
            continue
        own = color_of(info)
        if len(chosen) >= len(_CANDIDATES):  # more than can be told apart anyway
            colors[i] = own
            continue
        least = min(float(np.percentile(_distances(own[None], pixels), _FEW)), _nearest(own[None], chosen)[0])
        others = np.minimum(from_picture, _nearest(_CANDIDATES, chosen))
        colors[i] = own if least >= DISTINCT else _CANDIDATES[np.argmax(np.minimum(others, DISTINCT))]
        chosen = np.concatenate([chosen, colors[i][None]])
    return colors


def draw_outlines(
    picture: Rgb, labels: npt.NDArray[np.uint8], classes: Sequence[ClassInfo], colors: Rgb, *, seam: int = 0
) -> Rgb:
    """The borders of labels (y, x) over a picture (y, x, 3): two pixels wide, one on either side, and no tint.

    Between two classes that are no background, each has its own side. Along the picture's edge there is no border.
    ``seam``: pixels along a line's inner side that are tinted a little, so that a part of a border has its sides told.
    """
    drawn = np.zeros(256, bool)
    drawn[: len(classes)] = [not info.background for info in classes]
    height, width = labels.shape
    out = picture.copy()
    padded = np.pad(labels, 1, mode="edge")
    inside, outside = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    owner = np.zeros(labels.shape, np.uint8)
    for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside = padded[row : row + height, col : col + width]
        border = beside != labels
        inside |= border & drawn[labels]
        over = border & drawn[beside] & ~drawn[labels]
        owner[over] = beside[over]
        outside |= over
    near = inside
    for _ in range(seam):
        near = near | _grown(near)
    near &= drawn[labels]
    out[near] = (1 - _SEAM) * out[near] + _SEAM * colors[labels[near]]
    out[outside] = colors[owner[outside]]
    out[inside] = colors[labels[inside]]
    return out


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What is above, below, left or right of a mask (y, x)."""
    grown = np.zeros_like(mask)
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def color_of(info: ClassInfo) -> Rgb:
    """A class's own colour (3,)."""
    return np.frombuffer(bytes.fromhex(info.color.removeprefix("#")), np.uint8)


def _distances(first: Rgb, second: Rgb) -> npt.NDArray[np.float64]:
    """(n, m) between colours (n, 3) and (m, 3): the least that any sight tells."""
    a, b = _lab(first), _lab(second)
    return np.asarray(np.sqrt(((a[:, :, None] - b[:, None]) ** 2).sum(axis=-1)).min(axis=0))


def _nearest(colors: Rgb, chosen: Rgb) -> npt.NDArray[np.float64]:
    """(n,) the distance of colours (n, 3) to the nearest of others."""
    return np.asarray(_distances(colors, chosen).min(axis=1, initial=np.inf))


def _lab(colors: Rgb) -> npt.NDArray[np.float64]:
    """L*a*b* (sight, n, 3) of sRGB colours (n, 3)."""
    encoded = colors / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ _SIGHTS.transpose(0, 2, 1), 0, 1) @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
