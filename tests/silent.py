"""A listener of trainings for tests."""

from __future__ import annotations

import threading


class Silent:
    """Keeps what it is told, and may stop the training after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop, self.stop_after = threading.Event(), stop_after
        self.losses: list[float] = []
        self.notices: list[str] = []

    def notice(self, text) -> None:
        self.notices.append(text)

    def start(self, spec, about, progress) -> None:
        pass

    def step(self, progress, share, loss, rate) -> None:
        self.losses.append(loss)
        if progress.step == self.stop_after:
            self.stop.set()

    def validation(self, progress, score, *, best) -> None:
        pass
