"""Whether a model gives what its card says: logits, or the probabilities of a softmax or a sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import Activation
from tileseg.errors import InputError, TilesegError, first_line

EndingKind = Literal["softmax", "softmax elsewhere", "log_softmax", "sigmoid"]

_PROBABILITY = 1e-3
"""How far a probability may lie beyond 0 or 1, by rounding."""
_SUM = 2e-2
"""How far probabilities of 16 bits may add up to anything but 1."""
_BRIGHT = 1e3
"""Deviation of a random image so bright that logits leave 0 to 1 where they can."""
_SPAN = 0.5
"""How much of 0 to 1 must be taken then, to tell a sigmoid from a network that is nearly constant."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last step of a graph that changes what its output means."""

    title: str
    """Its name and kind."""
    kind: EndingKind | None
    """What it makes of the output, if that is known."""


def contradiction(ending: Ending | None, channels: int, claim: Activation) -> str | None:
    """What the end of the graph says against the card's activation, and what to do; None where they agree.

    Only common layers and operators are understood: see :func:`contradiction_of_outputs` for the rest.
    """
    if ending is None or ending.kind is None:
        return None
    kind = ending.kind
    where = f"its last activation is {kind.removesuffix(' elsewhere')} (layer {ending.title})"
    if kind == "softmax" and channels == 1:
        return f"{where}: of one channel it is always 1; one channel takes a sigmoid, and --activation sigmoid"
    if kind == claim and (kind != "sigmoid" or channels == 1):
        return None
    if kind == "softmax elsewhere":
        return f"{where}, over rows or columns instead of channels; take it over the last axis"
    if kind == "log_softmax":
        return None if claim == "logits" else f"{where}, not {claim}; its logarithms are logits: --activation logits"
    if kind == "sigmoid" and channels > 1:
        return (
            f"{where}, of each of {channels} channels by itself; classes that exclude each other need a softmax, or no "
            "activation and --activation logits"
        )
    return f"{where}, so it gives probabilities, not {claim}; say --activation {kind}"


def contradiction_of_outputs(
    compute: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    images: RandomImages,
    claim: Activation,
    stride: int,
    name: str,
) -> str | None:
    """What a few random images show against the card's activation, and what to do; None where they agree.

    Args:
        compute: Images (n, rows, columns, bands) -> maps (n, rows, columns, channels).
        images: As the model takes them.
        claim: What the card says.
        stride: Windows are multiples of it.
        name: Of the model, for a message.

    Raises:
        InputError: If the model does not take such images.
    """
    rows = -(-32 // stride) * stride
    rng = np.random.default_rng(0)
    shape = (1, rows, rows + stride)
    shown = np.concatenate([images.draw(rng, shape, gain) for gain in (1, 4, _BRIGHT)])
    try:
        *found, bright = np.asarray(compute(shown)).astype(np.float64)
    except TilesegError:
        raise
    except Exception as error:  # layers of all origins raise what they like
        raise InputError(
            f"model {name} does not take images of {rows} x {rows + stride}: {first_line(error)}"
        ) from error
    if np.isnan(found).all():
        return "it gives nothing but NaN for random images, so its weights are no numbers"
    low, high, channels = np.min(found), np.max(found), bright.shape[-1]
    total = np.sum(found, axis=-1)
    within = low >= -_PROBABILITY and high <= 1 + _PROBABILITY
    adds_up = np.abs(total - 1).max() <= _SUM
    if claim == "logits":
        if channels > 1 and within and adds_up:
            return "its channels always add up to 1: probabilities, not logits; say --activation softmax"
        if within and bright.min() >= -_PROBABILITY and bright.max() <= 1 + _PROBABILITY and np.ptp(bright) > _SPAN:
            whose = "it gives" if channels == 1 else f"each of its {channels} channels gives"
            remedy = "say --activation sigmoid" if channels == 1 else "let the model end before they are computed"
            return f"{whose} 0 to 1 however bright an image is: probabilities of a sigmoid, not logits; {remedy}"
        return None
    if not within:
        return f"it gives {low:.3g} to {high:.3g} for random images: no probabilities; say --activation logits"
    if claim == "softmax" and not adds_up:
        return (
            f"its channels add up to {total.min():.3g} to {total.max():.3g} for random images, where a softmax over "
            "classes gives 1"
        )
    return None


@dataclass(frozen=True, slots=True)
class RandomImages:
    """Draws images as a model takes them."""

    bands: int
    whole_numbers: bool = False
    """Where it takes integers they are bytes, as float32, which is how a run hands them over."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int, int], gain: float = 1.0) -> npt.NDArray[np.float32]:
        """Images (n, rows, columns, bands), for ``shape`` (n, rows, columns): mean 0 and deviation ``gain``."""
        if self.whole_numbers:
            return rng.integers(0, 128, (*shape, self.bands)).astype(np.float32)
        return (gain * rng.normal(size=(*shape, self.bands))).astype(np.float32)
