"""What a training leaves to be read: a row per step and per validation, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tileseg.train.tensorboard import EventFile

STEPS, VALIDATIONS = "steps.csv", "validations.csv"
_STEP_FIELDS = ("step", "loss", "rate", "seconds", "waited")


class Journal:
    """Appends to the CSV files and the events; rows after ``step``, which a killed run left behind, are dropped."""

    def __init__(self, folder: Path, classes: Iterable[str], step: int) -> None:
        self.folder = folder
        self._classes = tuple(classes)
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._steps = stack.enter_context(_reopened(folder / STEPS, _STEP_FIELDS, step))
            self._validations = stack.enter_context(
                _reopened(
                    folder / VALIDATIONS, ("step", "score", "mean_iou", *(f"iou_{n}" for n in self._classes)), step
                )
            )
            self._events = stack.enter_context(EventFile(folder / "tensorboard", step))
            self._open = stack.pop_all()

    def step(self, step: int, *, loss: float, rate: float, seconds: float, waited: float) -> None:
        """A batch was learnt from; seconds are counted from the training's beginning."""
        csv.writer(self._steps).writerow((step, repr(loss), f"{rate:.6g}", f"{seconds:.2f}", f"{waited:.2f}"))
        self._events.scalar("loss", loss, step)
        self._events.scalar("rate", rate, step)

    def validation(self, step: int, *, score: float, mean_iou: float, iou: Mapping[str, float]) -> None:
        """The network was validated."""
        values = [f"{iou[name]:.5f}" if name in iou else "" for name in self._classes]
        csv.writer(self._validations).writerow((step, f"{score:.5f}", f"{mean_iou:.5f}", *values))
        self._events.scalar("validation/score", score, step)
        for name, value in iou.items():
            self._events.scalar(f"validation/iou_{name}", value, step)
        self.flush()

    def flush(self) -> None:
        """Let readers see all rows."""
        for file in (self._steps, self._validations, self._events):
            file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def read_columns(path: Path, *names: str) -> list[list[float]]:
    """Columns of one of the CSV files; what is empty is NaN. Empty lists where there is no file yet."""
    columns: list[list[float]] = [[] for _ in names]
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for column, name in zip(columns, names, strict=True):
                    column.append(float(row[name] or "nan"))
    return columns


def _reopened(path: Path, fields: tuple[str, ...], step: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    rows = []
    if step and path.is_file():
        with path.open(newline="") as file:
            # The last row may be half written.
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(fields) and int(row[0]) <= step]
    file = path.open("w", newline="")
    csv.writer(file).writerows([fields, *rows])
    return file
