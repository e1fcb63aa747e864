"""Get a worker's process ready before its first block."""

from __future__ import annotations

import numpy as np

from tileseg.labels import halve
from tileseg.polygons.trace import warm_up as warm_up_trace


def warm_up() -> None:
    """Compile what a block needs besides the network, or load it from Numba's cache."""
    halve(np.zeros((2, 3), np.uint8))
    warm_up_trace()
