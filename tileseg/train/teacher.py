"""A teacher: a finished model that says what is in the patches that a student learns from.

Knowledge distillation (Hinton et al., 2015, arXiv:1503.02531). The teacher is computed by the engine for its kind of
file, as in a run; the student's loss compares what both give (:func:`tileseg.train.terms.distillation`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.dataset.dataset import Dataset
from tileseg.dataset.patches import GAP, UNLABELLED
from tileseg.engine.choice import Choice, choose
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.registry import open_network
from tileseg.errors import InputError, TilesegError, UsageError
from tileseg.labels import NODATA, Labels
from tileseg.nn.backend import configure
from tileseg.nn.folder import load_card, resolve_model
from tileseg.run.prepare import device_of, this_machine
from tileseg.source.statistics import statistics
from tileseg.train.normalisation import Normalisation
from tileseg.train.spec import TrainSpec
from tileseg.tta import Flip, View

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int16]


class Lesson(NamedTuple):
    """What a student is told of a batch: in place of its labels, for the loss takes both."""

    labels: Labels
    """(n, y, x) uint8: class ids, 255 where the class is not known."""
    logits: Floats
    """(n, y, x, class): what the teacher gives."""
    counted: npt.NDArray[np.bool_]
    """(n, y, x): where the teacher counts, which is wherever the image has data."""


class Teacher:
    """Gives lessons on patches as the student sees them: augmented, 0 to 1, in the dataset's bands."""

    def __init__(self, card: ModelCard, choice: Choice, predictor: Predictor, scaling: ScalingOfScenes) -> None:
        """``predictor`` takes scaled patches in the card's bands; ``scaling`` makes them of the student's."""
        self.card, self.choice = card, choice
        self._predictor, self._scaling = predictor, scaling
        self._turn = threading.Lock()  # an engine is called by one thread at a time

    def lesson(self, images: Floats, codes: Codes, scenes: Sequence[int]) -> Lesson:
        """What is told of patches.

        Args:
            images: (n, y, x, band), as :meth:`tileseg.train.normalisation.Normalisation.to_unit` gives them.
            codes: (n, y, x) labels of :meth:`tileseg.dataset.patches.PatchSampler.coded_batch`.
            scenes: Position of each patch's scene among those that are trained on.
        """
        seen = self._scaling(images, codes == GAP, scenes)
        with self._turn:
            found = self._predictor(seen)
        labels = np.where(codes < NODATA, codes, NODATA).astype(np.uint8)
        lesson = Lesson(labels, self._scaling.ordered(found), (codes < NODATA) | (codes == UNLABELLED))
        if not np.isfinite(lesson.logits[lesson.counted]).all():
            raise TilesegError(f"the teacher {self.card.name} gives values that are not finite: it cannot teach")
        return lesson

    @property
    def facts(self) -> dict[str, str]:
        """For the card of the student."""
        chosen = self.choice
        return {
            "name": self.card.name,
            "sha256": chosen.form.sha256,
            "engine": chosen.engine,
            "precision": chosen.precision,
        }


class ScalingOfScenes:
    """From the student's pixels to the teacher's, and from the teacher's classes to the student's."""

    def __init__(
        self, student: Normalisation, scalings: Sequence[Scaling], bands: Sequence[int], classes: Sequence[int]
    ) -> None:
        """Prepare it.

        Args:
            student: How the student's pixels were made of those of the file.
            scalings: The teacher's, of each scene that is trained on.
            bands: For each band of the teacher, its position among the student's.
            classes: For each class of the student, its position among the teacher's.
        """
        self._student, self._bands, self._classes = student, list(bands), list(classes)
        shape = (len(scalings), len(bands))
        self._zero = np.array([np.broadcast_to(s.zero, shape[1]) for s in scalings], np.float32)
        self._gain = (1 / np.array([np.broadcast_to(s.unit, shape[1]) for s in scalings])).astype(np.float32)
        self._limits = scalings[0].limits if scalings[0].kind == "window" else None

    def __call__(self, images: Floats, gaps: npt.NDArray[np.bool_], scenes: Sequence[int]) -> Floats:
        """Student's (n, y, x, band) of 0 to 1 -> the teacher's input, 0 in the gaps (n, y, x), as in a run."""
        values: Floats = images[..., self._bands] * np.float32(self._student.reach) + np.float32(self._student.low)
        if self._limits is not None:
            np.clip(values, *self._limits, out=values)
        chosen = list(scenes)
        values -= self._zero[chosen][:, None, None]
        values *= self._gain[chosen][:, None, None]
        values[gaps] = 0
        return values

    def ordered(self, found: npt.NDArray[Any]) -> Floats:
        """Teacher's logits (n, class, y, x) -> (n, y, x, class) by the student's ids."""
        return np.ascontiguousarray(np.moveaxis(found[:, self._classes], 1, -1), np.float32)


