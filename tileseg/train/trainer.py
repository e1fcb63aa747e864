"""One training, from a spec to a model folder: from the start, or from where it was stopped."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tileseg.errors import TilesegError, disk_full, not_writable
from tileseg.nn.backend import configure
from tileseg.run.ledger import Ledger
from tileseg.storage.store import write_atomic
from tileseg.train.checkpoint import Progress
from tileseg.train.folder import TrainingFolder
from tileseg.train.journal import Journal
from tileseg.train.loop import TrainingListener, TrainingLoop, score_windows
from tileseg.train.output import TrainingOutput, facts
from tileseg.train.prepare import PreparedTraining, like_init, load_scenes, prepare
from tileseg.train.spec import TrainSpec
from tileseg.train.validation import Score

__all__ = ["TrainReport", "TrainingListener", "train"]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out."""

    out: Path
    progress: Progress
    score: Score | None
    """Score of the saved model on all validation windows; None without validation scenes."""
    already: bool = False
    """Whether it was finished before."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"model": str(self.out), **facts(self.progress, self.score), "already_finished": self.already}


def train(spec: TrainSpec, listener: TrainingListener, stop: threading.Event | None = None) -> TrainReport:
    """Train a network and write its model folder; go on where an interrupted training with the same options stopped.

    ``stop`` ends it after the step in progress; what is best so far is in the folder then.

    Raises:
        UsageError: If an option makes no sense, or the folder holds a training with other options.
        InputError: If the dataset cannot be used, or the folder cannot be written.
        Interrupted: If it was stopped.
        TilesegError: If the loss is no number any more.
    """
    configure(whole_float32=False)
    spec, told = like_init(spec)
    dataset = load_scenes(spec)
    folder = TrainingFolder.of(spec)
    if (finished := _finished(folder)) is not None:
        return finished
    folder.check_writable()
    if told is not None:
        listener.notice(told)
    prepared = prepare(spec, dataset, folder, listener.notice)
    try:
        with Ledger(folder.store.root).lock():
            # Asked again, as another process may have worked here meanwhile.
            return _finished(folder) or _run(prepared, listener, stop or threading.Event())
    except OSError as error:
        if isinstance(error, TilesegError) or disk_full(error):
            raise
        raise not_writable(spec.out, error) from error


def _finished(folder: TrainingFolder) -> TrainReport | None:
    progress = folder.finished()
    return None if progress is None else TrainReport(folder.spec.out, progress, None, already=True)


def _run(prepared: PreparedTraining, listener: TrainingListener, stop: threading.Event) -> TrainReport:
    """Take the steps; see :func:`train`. The folder is locked."""
    spec, folder = prepared.spec, prepared.folder
    folder.claim()
    output = TrainingOutput(prepared)
    names = [info.name for info in prepared.dataset.classes]
    with Journal(folder.root, names, prepared.progress.step) as journal:
        listener.start(spec, prepared.about, prepared.progress)
        progress = TrainingLoop(prepared, output, journal, listener, stop).run()
    score = _write_best(prepared, output, progress)
    report = TrainReport(spec.out, progress, score)
    write_atomic(folder.summary, json.dumps(report.to_json(), indent=2) + "\n")
    return report


def _write_best(prepared: PreparedTraining, output: TrainingOutput, progress: Progress) -> Score | None:
    """Score the best weights on all validation windows, and write them as the model."""
    folder, learner, windows = prepared.folder, prepared.learner, prepared.validation.windows
    best = folder.store.read(folder.store.best)
    if best is not None:
        best.restore("weights", learner.model.weights)
    else:
        learner.use_mean()
    score = score_windows(prepared, windows) if windows else None
    if windows and prepared.spec.panel_every:
        output.draw_panel(folder.root / "panel-best.png")
    output.write_model(progress, score, done=True)
    return score
