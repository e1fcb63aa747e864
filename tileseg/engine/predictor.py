"""From a batch of tiles to merged logits: views, network, merging, with fixed shapes and compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from tileseg.card import Scaling
from tileseg.engine.protocol import Ends, Engine, Network, TakesPixels, WindowSpec
from tileseg.errors import UsageError
from tileseg.plan import Precision
from tileseg.tta import Flip, View, alignment, back_margin, view_halo, view_margin

Merge = Literal["logits", "probabilities"]
Pixels = npt.NDArray[np.generic]

LARGEST_HALF = 6e4
"""Finite logits are clipped to it before they become float16, whose largest number is 65504."""
SMALLEST_PROBABILITY = 1e-30
"""Probabilities are not taken to be less before their logarithm."""


@dataclass(frozen=True, slots=True)
class PredictorSpec:
    """Sizes and options of a predictor: with the network, all that its compiled functions depend on."""

    core: tuple[int, int]
    """Rows and columns that a tile is asked for: multiples of :func:`tileseg.tta.alignment`."""
    margin: int
    """Source pixels around the core on all four sides, enough for every view."""
    views: tuple[View, ...]
    """Scales and flips, in the order in which their results are summed."""
    scaling: Scaling
    """How pixel values become the network's input: with numbers, those of the scene filled in."""
    batch: int = 1
    """Tiles per call at most; fewer are padded, so that shapes are fixed."""
    merge: Merge = "logits"
    """What is averaged over views."""
    precision: Precision = "float32"
    """Precision of the network; normalisation, resampling and sums are float32."""
    halo: int | None = None
    """Context in pixels of each view (a multiple of the stride), or None for what exactness needs."""
    output: Literal["float16", "float32"] = "float16"
    """Type of the logits that are returned."""
    disagreement: bool = False
    """Whether the standard deviation of probabilities over views comes with the logits; there must be several views."""


