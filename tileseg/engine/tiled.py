"""A network on whole blocks: which tiles it is asked for, how they are put together, and what if memory is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class Cut:
    """One block as batches of tiles. The first is put together when this is made: no device is needed for that."""

    def __init__(
        self,
        inference: InferenceSpec,
        pixels: npt.NDArray[np.generic],
        valid: npt.NDArray[np.bool_],
        core: Window,
    ) -> None:
        """``pixels`` (y, x, band) begin at ``inference.plan.read(core)``; ``valid`` (y, x) is that of the core.

        Tiles without a valid pixel are left out.
        """
        self.inference, self.core = inference, core
        self._pixels, self._valid = pixels, valid
        self._tiles = [tile for tile in inference.plan.tiles(core) if _any_valid(valid, tile, core)]
        self._first: npt.NDArray[np.generic] | None = self._batch(self._tiles[: inference.plan.batch])

    def batches(self) -> Iterator[tuple[list[Window], npt.NDArray[np.generic]]]:
        """Cores of tiles and their pixels (n, y, x, band), as many as the plan's batch at most."""
        size = self.inference.plan.batch
        for start in range(0, len(self._tiles), size):
            part = self._tiles[start : start + size]
            batch = self._batch(part) if start or self._first is None else self._first
            self._first = None
            yield part, batch

    def sized_as(self, inference: InferenceSpec) -> Cut:
        """The same block in tiles of other sizes."""
        return self if inference == self.inference else Cut(inference, self._pixels, self._valid, self.core)

    def _batch(self, tiles: Sequence[Window]) -> npt.NDArray[np.generic]:
        plan = self.inference.plan
        origin = plan.read(self.core)
        return np.stack([_cut(self._pixels, tile.buffer(plan.margin).relative_to(origin)) for tile in tiles])


class Pieces:
    """The logits of a block's tiles. The last ones are put in their places when the whole is asked for."""

    def __init__(self, inference: InferenceSpec, core: Window, notes: tuple[str, ...]) -> None:
        """None yet. ``notes``: what was done to make the block fit the device's memory."""
        self._plan, self._core = inference.plan, core
        self._whole: npt.NDArray[np.floating[Any]] | None = None
        self._last: tuple[list[Window], npt.NDArray[np.floating[Any]]] | None = None
        self.notes = notes

    def place(self) -> npt.NDArray[np.floating[Any]]:
        """Put those that were added in their places."""
        plan, exact = self._plan, self._plan.stitch == "exact"
        if self._whole is None:
            shape = (plan.maps, self._core.height, self._core.width)
            self._whole = np.full(shape, np.nan, np.float16) if exact else np.zeros(shape, np.float32)
        tiles, found = self._last or ([], np.empty(0, np.float16))
        self._last = None
        weight = None if exact else np.multiply.outer(plan.weights(0), plan.weights(1))
        for tile, logits in zip(tiles, found, strict=True):
            overlap = tile.intersection(self._core)
            assert overlap is not None
            source, target = overlap.relative_to(tile).slices, overlap.relative_to(self._core).slices
            if weight is None:
                self._whole[(slice(None), *target)] = logits[(slice(None), *source)]
            else:
                self._whole[(slice(None), *target)] += logits[(slice(None), *source)] * weight[source]
        return self._whole

    def add(self, tiles: list[Window], logits: npt.NDArray[np.floating[Any]]) -> None:
        """Some more, (n, class, y, x). Those before are put in their places."""
        if self._last is not None:
            self.place()
        self._last = (tiles, logits)

    def whole(self) -> Logits:
        """Logits (class, y, x) of the block; they have no meaning in tiles without a valid pixel.

        Where the plan keeps the disagreement of views, its map (standard deviations) comes after those of the classes.
        """
        return self.place().astype(np.float16, copy=False)


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

    def __call__(self, cut: Cut) -> Pieces:
        """The logits of a block, by the device. What is left is to put them together.

        Raises:
            DeviceMemory: If not even the smallest window fits.
            InputError: If the network does not take such windows.
        """
        notes: list[str] = []
        inference = cut.inference
        key = inference.key
        fitting = inference.sized_as(self._fitting[key]) if key in self._fitting else inference
        while True:
            try:
                return self._compute(cut.sized_as(fitting), tuple(notes))
            except Exception as error:
                if not self._network.is_out_of_memory(error):
                    raise
                fitting, done = fitting.smaller(cut.core)
            self._fitting[key] = fitting
            notes.append(f"device out of memory: {done}")

    def _compute(self, cut: Cut, notes: tuple[str, ...]) -> Pieces:
        predictor = self._predictor(cut.inference.predictor)
        pieces = Pieces(cut.inference, cut.core, notes)
        for tiles, batch in cut.batches():
            pieces.add(tiles, predictor(batch))
        return pieces

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
