"""The steps of a training, one after the other: learn, validate, keep the best, save the state."""

from __future__ import annotations

import math
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from tileseg.ahead import computed_ahead
from tileseg.errors import Interrupted, TilesegError
from tileseg.train.checkpoint import Progress
from tileseg.train.feed import Feed
from tileseg.train.journal import Journal
from tileseg.train.output import TrainingOutput
from tileseg.train.pictures import write_curves
from tileseg.train.prepare import PreparedTraining
from tileseg.train.rates import learning_rate
from tileseg.train.spec import TrainSpec
from tileseg.train.validation import SceneWindow, Score, validate


class TrainingListener(Protocol):
    """Receives the progress of a training."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""

    def start(self, spec: TrainSpec, about: str, progress: Progress) -> None:
        """The first step is about to be taken."""

    def step(self, progress: Progress, share: float, loss: float, rate: float) -> None:
        """A step was taken; ``share`` of the training is over."""

    def validation(self, progress: Progress, score: Score, *, best: bool) -> None:
        """The network was validated."""


@dataclass(frozen=True, slots=True)
class TrainingLoop:
    """Takes the steps of a prepared training; progress goes from step to step as a value."""

    prepared: PreparedTraining
    output: TrainingOutput
    journal: Journal
    listener: TrainingListener
    stop: threading.Event
    """Set: end after the step in progress."""

    def run(self) -> Progress:
        """Step after step to the end; how far it came.

        Raises:
            Interrupted: If ``stop`` was set.
            TilesegError: If the loss is no number any more.
        """
        spec, start = self.prepared.spec, self.prepared.progress
        progress, began = start, time.monotonic()
        last = sys.maxsize if spec.last_step is None else spec.last_step
        batches = computed_ahead(
            Feed(self.prepared), range(progress.step, last), ahead=spec.threads + 2, threads=spec.threads
        )
        with closing(batches):
            while not self._is_over(progress):
                rate = learning_rate(spec, progress.step, share_of(spec, progress), progress.plateau)
                asked = time.monotonic()
                images, targets = next(batches)
                waited = time.monotonic() - asked
                loss = self.prepared.learner.step(images, targets, step=progress.step, rate=rate)
                if not math.isfinite(loss):
                    raise self._diverged(f"the loss is {loss}", rate, progress.step + 1)
                progress = replace(
                    progress,
                    step=progress.step + 1,
                    waited=progress.waited + waited,
                    seconds=start.seconds + time.monotonic() - began,
                )
                self.journal.step(progress.step, loss=loss, rate=rate, seconds=progress.seconds, waited=progress.waited)
                self.listener.step(progress, share_of(spec, progress), loss, rate)
                if progress.step % spec.steps_per_epoch == 0 or share_of(spec, progress) >= 1:
                    progress = self._end_epoch(progress, rate, start.seconds - began)
                if self.stop.is_set():
                    self._save(progress)
                    if not self.prepared.folder.store.best.exists():
                        with self.prepared.learner.averaged():
                            self.output.write_model(progress, None, done=False)
                    raise Interrupted(
                        f"stopped after step {progress.step}; the best model so far is in {spec.out}; "
                        "the same command goes on"
                    )
        return progress

    def _is_over(self, progress: Progress) -> bool:
        """Whether nothing is left to do."""
        spec = self.prepared.spec
        if spec.patience is not None and progress.stale >= spec.patience:
            self.listener.notice(f"nothing better in {spec.patience} validations: stopped early")
            return True
        return share_of(spec, progress) >= 1

    def _diverged(self, what: str, rate: float, step: int) -> TilesegError:
        kept = (
            "what was best so far is kept, and other options need another --out, or --overwrite to start anew"
            if self.prepared.folder.has_weights
            else "there is no model yet, so the same --out takes other options"
        )
        return TilesegError(
            f"{what} after step {step}, with a learning rate of {rate:.2g}: try a lower --rate, a longer "
            "--warmup, --clip 1 or --precision float32, and look for values that are not finite with `tileseg dataset "
            f"check {self.prepared.spec.dataset}`; {kept}"
        )

    def _end_epoch(self, progress: Progress, rate: float, offset: float) -> Progress:
        """Score the network, keep it if it is the best, and save the state."""
        if self.prepared.validation.watched:
            with self.prepared.learner.averaged():
                finite = self.prepared.learner.is_finite()
            if not finite:
                raise self._diverged("the network gives values that are not finite", rate, progress.step)
            progress = self._validate(progress, offset)
        self._save(progress)
        folder = self.prepared.folder
        write_curves(folder.curves, folder.root, self.prepared.dataset.classes)
        return progress

    def _validate(self, progress: Progress, offset: float) -> Progress:
        prepared, began = self.prepared, time.monotonic()
        spec, folder = prepared.spec, prepared.folder
        with prepared.learner.averaged():
            score = score_windows(prepared, prepared.validation.watched)
            best = score.score > progress.best_score
            if best:
                progress = replace(progress, best_score=score.score, best_step=progress.step, stale=0)
                weights = {"weights": prepared.learner.model.weights}
                folder.store.save(folder.store.best, weights, progress, folder.fingerprint)
                self.output.write_model(progress, score, done=False)
            else:
                progress = replace(progress, stale=progress.stale + 1)
            epoch = progress.step // spec.steps_per_epoch
            if spec.panel_every and epoch % spec.panel_every == 0:
                self.output.draw_panel(folder.root / f"panel-{progress.step:06d}.png")
        now = time.monotonic()
        progress = replace(
            progress,
            plateau=progress.plateau.after(score.score, spec.plateau_epochs),
            validating=progress.validating + now - began,
            seconds=offset + now,
        )
        self.journal.validation(progress.step, score=score.score, mean_iou=score.mean_iou, iou=score.iou)
        self.listener.validation(progress, score, best=best)
        return progress

    def _save(self, progress: Progress) -> None:
        self.journal.flush()
        folder = self.prepared.folder
        folder.store.save(folder.store.last, self.prepared.learner.state, progress, folder.fingerprint)


def share_of(spec: TrainSpec, progress: Progress) -> float:
    """How much of a training is over, 0 to 1."""
    by_time = progress.seconds / (60 * spec.minutes) if spec.minutes is not None else 0.0
    by_steps = progress.step / spec.last_step if spec.last_step is not None else 0.0
    return min(1.0, max(by_time, by_steps))


def score_windows(prepared: PreparedTraining, windows: list[SceneWindow]) -> Score:
    """Score the network as it is on some of the validation windows."""
    return validate(
        prepared.learner.labels_of,
        windows,
        prepared.dataset.classes,
        prepared.normalisation,
        side=prepared.validation.side,
        batch=prepared.validation.batch,
        threads=prepared.spec.threads,
    )
