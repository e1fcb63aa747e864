"""From pixel values to what is augmented (0 to 1) and what the network sees, and the same as a card's scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.dataset.statistics import DatasetStatistics
from tileseg.train.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(value - low) / reach`` lies between 0 and 1; that, less ``mean`` and over ``std``, is the network's input."""

    low: float
    reach: float
    clipped: bool
    """Whether values beyond are brought to 0 or 1, as a window of values does."""
    mean: tuple[float, ...]
    """Per band, of 0 to 1."""
    std: tuple[float, ...]

    def to_unit(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Pixels of the dataset's type (..., band) as float32, about 0 to 1."""
        unit = (pixels.astype(np.float32) - np.float32(self.low)) * np.float32(1 / self.reach)
        return np.clip(unit, 0, 1, out=unit) if self.clipped else unit

    @property
    def scaling(self) -> Scaling:
        """For the card: what ``tileseg run`` does to pixels."""
        if self.clipped:
            return Scaling(
                kind="window", center=self.low + self.reach / 2, width=self.reach, mean=self.mean, std=self.std
            )
        return Scaling(divisor=self.reach, mean=self.mean, std=self.std)


def normalisation_of(spec: TrainSpec, dtype: str, statistics: DatasetStatistics) -> Normalisation:
    """How the values of a dataset are scaled; ``dtype`` is that of its pixels.

    ``statistics`` are those of its values within the limits of ``spec``.
    """
    mean, std = np.asarray(statistics.mean, np.float64), np.asarray(statistics.std, np.float64)
    if spec.value_limits is not None:
        low, high = spec.value_limits
    else:
        low, high = 0.0, 255.0 if dtype == "uint8" else _rounded_up(float(np.max(np.abs(mean) + 4 * std)))
    reach = high - low
    if spec.scaling == "unit":
        mean_unit, std_unit = np.full(len(mean), 0.5), np.full(len(mean), 0.25)
    else:
        mean_unit, std_unit = (mean - low) / reach, std / reach
    digits = [tuple(round(float(v), 5) for v in values) for values in (mean_unit, np.maximum(std_unit, 1e-3))]
    return Normalisation(low, reach, spec.value_window is not None, digits[0], digits[1])


def normalisation_like(card: ModelCard, otherwise: Normalisation) -> Normalisation:
    """As a model's card scales them, so that its weights mean what they meant; ``otherwise`` if that is per scene."""
    scaling = card.scaling
    if scaling.kind == "scene":
        return otherwise
    low, high = scaling.limits
    mean, std = (tuple(np.broadcast_to(v, len(otherwise.mean)).tolist()) for v in (scaling.mean, scaling.std))
    return Normalisation(low, high - low, scaling.kind == "window", mean, std)


def _rounded_up(value: float) -> float:
    """To one significant digit, so that a card is readable; 1 for nothing."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / unit) * unit
