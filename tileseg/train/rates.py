"""How the learning rate goes: arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tileseg.train.spec import WARMUP_PART, TrainSpec

_END = 1e-3
"""What a cosine leaves of the highest rate."""


@dataclass(frozen=True, slots=True)
class Plateau:
    """What the schedule ``plateau`` remembers between validations."""

    best: float = -math.inf
    """Best score so far."""
    waited: int = 0
    """Validations since it was reached, or since the last fall."""
    falls: int = 0

    def after(self, score: float, patience: int) -> Plateau:
        """The memory after one more validation."""
        if score > self.best:
            return Plateau(score, 0, self.falls)
        if self.waited + 1 >= patience:
            return Plateau(self.best, 0, self.falls + 1)
        return Plateau(self.best, self.waited + 1, self.falls)


def learning_rate(spec: TrainSpec, step: int, share: float, plateau: Plateau) -> float:
    """The rate of one step.

    Args:
        spec: The schedule and its numbers.
        step: Batches seen before, from 0.
        share: How much of the training is over, 0 to 1.
        plateau: What the schedule ``plateau`` remembers.
    """
    rise = (step + 1) / spec.warmup_steps if spec.warmup_steps else 1.0
    if spec.warmup is None:  # where time ends the training, the number of steps is not known
        rise = max(rise, share * WARMUP_PART)
    if spec.schedule == "cosine":
        # Loshchilov and Hutter, 2017 (arXiv:1608.03983), without restarts.
        fallen = _END + (1 - _END) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))
    elif spec.schedule == "step":
        fallen = spec.fall ** (step // (spec.steps_per_epoch * spec.step_epochs))
    elif spec.schedule == "plateau":
        fallen = spec.fall**plateau.falls
    else:
        fallen = 1.0
    return spec.rate * min(1.0, rise) * fallen
