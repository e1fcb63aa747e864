"""From a batch of tiles to merged logits: views, network, merging, with fixed shapes and compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.errors import InputError, UsageError, first_line
from tileseg.nn.backend import compile as compile_function
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.resample import resample
from tileseg.nn.twin import Precision, inference_twin
from tileseg.tta import Flip, View, alignment, back_margin, view_halo, view_margin

Merge = Literal["logits", "probabilities"]
Pixels = npt.NDArray[np.generic]

LARGEST_HALF = 6e4
"""Finite logits are clipped to it before they become float16, whose largest number is 65504."""
SMALLEST_PROBABILITY = 1e-30
"""Probabilities are not taken to be less before their logarithm."""


class Predictor:
    """Runs one model on tiles of one size; loaded once per worker, and not safe to call from two threads at once."""

    def __init__(  # noqa: PLR0913 - each is one number of the plan, and all are named
        self,
        model: keras.Model,
        card: ModelCard,
        *,
        core: tuple[int, int],
        margin: int,
        batch: int,
        views: tuple[View, ...],
        merge: Merge,
        precision: Precision,
        halo: int | None,
        scaling: Scaling,
        output: Literal["float16", "float32"] = "float16",
    ) -> None:
        """Prepare the functions; they are compiled when first called.

        Args:
            model: The network, as :func:`tileseg.nn.bundle.load_bundle` gives it.
            card: What it expects and gives.
            core: Rows and columns that a tile is asked for: multiples of :func:`tileseg.tta.alignment`.
            margin: Source pixels around the core on all four sides, enough for every view.
            batch: Tiles per call at most; fewer are padded, so that shapes are fixed.
            views: Scales and flips, in the order in which their results are summed.
            merge: What is averaged over views.
            precision: Of the network; normalisation, resampling and sums are float32.
            halo: Context in pixels of each view (a multiple of the stride), or None for what exactness needs.
            scaling: How pixel values become the network's input: with numbers, those of the scene filled in.
            output: Type of the logits that are handed back.

        Raises:
            UsageError: If sizes do not fit the views.
            InputError: If the model does not take such windows.
        """
        if scaling.kind == "scene":
            raise UsageError("the scaling must be resolved to fixed numbers before the network is run")
        scales = tuple(dict.fromkeys(view.scale for view in views))
        align = alignment(card.stride, scales)
        if not views or batch < 1 or min(core) < 1 or any(side % align for side in core):
            raise UsageError(
                f"a core of {core[0]}x{core[1]} with {len(views)} view(s) and batches of {batch} cannot be predicted: "
                f"expected multiples of {align} pixels and at least one view and tile"
            )
        if halo is not None and (halo < 0 or halo % card.stride):
            raise UsageError(f"a halo of {halo} is no multiple of the model's stride {card.stride}")
        self._card, self._core, self._margin, self._batch = card, core, margin, batch
        self._views, self._merge, self._output = views, merge, output
        self._halos = {
            s: (view_halo(card.radius, card.stride, s) if card.local else 0) if halo is None else halo for s in scales
        }
        most = max(view_margin(h, s) for s, h in self._halos.items())
        if margin < most or any(margin % s.denominator for s in scales):
            raise UsageError(f"a margin of {margin} pixels does not do for the views: expected at least {most}")
        self._model, self._precision, self._scaling = model, precision, scaling
        self._alone = len(views) == 1
        self._functions: dict[tuple[Fraction, bool], Callable[[Pixels], Any]] = {}
        for view in views:
            key = (view.scale, view.flip.transpose and core[0] != core[1])
            if key not in self._functions:
                self._functions[key] = self._function_of(*key)
        self._unflip = {view.flip: compile_function(partial(_unflip, view.flip), fused=True) for view in views}
        self._add = {view.flip: compile_function(partial(_add, view.flip), fused=True) for view in views}
        self._finish = compile_function(self._finished, fused=True)

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """(rows, columns, bands) of a tile: its core and the margin around it."""
        return (self._core[0] + 2 * self._margin, self._core[1] + 2 * self._margin, len(self._card.bands))

    @property
    def batch(self) -> int:
        """Tiles per call at most."""
        return self._batch

    def __call__(self, tiles: Pixels) -> npt.NDArray[np.floating[Any]]:
        """Predict ``tiles`` (n, rows, columns, bands), n at most the batch, in the scene's own type.

        Returns:
            Merged logits of the cores, (n, classes, rows, columns). A logit that is not finite stays so; a finite one
            does not become infinite by the float16. Merged probabilities come as their logarithms.
        """
        count = len(tiles)
        if tiles.shape[1:] != self.tile_shape or not 1 <= count <= self._batch:
            raise UsageError(
                f"tiles of shape {tiles.shape} were given: expected 1 to {self._batch} of shape {self.tile_shape}"
            )
        if count < self._batch:
            tiles = np.concatenate([tiles, np.repeat(tiles[-1:], self._batch - count, axis=0)])
        total: Any = None
        for view in self._views:
            key = (view.scale, view.flip.transpose and self._core[0] != self._core[1])
            one = self._functions[key](self._seen(tiles, view))
            if self._alone and view.flip == Flip():
                return to_numpy(one)[:count]
            total = self._unflip[view.flip](one) if total is None else self._add[view.flip](total, one)
        return to_numpy(self._finish(total))[:count]

    def _seen(self, tiles: Pixels, view: View) -> Pixels:
        """The pixels that one view needs, flipped, still in the scene's type."""
        spare = self._margin - view_margin(self._halos[view.scale], view.scale)
        part = tiles[:, spare : tiles.shape[1] - spare, spare : tiles.shape[2] - spare]
        return np.ascontiguousarray(view.flip.forward(part, (1, 2)))

    def _function_of(self, scale: Fraction, swapped: bool) -> Callable[[Any], Any]:
        """Tiles of one scale -> what is summed over views, on the core; or the finished result for a single view."""
        core = self._core[::-1] if swapped else self._core
        halo, bands = self._halos[scale], len(self._card.bands)
        rows, cols = (int(side * scale) + 2 * halo for side in core)
        back = back_margin(scale) if halo >= back_margin(scale) else 0
        spare = int(view_margin(halo, scale) * scale) - halo
        try:
            network = inference_twin(self._model, rows, cols, halo - back, self._precision)
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            reason = first_line(error)
            raise InputError(f"model {self._card.name} does not take windows of {rows}x{cols}: {reason}") from error
        if network.inputs[0].shape[-1] != bands:
            raise InputError(
                f"model {self._card.name} takes {network.inputs[0].shape[-1]} bands, its card says {bands}"
            )
        offset = np.broadcast_to(np.asarray(self._scaling.zero, np.float32), bands)
        gain = (1 / np.broadcast_to(np.asarray(self._scaling.unit, np.float64), bands)).astype(np.float32)
        low, high = np.asarray(self._scaling.limits, np.float32)
        plain = self._alone and self._views[0].flip == Flip()

        def normalise(pixels: Any) -> Any:
            values = keras.ops.cast(pixels, "float32")
            if self._scaling.kind == "window":
                values = keras.ops.minimum(keras.ops.maximum(values, low), high)
            # In this order no compiler can round it in two ways, as it may a product that is added to.
            return (values - offset) * gain

        def infer(images: Any) -> Any:
            if scale != 1:
                images = resample(images, scale)[:, spare : spare + rows, spare : spare + cols]
            found = network(images, training=False)
            if scale == 1:
                return found
            found = self._to_merge(found)
            found = resample(found, 1 / scale)
            extra = int(back / scale)
            return found[:, extra : extra + core[0], extra : extra + core[1]]

        def finish(found: Any) -> Any:
            found = self._to_merge(found) if scale == 1 else found
            return self._finished(found) if plain else found

        first = compile_function(normalise, fused=True)
        middle = compile_function(infer)
        last = compile_function(finish, fused=True)
        return lambda pixels: last(middle(first(pixels)))

    def _to_merge(self, found: Any) -> Any:
        """What the graph gives, as what is summed over views."""
        logits = self.as_logits(found)
        return keras.ops.softmax(logits, axis=-1) if self._merge == "probabilities" and not self._alone else logits

    def as_logits(self, found: Any) -> Any:
        """What the graph gives (n, rows, columns, channels), as one logit per class."""
        ops, activation = keras.ops, self._card.activation
        if activation == "softmax":
            found = ops.log(ops.maximum(found, SMALLEST_PROBABILITY))
        elif activation == "sigmoid":
            # As in Keras's losses: a float32 probability says nothing finer than this.
            found = ops.clip(found, 1e-7, 1 - 1e-7)
            found = ops.log(found) - ops.log(1 - found)
        if self._card.output_channels == 1:
            found = ops.concatenate([ops.zeros_like(found), found], axis=-1)
        return found

    def _finished(self, total: Any) -> Any:
        """The mean over views, channels first, in the type that is handed back."""
        ops = keras.ops
        mean = total if self._alone else total * np.float32(1 / len(self._views))
        if self._merge == "probabilities" and not self._alone:
            mean = ops.log(ops.maximum(mean, SMALLEST_PROBABILITY))
        mean = ops.transpose(mean, (0, 3, 1, 2))
        if self._output == "float32":
            return mean
        half = ops.cast(ops.clip(mean, -LARGEST_HALF, LARGEST_HALF), "float16")
        return ops.where(ops.isfinite(mean), half, ops.cast(mean, "float16"))


def _unflip(flip: Flip, found: Any) -> Any:
    """Undo a flip of (n, rows, columns, channels)."""
    axes = [axis for axis, reversed_ in ((1, flip.rows), (2, flip.cols)) if reversed_]
    found = keras.ops.flip(found, axes) if axes else found
    return keras.ops.transpose(found, (0, 2, 1, 3)) if flip.transpose else found


def _add(flip: Flip, total: Any, found: Any) -> Any:
    return total + _unflip(flip, found)
