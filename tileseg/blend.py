"""How tiles that overlap are weighted. A new way is a :class:`Blend` and its line in :data:`BLENDS`.

NumPy is imported where it is needed: the command line's help lists the names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXACT = "exact"
"""Tiles do not overlap: each gets the context that it needs, and nothing is weighted."""


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighting of the pixels of a tile along one axis; along two axes, weights are multiplied."""

    name: str
    """As ``--stitch`` takes it."""
    curve: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    """Position in the tile, from 0 (first edge) to 1 (last edge), to its weight: above 0 strictly inside.

    What is given are centres of pixels. Weights need not sum to 1: :meth:`weights` sees to that.
    """

    def weights(self, size: int, step: int) -> npt.NDArray[np.float32]:
        """Weights along one axis of tiles of ``size`` pixels that begin every ``step`` pixels.

        They sum to 1 over all tiles that cover a pixel. Tiles also start before the scene's first pixel, so those of a
        pixel at the border sum to 1 too.
        """
        import numpy as np

        raw = self.curve((np.arange(size) + 0.5) / size)
        total = np.array([raw[phase::step].sum() for phase in range(step)])
        return np.asarray(raw / total[np.arange(size) % step], dtype=np.float32)


def _hann(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A raised cosine: of overlaps of a half, the weights sum to 1 by themselves."""
    import numpy as np

    return np.sin(np.pi * at) ** 2


def _gaussian(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A bell whose standard deviation is an eighth of the tile, as in MONAI and nnU-Net."""
    import numpy as np

    return np.exp(-0.5 * ((at - 0.5) / 0.125) ** 2)


BLENDS: dict[str, Blend] = {
    blend.name: blend
    for blend in (
        Blend("hann", _hann),
        Blend("gaussian", _gaussian),
    )
}
"""All that ``--stitch`` takes beside ``exact``."""


def stitches() -> tuple[str, ...]:
    """What ``--stitch`` takes."""
    return (EXACT, *BLENDS)
