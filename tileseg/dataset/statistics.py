"""What the pixels and labels of a dataset are like: for the scaling in the card, and the weights of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tileseg.card import Appearance, Scaling
from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.spec import IGNORE
from tileseg.errors import InputError
from tileseg.source.appearance import Floats, Scaled, fit, look_at

_WINDOW = 128
_WINDOWS = 512
"""Windows read at the most, over all scenes."""


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """Over scenes, as a rule those for training."""

    mean: tuple[float, ...]
    """Per band, in the pixels' own unit; of the values as they were clipped, if they were."""
    std: tuple[float, ...]
    """Per band; 1 for a constant band."""
    class_shares: tuple[float, ...]
    """Per class: its share of the pixels whose class is known, scenes counting by their weights; 0 where none is."""
    pixels: int
    """How many pixels were read."""


def statistics(
    scenes: Sequence[LabelledScene], *, classes: int, limits: tuple[float, float] | None = None
) -> DatasetStatistics:
    """Mean and deviation of bands over scenes, and the shares of classes.

    Read in at most 512 windows of 128 x 128, spread evenly. Pixels whose class is not known do not count, but in scenes
    without any labels; others count by the weight of their scene, as they are sampled. Values beyond ``limits`` count
    as these. The same scenes give the same numbers. Raises InputError where nothing is known.
    """
    windows = [(scene, window) for scene in scenes for window in scene.windows(_WINDOW)]
    chosen = min(len(windows), _WINDOWS)
    bands = len(scenes[0].bands) if scenes else 0
    count, weight, total, squares = 0, 0.0, np.zeros(bands), np.zeros(bands)
    found = np.zeros(classes)
    for i in range(chosen):
        scene, window = windows[int((i + 0.5) * len(windows) / chosen)]
        pixels, labels, valid = scene.read_with_gaps(window)
        known = labels != IGNORE if scene.has_labels else valid
        values = pixels[known].astype(np.float64)
        values = values if limits is None else values.clip(*limits)
        count += len(values)
        weight += scene.weight * len(values)
        total += scene.weight * values.sum(axis=0)
        squares += scene.weight * np.einsum("ij,ij->j", values, values)
        if scene.has_labels:
            found += scene.weight * np.bincount(labels[known], minlength=classes)
    if not count:
        raise InputError("no pixel of the scenes for training has a known class")
    mean = total / weight
    deviation = np.sqrt(np.maximum(squares / weight - np.square(mean), 0))
    deviation = np.where(deviation > 1e-9 * np.maximum(1, np.abs(mean)), deviation, 1.0)
    return DatasetStatistics(
        tuple(mean.tolist()), tuple(deviation.tolist()), tuple((found / (found.sum() or 1)).tolist()), count
    )


def appearance_of(scenes: Sequence[LabelledScene], scaling: Scaling) -> Appearance | None:
    """What the images of scenes look like to a network with a scaling: those of real scenes, if there are any.

    None where no window of any has data. Raises InputError, naming the file, where one cannot be read.
    """
    places = dict[str, list[Floats]]()
    for labelled in [scene for scene in scenes if not scene.drawn] or scenes:
        scaled = Scaled(labelled.scene, labelled.rescale)
        found = look_at(scaled.windows, scaled.read, scaling)
        places.setdefault(labelled.place or labelled.name, []).extend(found)
    return fit(places)