class Predictor:
    """Runs one network on tiles of one size; loaded once per worker, and not safe to call from two threads at once."""

    def __init__(self, network: Network, spec: PredictorSpec) -> None:
        """Prepare the functions; they are compiled when first called.

        Raises:
            UsageError: If sizes do not fit the views.
            InputError: If the model does not take such windows.
        """
        card, core, views = network.card, spec.core, spec.views
        if spec.scaling.kind == "scene":
            raise UsageError("the scaling must be resolved to fixed numbers before the network is run")
        scales = tuple(dict.fromkeys(view.scale for view in views))
        align = alignment(card.stride, scales)
        if not views or spec.batch < 1 or min(core) < 1 or any(side % align for side in core):
            raise UsageError(
                f"a core of {core[0]}x{core[1]} with {len(views)} view(s) and batches of {spec.batch} cannot be "
                f"predicted: expected multiples of {align} pixels and at least one view and tile"
            )
        if spec.disagreement and len(views) == 1:
            raise UsageError("one view has none to disagree with")
        halo = spec.halo
        if halo is not None and (halo < 0 or halo % card.stride):
            raise UsageError(f"a halo of {halo} is no multiple of the model's stride {card.stride}")
        self._network, self._spec, self._arrays, self._ops = network, spec, network.arrays, network.arrays.ops
        self._halos = {
            s: (view_halo(card.radius, card.stride, s) if card.local else 0) if halo is None else halo for s in scales
        }
        most = max(view_margin(h, s) for s, h in self._halos.items())
        if spec.margin < most or any(spec.margin % s.denominator for s in scales):
            raise UsageError(f"a margin of {spec.margin} pixels does not do for the views: expected at least {most}")
        self._alone = len(views) == 1
        self._functions: dict[tuple[Fraction, bool], Callable[[Pixels], Any]] = {}
        for view in views:
            key = self._key(view)
            if key not in self._functions:
                self._functions[key] = self._function_of(*key)
        compiled = partial(self._arrays.compile, fused=True)
        self._unflip = {view.flip: compiled(partial(self._unflipped, view.flip)) for view in views}
        self._add = {view.flip: compiled(partial(self._added, view.flip)) for view in views}
        self._average = compiled(self._averaged)

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """(rows, columns, bands) of a tile: its core and the margin around it."""
        core, margin = self._spec.core, self._spec.margin
        return (core[0] + 2 * margin, core[1] + 2 * margin, len(self._network.card.bands))

    def __call__(self, tiles: Pixels) -> npt.NDArray[np.floating[Any]]:
        """Predict ``tiles`` (n, rows, columns, bands), n at most the batch, in the scene's own type.

        Returns:
            Merged logits of the cores, (n, classes, rows, columns). A logit that is not finite stays so; a finite one
            does not become infinite by the float16. Merged probabilities come as their logarithms. With
            ``disagreement``, a map more at the end: the root of half the sum over classes of the variances of their
            probabilities over views. Of two classes that is the standard deviation of either.
        """
        count, batch = len(tiles), self._spec.batch
        if tiles.shape[1:] != self.tile_shape or not 1 <= count <= batch:
            raise UsageError(
                f"tiles of shape {tiles.shape} were given: expected 1 to {batch} of shape {self.tile_shape}"
            )
        if count < batch:
            tiles = np.concatenate([tiles, np.repeat(tiles[-1:], batch - count, axis=0)])
        total: Any = None
        for view in self._spec.views:
            one = self._functions[self._key(view)](self._seen(tiles, view))
            if self._alone and view.flip == Flip():
                return self._to_host(one, count)
            total = self._unflip[view.flip](one) if total is None else self._add[view.flip](total, one)
        return self._to_host(self._average(total), count)

    def _to_host(self, found: Any, count: int) -> npt.NDArray[np.floating[Any]]:
        return cast("npt.NDArray[np.floating[Any]]", self._arrays.to_numpy(found)[:count])

    def _key(self, view: View) -> tuple[Fraction, bool]:
        """Views of the same scale share a function, but where rows and columns of a core that is no square swap."""
        return view.scale, view.flip.transpose and self._spec.core[0] != self._spec.core[1]

    def _seen(self, tiles: Pixels, view: View) -> Pixels:
        """The pixels that one view needs, flipped, still in the scene's type."""
        spare = self._spec.margin - view_margin(self._halos[view.scale], view.scale)
        part = tiles[:, spare : tiles.shape[1] - spare, spare : tiles.shape[2] - spare]
        return np.ascontiguousarray(view.flip.forward(part, (1, 2)))

    def _function_of(self, scale: Fraction, swapped: bool) -> Callable[[Any], Any]:
        """Tiles of one scale -> what is summed over views, on the core; or the result itself for a single view."""
        spec, arrays, ops = self._spec, self._arrays, self._ops
        core = spec.core[::-1] if swapped else spec.core
        halo, bands = self._halos[scale], len(self._network.card.bands)
        rows, cols = (int(side * scale) + 2 * halo for side in core)
        back = back_margin(scale) if halo >= back_margin(scale) else 0
        spare = int(view_margin(halo, scale) * scale) - halo
        window = WindowSpec(rows, cols, halo - back, spec.batch, spec.precision)
        offset = np.broadcast_to(np.asarray(spec.scaling.zero, np.float32), bands)
        gain = (1 / np.broadcast_to(np.asarray(spec.scaling.unit, np.float64), bands)).astype(np.float32)
        low, high = np.asarray(spec.scaling.limits, np.float32)
        plain = self._alone and spec.views[0].flip == Flip()

        def normalise(pixels: Any) -> Any:
            values = ops.cast(pixels, "float32")
            if spec.scaling.kind == "window":
                values = ops.minimum(ops.maximum(values, low), high)
            # In this order no compiler can round it in two ways, as it may a product that is added to.
            return (values - offset) * gain

        def infer(images: Any) -> Any:
            if scale != 1:
                images = arrays.resample(images, scale)[:, spare : spare + rows, spare : spare + cols]
            found = engine(images)
            if scale == 1:
                return found
            found = self._to_merge(found)
            found = arrays.resample(found, 1 / scale)
            extra = int(back / scale)
            return found[:, extra : extra + core[0], extra : extra + core[1]]

        def result(found: Any) -> Any:
            found = self._to_merge(found) if scale == 1 else found
            return self._averaged(found) if plain else self._to_sum(found)

        last = arrays.compile(result, fused=True)
        if scale == 1 and isinstance(self._network, TakesPixels):
            card = self._network.card
            kept = plain and spec.output == "float16" and card.activation == "logits" and card.output_channels > 1
            from_pixels = self._from_pixels(self._network, window, kept=kept)
            return from_pixels if kept else lambda pixels: last(from_pixels(pixels))
        engine = self._network.engine(window)
        first: dict[str, Callable[[Any], Any]] = {}
        middle = arrays.compile(infer)

        def from_tiles(pixels: Any) -> Any:
            name = pixels.dtype.name
            if name not in first:  # scenes of another type may follow, and what is compiled is so for one
                first[name] = arrays.compile(normalise, fused=True)
            return last(middle(first[name](pixels)))

        return from_tiles

    def _from_pixels(self, network: TakesPixels, window: WindowSpec, *, kept: bool) -> Callable[[Any], Any]:
        """Pixels as they are -> maps, or what is kept of a single view, by the engine for the pixels' type."""
        made: dict[str, Engine] = {}

        def infer(pixels: Any) -> Any:
            name = pixels.dtype.name
            if name not in made:
                made.clear()  # one at a time, as each holds the network's weights
                made[name] = network.pixel_engine(window, Ends(name, self._spec.scaling, kept))
            return made[name](pixels)

        return infer

    def _to_merge(self, found: Any) -> Any:
        """What the graph gives, as what is summed over views."""
        logits = self.as_logits(found)
        mean_of_probabilities = self._spec.merge == "probabilities" and not self._alone
        return self._ops.softmax(logits, axis=-1) if mean_of_probabilities else logits

    def _to_sum(self, found: Any) -> Any:
        """What is merged; for disagreement also the probabilities of classes, and the sum of their squares."""
        if not self._spec.disagreement:
            return found
        ops, parts = self._ops, [found]
        chances = found
        if self._spec.merge == "logits":
            chances = ops.softmax(found, axis=-1)
            parts.append(chances)
        return ops.concatenate([*parts, ops.sum(chances * chances, axis=-1, keepdims=True)], axis=-1)

    def _spread(self, mean: Any) -> Any:
        """The disagreement (n, rows, columns, 1) of the means over views of what :meth:`_to_sum` gives.

        Where all views say the same, differences of rounded numbers leave at most 5e-4.
        """
        ops, classes = self._ops, len(self._network.card.classes)
        chances, squares = mean[..., -1 - classes : -1], mean[..., -1:]
        variance = (squares - ops.sum(chances * chances, axis=-1, keepdims=True)) * np.float32(0.5)
        return ops.sqrt(ops.maximum(variance, np.float32(0)))

    def as_logits(self, found: Any) -> Any:
        """What the graph gives (n, rows, columns, channels), as one logit per class."""
        ops, card = self._ops, self._network.card
        if card.activation == "softmax":
            found = ops.log(ops.maximum(found, SMALLEST_PROBABILITY))
        elif card.activation == "sigmoid":
            # As in Keras's losses: a float32 probability says nothing finer than this.
            found = ops.clip(found, 1e-7, 1 - 1e-7)
            found = ops.log(found) - ops.log(1 - found)
        if card.output_channels == 1:
            found = ops.concatenate([ops.zeros_like(found), found], axis=-1)
        return found

    def _averaged(self, total: Any) -> Any:
        """The mean over views, channels first, in the type that is returned."""
        ops, spec = self._ops, self._spec
        mean = total if self._alone else total * np.float32(1 / len(spec.views))
        spread = [self._spread(mean)] if spec.disagreement else []
        mean = mean[..., : len(self._network.card.classes)] if spread else mean
        if spec.merge == "probabilities" and not self._alone:
            mean = ops.log(ops.maximum(mean, SMALLEST_PROBABILITY))
        mean = ops.transpose(ops.concatenate([mean, *spread], axis=-1) if spread else mean, (0, 3, 1, 2))
        if spec.output == "float32":
            return mean
        half = ops.cast(ops.clip(mean, -LARGEST_HALF, LARGEST_HALF), "float16")
        return ops.where(ops.isfinite(mean), half, ops.cast(mean, "float16"))

    def _unflipped(self, flip: Flip, found: Any) -> Any:
        """Undo a flip of (n, rows, columns, channels)."""
        for axis, reversed_ in ((1, flip.rows), (2, flip.cols)):
            found = self._ops.flip(found, axis) if reversed_ else found
        return self._ops.transpose(found, (0, 2, 1, 3)) if flip.transpose else found

    def _added(self, flip: Flip, total: Any, found: Any) -> Any:
        return total + self._unflipped(flip, found)
