"""Show that a model's tiles equal the whole: the halo that its card promises, tried on a random scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tileseg.card import Scaling
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.protocol import Engine, Network, WindowSpec
from tileseg.nn.activation import RandomImages
from tileseg.plan import Precision
from tileseg.tta import View

TOLERANCE = 1e-5
"""Largest difference between tiles and whole, in standard deviations of the logits: rounding, and nothing else."""
TOLERANCES: dict[Precision, float] = {
    "float32": TOLERANCE,
    "int8": 0.0,
    "float16": 32 * 2.0**-10,
    "bfloat16": 32 * 2.0**-7,
}
"""The same by precision: sums of whole numbers are the same in any window; in 16 bits some units of the last place."""
FOLDED_TOLERANCE = 1e-3
"""The same between the whole as a run computes it and the graph as it was trained: other factors, rounded otherwise."""
FAR = 10_500
"""Pixels from a window's first pixel: there, positions that are computed in float32 are rounded visibly."""


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
    folded: float
    """Largest absolute difference that folding batch normalisation into the convolutions makes to a logit.

    For a model that computes in 16 bits, that of computing it in float32 besides.
    """
    folded_tolerance: float
    """What that may be, in standard deviations: more where the model as it was trained computes in 16 bits."""
    far: float
    """Largest absolute difference of a logit between strips that are FAR long and windows at their ends, in deviations
    of the strip's logits."""
    tolerance: float
    """What tiles and ends may differ, in deviations."""

    @property
    def relative(self) -> float:
        """The largest difference in standard deviations."""
        return self.largest / (self.deviation or 1)

    @property
    def holds(self) -> bool:
        """Whether it is rounding only."""
        return (
            self.relative <= self.tolerance
            and self.far <= self.tolerance
            and self.folded <= self.folded_tolerance * (self.deviation or 1)
        )


@runtime_checkable
class Provable(Network, Protocol):
    """A network that gives its map in the plain way too, to be compared with."""

    @property
    def images(self) -> RandomImages:
        """Images as it takes them."""
        ...

    @property
    def plain_tolerance(self) -> float:
        """How far the graph as it was trained may be from float32 because it was in 16 bits, in deviations."""
        ...

    def plain(self, images: npt.NDArray[np.float32], /) -> Any:
        """What the graph gives for whole images (n, rows, columns, bands), as it was trained."""
        ...


def prove(network: Provable, precision: Precision = "float32", *, seed: int = 0) -> Proof:
    """Run the network once on a whole random scene and on its tiles with the card's halo.

    Both are computed as a run computes them, with batch normalisation folded away; the graph as it was trained is
    compared with that apart.

    Raises:
        InputError: If the model does not take windows of such sizes.
    """
    card = network.card
    stride, halo = card.stride, card.halo
    core = (-(-64 // stride) * stride, -(-96 // stride) * stride)
    scene = (2 * core[0] + 2 * (core[0] // 4) + 1, core[1] + 2 * (core[1] // 4) + 1)
    rows, cols = (-(-side // c) * c for side, c in zip(scene, core, strict=True))
    rng = np.random.default_rng(seed)
    # Beyond the scene's odd edges its rows and columns go on as whatever: both sides see the same numbers.
    pixels = network.images.draw(rng, (1, rows + 2 * halo, cols + 2 * halo))
    tiled = Predictor(
        network, PredictorSpec(core, halo, (View(),), Scaling(), precision=precision, halo=halo, output="float32")
    )

    def logits(engine: Engine, margin: int) -> npt.NDArray[np.float32]:
        core = _logits(tiled, network, engine, pixels)[0, margin : margin + scene[0], margin : margin + scene[1]]
        return np.moveaxis(core, -1, 0)

    # As a run computes a single window: cropped to what is wanted, as tiles are, so that engines join the same layers.
    whole = logits(network.engine(WindowSpec(rows + 2 * halo, cols + 2 * halo, halo, 1, precision)), 0)
    trained = logits(network.plain, halo)
    found = np.empty_like(whole)
    for row in range(0, rows, core[0]):
        for col in range(0, cols, core[1]):
            tile = pixels[:, row : row + core[0] + 2 * halo, col : col + core[1] + 2 * halo]
            part = tiled(tile)[0]
            target = found[:, row : row + core[0], col : col + core[1]]
            target[:] = part[:, : target.shape[1], : target.shape[2]]
    largest, folded = (float(np.abs(other - whole).max()) for other in (found, trained))
    far = max(_far(tiled, network, rng, axis, precision) for axis in (0, 1))
    tolerance = max(FOLDED_TOLERANCE, network.plain_tolerance, TOLERANCES[precision])
    return Proof(scene, core, halo, largest, float(whole.std()), folded, tolerance, far, TOLERANCES[precision])


def _logits(
    tiled: Predictor, network: Provable, engine: Engine, images: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """What a tile would be merged from, of whole images."""
    once = network.arrays.compile(lambda image: tiled.as_logits(engine(image)))
    return np.asarray(network.arrays.to_numpy(once(images)), np.float32)


def _far(tiled: Predictor, network: Provable, rng: np.random.Generator, axis: int, precision: Precision) -> float:
    """How far a window at the end of a long strip is from the strip, in standard deviations of its logits.

    The strip is narrow, and the window as wide, so that only the long side lacks its surroundings.
    """
    card = network.card
    window = card.halo + -(-64 // card.stride) * card.stride
    long = -(-(FAR + window) // card.stride) * card.stride
    sides = (2 * card.stride, long) if axis == 1 else (long, 2 * card.stride)
    strip = network.images.draw(rng, (1, *sides))

    def logits(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        engine = network.engine(WindowSpec(images.shape[1], images.shape[2], 0, 1, precision))
        return _logits(tiled, network, engine, images)

    whole = logits(strip)
    end = [slice(None)] * 4
    end[1 + axis] = slice(long - window, None)
    kept = [slice(None)] * 4
    kept[1 + axis] = slice(card.halo, None)
    part = logits(strip[tuple(end)])[tuple(kept)]
    kept[1 + axis] = slice(long - window + card.halo, None)
    return float(np.abs(part - whole[tuple(kept)]).max() / (whole.std() or 1))