def open_teacher(spec: TrainSpec, dataset: Dataset, student: Normalisation) -> Teacher:
    """Open the teacher of a training. Raises InputError or UsageError, in one line, where it cannot teach it."""
    assert spec.teacher is not None
    folder = resolve_model(spec.teacher)
    card = load_card(folder)
    bands, classes = _bands(spec.teacher, card, dataset), _classes(spec.teacher, card, dataset)
    if spec.crop % card.stride:
        raise UsageError(
            f"--crop {spec.crop}: --teacher {spec.teacher} takes patches whose sides are multiples of {card.stride}"
        )
    machine, _ = this_machine()
    asked = spec.distill.precision
    choice = choose(_unquantised(card) if asked == "auto" else card, "auto", asked, device_of(machine))
    network = open_network(folder, card, machine.cpu.cores, engine=choice.engine, form=choice.form.file)
    configure(whole_float32=False)  # a network is opened for runs, which want it whole
    whole = PredictorSpec(
        core=(spec.crop, spec.crop),
        margin=0,
        views=(View(Fraction(1), Flip()),),
        scaling=Scaling(),
        batch=spec.batch,
        precision=choice.precision,
        halo=0,
        output="float32",
    )
    scaling = ScalingOfScenes(student, _scalings(card, dataset), bands, classes)
    return Teacher(card, choice, Predictor(network, whole), scaling)


def _unquantised(card: ModelCard) -> ModelCard:
    """The card without forms that lose something, where there are others: what they save, the student would pay for."""
    kept = tuple(form for form in card.forms if form.precision == "float32")
    return card.model_copy(update={"forms": kept}) if kept else card


def coarser_or_finer(spec: TrainSpec, gsd: float | None) -> str | None:
    """What to say of a teacher of another ground sample distance than its student's; None: nothing."""
    assert spec.teacher is not None
    trained = load_card(resolve_model(spec.teacher)).ground_sample_distance
    if trained is None or gsd is None or 0.8 <= gsd / trained <= 1.25:
        return None
    return (
        f"--teacher {spec.teacher}: was trained at {trained:.3g} m per pixel and sees patches of {gsd:.3g} m per "
        "pixel, as they are; --gsd resamples them"
    )


def _bands(teacher: Path, card: ModelCard, dataset: Dataset) -> list[int]:
    if missing := [band for band in card.bands if band not in dataset.bands]:
        raise InputError(
            f"--teacher {teacher}: takes the bands {', '.join(card.bands)}, and the dataset has no {missing[0]} (it "
            f"has {', '.join(dataset.bands)}); expected all of them, in any order"
        )
    return [dataset.bands.index(band) for band in card.bands]


def _classes(teacher: Path, card: ModelCard, dataset: Dataset) -> list[int]:
    theirs, ours = [info.name for info in card.classes], [info.name for info in dataset.classes]
    if sorted(theirs) != sorted(ours):
        raise InputError(
            f"--teacher {teacher}: has the classes {', '.join(theirs)}, the dataset {', '.join(ours)}; expected the "
            "same names, in any order"
        )
    return [theirs.index(name) for name in ours]


def _scalings(card: ModelCard, dataset: Dataset) -> list[Scaling]:
    """How the teacher scales each scene, as in a run: by its own mean and deviation where the card wants that."""
    if card.scaling.kind != "scene" and dataset.dtype in card.dtypes:
        return [card.scaling] * len(dataset.train)
    chosen = [dataset.bands.index(band) for band in card.bands]
    found = [statistics(scene.scene) for scene in dataset.train]
    return [Scaling(mean=tuple(mean[chosen].tolist()), std=tuple(std[chosen].tolist())) for mean, std in found]
