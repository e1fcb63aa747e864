"""What a student learns from: batches, each made of the number of its step alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tileseg.labels import Labels
from tileseg.train.augment import Augmenter
from tileseg.train.prepare import PreparedTraining
from tileseg.train.teacher import Lesson

Batch = tuple[npt.NDArray[np.float32], Labels | Lesson]
"""Images (n, y, x, band) of 0 to 1, and what is said of them."""


@dataclass(frozen=True)
class Feed:
    """Reads patches, augments them, and asks the teacher, if there is one; safe from several threads."""

    prepared: PreparedTraining
    _augmenter: Augmenter = field(init=False)

    def __post_init__(self) -> None:
        spec = self.prepared.spec
        augmenter = Augmenter(spec.augment, len(self.prepared.dataset.bands), spec.seed, size=spec.crop)
        object.__setattr__(self, "_augmenter", augmenter)

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        sampler, to_unit, teacher = self.prepared.sampler, self.prepared.normalisation.to_unit, self.prepared.teacher
        if teacher is None:
            pixels, labels = sampler.batch(step)
            return self._augmenter(to_unit(pixels), labels, step)
        pixels, coded = sampler.coded_batch(step)
        images, codes = self._augmenter(to_unit(pixels), coded, step)
        return images, teacher.lesson(images, codes, [scene for scene, _ in sampler.windows(step)])
