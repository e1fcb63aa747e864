"""How a training shows itself: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich import progress as bars

from tileseg.cli.line import span, visible
from tileseg.cli.live import PLAIN_SECONDS, LiveView

if TYPE_CHECKING:
    from tileseg.train.checkpoint import Progress
    from tileseg.train.spec import TrainSpec
    from tileseg.train.validation import Score


class TrainingProgress(LiveView):
    """A :class:`tileseg.train.loop.TrainingListener` on standard error: one live line, or a plain one at times."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._loss: float | None = None
        self._printed = self._began = time.monotonic()
        self._first = 0.0
        self._pixels = 0

    def start(self, spec: TrainSpec, about: str, progress: Progress) -> None:
        """Begin to show steps of a training, maybe of one that follows another."""
        self.close()
        self._loss = None
        resumed = f"; going on after step {progress.step}" if progress.step else ""
        self.console.print(visible(f"{spec.dataset}: {about}{resumed}"))
        self._pixels = spec.batch * spec.crop**2
        columns = (bars.TaskProgressColumn(), bars.TextColumn("{task.description}"))
        self.show(*columns, description="step 1 ...", total=1.0)

    def step(self, progress: Progress, share: float, loss: float, rate: float) -> None:
        """A step was taken."""
        now = time.monotonic()
        if self._loss is None:
            self._loss, self._began, self._first, self._steps = loss, now, share, progress.step
        # What the eye can follow: the mean of about the last 25 steps.
        self._loss += (loss - self._loss) / 25
        if not self.is_live and now - self._printed < PLAIN_SECONDS and share < 1:
            return
        self._printed = now
        spent, gone = now - self._began, share - self._first
        left = f", {span(spent * (1 - share) / gone)} left" if gone > 0 else ""
        speed = (progress.step - self._steps) * self._pixels / 1e6 / max(spent, 1e-9)
        best = f", best {progress.best_score:.3f}" if progress.best_score >= 0 else ""
        waited = 100 * progress.waited / max(progress.seconds, 1e-9)
        text = (
            f"step {progress.step}, loss {self._loss:.4f}, rate {rate:.2g}{best}, {speed:.2f} MPix/s, "
            f"{waited:.0f} % waiting{left}"
        )
        self.update(completed=share, description=text)
        if not self.is_live:
            self.console.print(f"{100 * share:3.0f} %: {text}")

    def validation(self, progress: Progress, score: Score, *, best: bool) -> None:
        """The network was validated."""
        each = ", ".join(f"{name} {value:.3f}" for name, value in score.iou.items())
        self.console.print(f"step {progress.step}: IoU {each}{' (best)' if best else ''}")
