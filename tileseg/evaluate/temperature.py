"""One temperature for a model, so that the probabilities that it gives out mean what they say.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017: logits are divided by one number before the softmax.
No label changes, and with one number to find, pixels of a few places do. Every place counts alike, and the error that
is told of a place is with the temperature of the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, PlaceCalibration, Temperature
from tileseg.errors import InputError, UsageError
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.meaning import Meaning
from tileseg.evaluate.pairing import MappedChances
from tileseg.evaluate.scores import Comparison, LabelReader
from tileseg.grid import Grid
from tileseg.labels import Labels, Logits, decide, probabilities
from tileseg.nn.folder import EMBEDDED, load_card, save_card
from tileseg.window import Window, tile

PIXELS = 200_000
"""Looked at in a place at most, on a lattice over its scenes."""
_VALUES = 4_000_000
"""Logits that are kept of a place at most: fewer pixels where there are many classes."""
_RANGE = (0.05, 20.0)
"""Temperatures that are looked among."""
_BLOCK = 1024


class LogitReader(Protocol):
    """The logits of a scene, as a mosaic keeps them."""

    def read_logits(self, window: Window) -> Logits:
        """(class, y, x); NaN where nothing was computed."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A scene that a model has seen, and its true labels."""

    place: str
    grid: Grid
    logits: LogitReader
    truth: LabelReader
    """By the model's own class ids."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Pixels of a place whose class is known."""

    place: str
    logits: Logits
    """(class, pixels)."""
    truth: Labels
    """(pixels,)."""

    def loss(self, temperature: float) -> float:
        """Mean negative logarithm of the true class's probability."""
        from scipy.special import logsumexp

        scaled = self.logits.astype(np.float64) / temperature
        return float(np.mean(logsumexp(scaled, axis=0) - np.take_along_axis(scaled, self.truth[None], 0)[0]))

    def error(self, temperature: float) -> float:
        """Expected calibration error."""
        logits, truth = self.logits[:, None], self.truth[None]
        known: npt.NDArray[np.bool_] = np.ones(truth.shape, np.bool_)
        found = Calibration.empty(len(logits))
        found.add(truth, decide(logits, known)[0], probabilities(logits, temperature))
        return float(found.expected_error[0])


def check_calibration(folder: Path, card: ModelCard, meaning: Meaning, name: str) -> None:
    """Raise UsageError where a model cannot be calibrated, before anything is run.

    Args:
        folder: The model's.
        card: What it gives.
        meaning: How its classes and those of a dataset go together.
        name: What the user called it.
    """
    if name == EMBEDDED:
        raise UsageError(f"--calibrate writes into the model's card; copy {folder} and calibrate that")
    own = [info.name for info in card.classes]
    same = all(meaning.prediction.get(str(i)) == i for i in range(len(own)))
    if len(meaning.classes) != len(own) or not same:
        raise UsageError(
            f"--calibrate: the dataset's classes are {', '.join(info.name for info in meaning.classes)}, the model's "
            f"{', '.join(own)}; expected the same in the same order, without --map"
        )
    if not os.access(folder / "card.json", os.W_OK):
        raise UsageError(f"--calibrate: {folder / 'card.json'} cannot be written; copy the model and calibrate that")


def set_temperature(folder: Path, pairs: Sequence[Comparison]) -> Temperature:
    """Find the temperature for a model on its runs, and write it into its card. Raises InputError."""
    judged = [
        Judged(pair.place or pair.name, pair.grid, pair.chances.mosaic, pair.truth)
        for pair in pairs
        if isinstance(pair.chances, MappedChances)
    ]
    found = calibrate(judged, str(folder))
    # Read anew: runs may have taken hours.
    save_card(load_card(folder).model_copy(update={"temperature": found}), folder)
    return found


def calibrate(scenes: Iterable[Judged], model: str) -> Temperature:
    """The temperature for a model, and what it does in each place when it is found on the others.

    Raises InputError where no pixel has both a true class and logits.
    """
    samples = sample(list(scenes))
    if not samples:
        raise InputError(
            f"{model}: no pixel has both a true class and a prediction, so there is nothing to calibrate on"
        )
    places = []
    for one in samples:
        others = [other for other in samples if other is not one]
        places.append(
            PlaceCalibration(
                place=one.place,
                count=len(one.truth),
                ece_before=round(one.error(1.0), 5),
                ece_after=round(one.error(best_temperature(others or samples)), 5),
            )
        )
    return Temperature(
        value=round(best_temperature(samples), 4),
        data=f"{sum(len(one.truth) for one in samples):,} pixels of {', '.join(one.place for one in samples)}",
        places=tuple(places),
    )


def best_temperature(samples: Sequence[Sample]) -> float:
    """That with which the mean over places of their loss is least."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return sum(one.loss(math.exp(logarithm)) for one in samples) / len(samples)

    # The loss is convex in the inverse of the temperature, so there is one least one in its logarithm too.
    low, high = (math.log(bound) for bound in _RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def sample(scenes: Sequence[Judged]) -> list[Sample]:
    """Pixels of each place, on a lattice that has about as many in each; places without a known pixel are left out."""
    found = []
    for place in dict.fromkeys(scene.place for scene in scenes):
        here = [scene for scene in scenes if scene.place == place]
        parts = [part for scene in here for part in _of_scene(scene, _step(here))]
        if parts:
            logits, truth = (np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True))
            found.append(Sample(place, logits, truth))
    return found


def _step(scenes: Sequence[Judged]) -> int:
    """Pixels from one that is looked at to the next, along rows and columns."""
    classes = len(scenes[0].logits.read_logits(Window(0, 0, 1, 1)))
    most = min(PIXELS, _VALUES // classes)
    total = sum(scene.grid.height * scene.grid.width for scene in scenes)
    return max(1, math.ceil(math.sqrt(total / most)))


def _of_scene(scene: Judged, step: int) -> Iterator[tuple[Logits, Labels]]:
    """(class, pixels) logits and (pixels,) true labels of a scene, block by block."""
    for window in tile(scene.grid.extent, _BLOCK, _BLOCK):
        chosen = np.s_[-window.row_off % step :: step, -window.col_off % step :: step]
        truth = scene.truth.read(window)[chosen]
        logits = scene.logits.read_logits(window)[(slice(None), *chosen)]
        known = (truth != IGNORE) & np.isfinite(logits).all(axis=0)
        if known.any():
            yield logits[:, known], truth[known]
