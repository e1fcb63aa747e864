"""Borders of masks: the band inside them, and the pixels on them.

The edge of the scene and the edge of what is unknown are no borders: where such an object ends is not known. So a
window's answers equal the whole scene's, if it is read with enough pixels around it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]


def band(mask: Mask, width: int) -> Mask:
    """Pixels of a mask (y, x) that lie within ``width`` pixels of its border, diagonals counting as 1.

    What the boundary IoU compares (Cheng et al., Boundary IoU, CVPR 2021), except that the edge of the array is no
    border. Exact where ``width`` pixels around are known.
    """
    inner = ndimage.minimum_filter(mask.view(np.uint8), size=2 * width + 1, mode="nearest")
    return np.asarray(mask & ~inner.view(np.bool_))


def contour(mask: Mask) -> Mask:
    """Pixels of a mask (y, x) with a pixel outside it above, below, left or right. Exact with 1 pixel around."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner
