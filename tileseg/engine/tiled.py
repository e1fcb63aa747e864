"""A network on whole blocks: which tiles it is asked for, how they are put together, and what if memory is short."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.card import Scaling
from tileseg.engine.predictor import Merge, Predictor, PredictorSpec
from tileseg.engine.protocol import Network
from tileseg.errors import TilesegError
from tileseg.labels import Logits
from tileseg.plan import Plan
from tileseg.window import Window


class DeviceMemory(TilesegError):
    """Not even the smallest window fits the device's memory."""


@dataclass(frozen=True, slots=True)
class InferenceSpec:
    """How a run asks its network for blocks: with the network, everything that the logits of given pixels depend on."""

    plan: Plan
    scaling: Scaling
    """The card's scaling, with the scene's own statistics where the card wants them."""
    merge: Merge

    @property
    def predictor(self) -> PredictorSpec:
        """What the predictor of a tile is made for."""
        plan = self.plan
        exact = plan.stitch == "exact"
        return PredictorSpec(
            core=plan.tile, margin=plan.margin, views=plan.views, scaling=self.scaling, batch=plan.batch,
            merge=self.merge, precision=plan.precision, halo=plan.halo if exact else 0,
            output="float16" if exact else "float32", disagreement=plan.disagreement,
        )  # fmt: skip

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two runs whose blocks need tiles of the same sizes and the same compiled functions."""
        return self.predictor, self.plan.step, self.plan.stitch

    def smaller(self, core: Window) -> tuple[InferenceSpec, str]:
        """A specification with half the batch, or else half the tile; and what was done.

        Smaller tiles change nothing only where seams are exact: others keep their size, as a block's logits must not
        depend on the device that computed it. Raises DeviceMemory.
        """
        plan = self.plan
        if plan.batch > 1:
            return self._with(batch=plan.batch // 2), f"batch {plan.batch} -> {plan.batch // 2}"
        height, width = (max(plan.align, -(-side // (2 * plan.align)) * plan.align) for side in plan.tile)
        if not plan.exact or (height, width) == plan.tile:
            why = "" if plan.exact else " (windows keep their size where seams are approximate)"
            raise DeviceMemory(
                f"block at {core}: the device's memory does not hold one window of {plan.tile[0]}x{plan.tile[1]}{why}; "
                "lower --window or --scales, or free the device"
            )
        done = f"window {plan.tile[0]}x{plan.tile[1]} -> {height}x{width}"
        return self._with(tile=(height, width), step=(height, width)), done

    def sized_as(self, other: InferenceSpec) -> InferenceSpec:
        """This specification with the tile, step and batch of another."""
        return self._with(tile=other.plan.tile, step=other.plan.step, batch=other.plan.batch)

    def _with(self, **sizes: Any) -> InferenceSpec:
        return replace(self, plan=replace(self.plan, **sizes))


class TiledNetwork:
    """Gives the logits of blocks, and keeps for the next what is compiled and how small it must be to fit.

    Not safe to call from two threads at once.
    """

    def __init__(self, network: Network) -> None:
        """Take a network, which is asked for an engine when the first block comes."""
        self._network = network
        self._fitting: dict[tuple[object, ...], InferenceSpec] = {}
        """Key of what was asked for -> what the device's memory holds of it, where that is less."""
        self._kept: tuple[PredictorSpec, Predictor] | None = None

    def __call__(
        self, inference: InferenceSpec, pixels: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], core: Window
    ) -> tuple[Logits, tuple[str, ...]]:
        """Logits (class, y, x) of a block, and what was done to make it fit the device's memory.

        Where the plan keeps the disagreement of views, its map (standard deviations) comes after those of the classes.

        ``pixels`` (y, x, band) begin at ``inference.plan.read(core)``; ``valid`` (y, x) is that of the core. Tiles
        without a valid pixel are not computed, so that logits have no meaning where ``valid`` is False.

        Raises:
            DeviceMemory: If not even the smallest window fits.
            InputError: If the network does not take such windows.
        """
        notes: list[str] = []
        key = inference.key
        fitting = inference.sized_as(self._fitting[key]) if key in self._fitting else inference
        while True:
            try:
                return self._logits(fitting, pixels, valid, core), tuple(notes)
            except Exception as error:
                if not self._network.is_out_of_memory(error):
                    raise
                fitting, done = fitting.smaller(core)
            self._fitting[key] = fitting
            notes.append(f"device out of memory: {done}")

    def _logits(
        self, inference: InferenceSpec, pixels: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], core: Window
    ) -> Logits:
        plan, predictor = inference.plan, self._predictor(inference.predictor)
        origin = plan.read(core)
        tiles = [tile for tile in plan.tiles(core) if _any_valid(valid, tile, core)]
        shape = (plan.maps, core.height, core.width)
        exact = plan.stitch == "exact"
        whole = np.full(shape, np.nan, np.float16) if exact else np.zeros(shape, np.float32)
        weight = None if exact else np.multiply.outer(plan.weights(0), plan.weights(1))
        for start in range(0, len(tiles), plan.batch):
            part = tiles[start : start + plan.batch]
            batch = np.stack([_cut(pixels, tile.buffer(plan.margin).relative_to(origin)) for tile in part])
            for tile, logits in zip(part, predictor(batch), strict=True):
                overlap = tile.intersection(core)
                assert overlap is not None
                source, target = overlap.relative_to(tile).slices, overlap.relative_to(core).slices
                if weight is None:
                    whole[(slice(None), *target)] = logits[(slice(None), *source)]
                else:
                    whole[(slice(None), *target)] += logits[(slice(None), *source)] * weight[source]
        return whole.astype(np.float16, copy=False)

    def _predictor(self, spec: PredictorSpec) -> Predictor:
        """The one for these sizes: one at a time, as each holds the network's weights in its precision."""
        if self._kept is None or self._kept[0] != spec:
            self._kept = None  # goes before the next is made
            self._kept = (spec, Predictor(self._network, spec))
        return self._kept[1]


def _any_valid(valid: npt.NDArray[np.bool_], tile: Window, core: Window) -> bool:
    overlap = tile.intersection(core)
    return overlap is not None and bool(valid[overlap.relative_to(core).slices].any())


def _cut(pixels: npt.NDArray[np.generic], window: Window) -> npt.NDArray[np.generic]:
    """The pixels of a tile.

    After tiles were halved, the last ones may reach past what was read: past the block, and further from its core
    than the network sees.
    """
    rows, cols = window.slices
    part = pixels[rows, cols]
    lack = (window.height - part.shape[0], window.width - part.shape[1])
    return np.pad(part, ((0, lack[0]), (0, lack[1]), (0, 0)), mode="edge") if any(lack) else part
