"""Show that a model's tiles equal the whole: the halo that its card promises, tried on a random scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.card import ModelCard, Scaling
from tileseg.nn.predictor import Predictor
from tileseg.tta import View

TOLERANCE = 1e-5
"""Largest difference between tiles and whole, in standard deviations of the logits: rounding, and nothing else."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far tiles were from the whole."""

    scene: tuple[int, int]
    """Rows and columns of the random scene; odd."""
    tile: tuple[int, int]
    """Rows and columns of a tile's core."""
    halo: int
    """Pixels of context around each core."""
    largest: float
    """Largest absolute difference of a logit."""
    deviation: float
    """Standard deviation of the whole scene's logits."""

    @property
    def relative(self) -> float:
        """The largest difference in standard deviations."""
        return self.largest / self.deviation if self.deviation else self.largest

    @property
    def holds(self) -> bool:
        """Whether it is rounding only."""
        return self.relative <= TOLERANCE


def prove(model: keras.Model, card: ModelCard, *, seed: int = 0) -> Proof:
    """Run the network once on a whole random scene and on its tiles with the card's halo, in float32.

    Raises:
        InputError: If the model does not take windows of such sizes.
    """
    stride, halo = card.stride, card.halo
    core = (-(-64 // stride) * stride, -(-96 // stride) * stride)
    scene = (2 * core[0] + 2 * (core[0] // 4) + 1, core[1] + 2 * (core[1] // 4) + 1)
    rows, cols = (-(-side // c) * c for side, c in zip(scene, core, strict=True))
    rng = np.random.default_rng(seed)
    # Beyond the scene's odd edges its rows and columns go on as whatever: both sides see the same numbers.
    pixels = rng.normal(size=(1, rows + 2 * halo, cols + 2 * halo, len(card.bands))).astype(np.float32)
    tiled = Predictor(
        model, card, core=core, margin=halo, batch=1, views=(View(),), merge="logits", precision="float32",
        halo=halo, scaling=Scaling(), output="float32",
    )  # fmt: skip
    whole = to_numpy(tiled.as_logits(model(pixels, training=False)))[0]
    whole = np.moveaxis(whole[halo : halo + scene[0], halo : halo + scene[1]], -1, 0)
    found = np.empty_like(whole)
    for row in range(0, rows, core[0]):
        for col in range(0, cols, core[1]):
            tile = pixels[:, row : row + core[0] + 2 * halo, col : col + core[1] + 2 * halo]
            part = tiled(tile)[0]
            target = found[:, row : row + core[0], col : col + core[1]]
            target[:] = part[:, : target.shape[1], : target.shape[2]]
    return Proof(scene, core, halo, float(np.abs(found - whole).max()), float(whole.std()))
