"""What a training writes: the model folder, panels of examples, and the numbers of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tileseg.card import Appearance
from tileseg.dataset.patches import validation_windows
from tileseg.dataset.statistics import appearance_of
from tileseg.nn.bundle import save_bundle
from tileseg.nn.description import Description
from tileseg.train.checkpoint import Progress
from tileseg.train.pictures import write_panel
from tileseg.train.prepare import PreparedTraining
from tileseg.train.validation import SceneWindow, Score, read_unit

_EXAMPLES = 4
"""In a panel."""
_CANDIDATES = 32
"""Windows that are looked at to find them."""


@dataclass(frozen=True)
class TrainingOutput:
    """Writes what a training gives, from the weights that its network has at the moment."""

    prepared: PreparedTraining

    def write_model(self, progress: Progress, score: Score | None, *, done: bool) -> None:
        """Write the model folder."""
        spec, dataset = self.prepared.spec, self.prepared.dataset
        described = Description(
            name=spec.name or spec.out.resolve().name,
            description=f"Trained by tileseg on {spec.dataset.stem}.",
            bands=dataset.bands,
            classes=dataset.classes,
            scaling=self.prepared.normalisation.scaling,
            dtypes=(dataset.dtype,),
            ground_sample_distance=self.prepared.ground_sample_distance,
            hands_over=self.prepared.hands_over,
            appearance=self._appearance,
            credits=dataset.credits,
            training={
                **facts(progress, score),
                **self._left_out,
                **self._teacher,
                "finished": done,
                "spec": spec.for_card(),
            },
        )
        save_bundle(self.prepared.learner.plain(), spec.out, described)

    @cached_property
    def _appearance(self) -> Appearance | None:
        """What the images look like that the network is trained on."""
        return appearance_of(self.prepared.dataset.train, self.prepared.normalisation.scaling)

    @property
    def _left_out(self) -> dict[str, Any]:
        """What the card says of places that were kept from the training."""
        return {"left_out": list(self.prepared.spec.leave_out)} if self.prepared.spec.leave_out else {}

    @property
    def _teacher(self) -> dict[str, Any]:
        """What the card says of the model that taught this one."""
        teacher = self.prepared.teacher
        return {} if teacher is None else {"teacher": {**self.prepared.spec.distill.model_dump(), **teacher.facts}}

    def draw_panel(self, path: Path) -> None:
        """Draw examples as image, truth and prediction."""
        validation, normalisation = self.prepared.validation, self.prepared.normalisation
        chosen = [read_unit(window, validation.side, normalisation) for window in self._examples]
        images, truth = (np.stack(parts) for parts in zip(*chosen, strict=True))
        found = []
        for i in range(0, len(images), validation.batch):
            part = images[i : i + validation.batch]
            full = np.concatenate([part, np.repeat(part[-1:], validation.batch - len(part), axis=0)])
            found.append(self.prepared.learner.labels_of(full)[: len(part)])
        write_panel(path, images, truth, np.concatenate(found), self.prepared.dataset.classes)

    @cached_property
    def _examples(self) -> list[SceneWindow]:
        """The few windows whose labels are the most mixed, whole ones first."""
        side = self.prepared.validation.side
        windows = validation_windows(self.prepared.dataset.validate, side, _CANDIDATES)

        def mixed(window: SceneWindow) -> float:
            _, labels = read_unit(window, side, self.prepared.normalisation)
            shares = np.bincount(labels.ravel(), minlength=256)[:255] / labels.size
            return float((shares * (1 - shares)).sum())

        whole = [window for window in windows if window[1].pixels == side**2]
        return sorted(whole or windows, key=mixed, reverse=True)[:_EXAMPLES]


def facts(progress: Progress, score: Score | None) -> dict[str, Any]:
    """Numbers for the card and the summary."""
    found: dict[str, Any] = {
        "steps": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "best_step": progress.best_step or progress.step,
        "waiting_for_patches": round(progress.waited / max(progress.seconds, 1e-9), 4),
        "validating": round(progress.validating / max(progress.seconds, 1e-9), 4),
    }
    return found if score is None else found | score.facts()
