"""Several trainings of one kind, each without some of the places: how a recipe does where it has never been."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tileseg.card import ClassInfo
from tileseg.dataset.dataset import load_dataset
from tileseg.errors import UsageError
from tileseg.nn.backend import keras
from tileseg.nn.folder import load_card
from tileseg.problems import read_toml
from tileseg.storage.store import write_atomic
from tileseg.train.loop import TrainingListener
from tileseg.train.spec import TrainSpec
from tileseg.train.trainer import train

TABLE = "folds.csv"
"""In the folder of all folds: a row for each place that was left out."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Fold(_Strict):
    """One training."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """Its folder."""
    leave_out: list[str] = Field(min_length=1)
    """Places that are validated on instead of trained on."""


class Folds(_Strict):
    """What ``FOLDS.toml`` may say."""

    folds: list[Fold] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Folds:
        for what, names in (
            ("folds are called", [fold.name for fold in self.folds]),
            ("folds leave out", [place for fold in self.folds for place in fold.leave_out]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {what} {name!r}; expected each once")
        return self


def read_folds(path: Path) -> Folds:
    """Read ``FOLDS.toml``. Raises InputError in one line."""
    return read_toml(path, Folds)


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """What the training without a place reached in it."""

    fold: str
    place: str
    iou: dict[str, float]
    """Class -> IoU; classes that neither truth nor prediction have are missing."""
    best_step: int


@dataclass(frozen=True, slots=True)
class FoldsReport:
    """What came of all folds."""

    out: Path
    classes: tuple[ClassInfo, ...]
    rows: tuple[PlaceRow, ...]

    @property
    def mean(self) -> dict[str, float]:
        """Class -> mean IoU over the places that have it, each of which counts alike."""
        found: dict[str, float] = {}
        for info in self.classes:
            known = [row.iou[info.name] for row in self.rows if info.name in row.iou]
            if known:
                found[info.name] = sum(known) / len(known)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        places = [{"fold": r.fold, "place": r.place, "best_step": r.best_step, "iou": r.iou} for r in self.rows]
        return {"folder": str(self.out), "places": places, "mean_over_places": self.mean}

    def to_csv(self) -> str:
        """The rows as text."""
        names = [info.name for info in self.classes]
        file = io.StringIO(newline="")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["fold", "place", "best_step", *(f"iou_{name}" for name in names)])
        for row in self.rows:
            scores = (f"{row.iou[name]:.4f}" if name in row.iou else "" for name in names)
            table.writerow([row.fold, row.place, row.best_step, *scores])
        return file.getvalue()


def train_folds(
    spec: TrainSpec, folds: Folds, listener: TrainingListener, stop: threading.Event | None = None
) -> FoldsReport:
    """Train each fold into a folder of its name in ``spec.out``; write the table after each.

    Folds that are finished are taken as they are, and one that was stopped goes on. Raises what :func:`train` raises,
    and UsageError before the first step for a fold that leaves out a place that the dataset has not.
    """
    if spec.leave_out:
        raise UsageError("--folds says which places are left out: it cannot be given with --leave-out")
    parts = [
        spec.model_copy(update={"out": spec.out / fold.name, "leave_out": tuple(fold.leave_out)})
        for fold in folds.folds
    ]
    dataset = load_dataset(spec.dataset, gsd=spec.gsd)
    for part in parts:
        dataset.leaving_out(part.leave_out)  # told before hours are spent on the first
    rows: list[PlaceRow] = []
    for number, (fold, part) in enumerate(zip(folds.folds, parts, strict=True), start=1):
        listener.notice(f"fold {number} of {len(parts)}, {fold.name}: leaves out {', '.join(fold.leave_out)}")
        keras.utils.clear_session()  # or names of layers would go on counting, and memory growing
        train(part, listener, stop)
        rows += _rows(fold, part.out)
        write_atomic(spec.out / TABLE, FoldsReport(spec.out, dataset.classes, tuple(rows)).to_csv())
    return FoldsReport(spec.out, dataset.classes, tuple(rows))


def _rows(fold: Fold, out: Path) -> Sequence[PlaceRow]:
    """What the card of a fold's model says of the places that were left out."""
    facts: dict[str, Any] = load_card(out).training
    return [PlaceRow(fold.name, place, dict(iou), facts["best_step"]) for place, iou in facts["iou_by_place"].items()]
