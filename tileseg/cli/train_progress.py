"""How a training shows itself: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich import progress as bars
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from tileseg.train.checkpoint import Progress
    from tileseg.train.spec import TrainSpec
    from tileseg.train.validation import Score

_PLAIN_SECONDS = 10.0
"""Between two plain lines where there is no terminal."""


class TrainingProgress:
    """A :class:`tileseg.train.loop.TrainingListener` on standard error: one live line, or a plain one at times."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None
        self._loss: float | None = None
        self._printed = self._began = time.monotonic()
        self._first = 0.0
        self._pixels = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._console.print(Text(f"note: {text}", style="yellow"))

    def start(self, spec: TrainSpec, about: str, progress: Progress) -> None:
        """Begin to show steps."""
        resumed = f"; going on after step {progress.step}" if progress.step else ""
        self._console.print(f"{spec.dataset}: {about}{resumed}")
        self._pixels = spec.batch * spec.crop**2
        if not self._console.is_terminal:
            return
        self._bar = bars.Progress(
            bars.SpinnerColumn(),
            bars.BarColumn(bar_width=24),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.description}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("step 1 ...", total=1.0)
        self._bar.start()

    def step(self, progress: Progress, share: float, loss: float, rate: float) -> None:
        """A step was taken."""
        now = time.monotonic()
        if self._loss is None:
            self._loss, self._began, self._first, self._steps = loss, now, share, progress.step
        # What the eye can follow: the mean of about the last 25 steps.
        self._loss += (loss - self._loss) / 25
        if self._bar is None and now - self._printed < _PLAIN_SECONDS and share < 1:
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
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=text)
        else:
            self._console.print(f"{100 * share:3.0f} %: {text}")

    def validation(self, progress: Progress, score: Score, *, best: bool) -> None:
        """The network was validated."""
        each = ", ".join(f"{name} {value:.3f}" for name, value in score.iou.items())
        self._console.print(f"step {progress.step}: IoU {each}{' (best)' if best else ''}")


def span(seconds: float) -> str:
    """Seconds as ``minutes:seconds``, from an hour on as ``hours:minutes:seconds``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
