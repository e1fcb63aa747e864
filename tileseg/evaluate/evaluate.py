"""Evaluate files against files, or a model on a dataset; write ``metrics.json`` and ``report.html``."""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tileseg.card import ClassInfo
from tileseg.dataset.dataset import load_dataset
from tileseg.dataset.doubts import mask_doubt, nodata_doubt
from tileseg.dataset.labelled import LabelledScene
from tileseg.errors import InputError, UsageError, not_writable
from tileseg.evaluate.chances import set_chances
from tileseg.evaluate.compare import default_threads, score
from tileseg.evaluate.meaning import agree, match_classes
from tileseg.evaluate.pairing import open_image, pair_files, pair_scene, reference_grid
from tileseg.evaluate.pairs import LabelPair, read_pairs
from tileseg.evaluate.report import write_report
from tileseg.evaluate.results import Evaluation
from tileseg.evaluate.scores import Comparison, Options
from tileseg.evaluate.sides import describe_model, describe_side
from tileseg.evaluate.temperature import check_calibration, set_temperature
from tileseg.nn.folder import load_card, resolve_model
from tileseg.polygons.quantity import Quantity
from tileseg.spec import RunSpec
from tileseg.storage.store import write_atomic

if TYPE_CHECKING:
    from tileseg.run.report import Listener

METRICS, REPORT = "metrics.json", "report.html"
_RUNS = "runs"

Split = Literal["train", "validate", "all"]
SPLITS: dict[str, Split] = {"validate": "validate", "train": "train", "all": "all"}
"""What the user writes -> split."""
Calibrates = Literal["probabilities", "objects"]
"""What ``--calibrate`` takes."""
Progress = Callable[[str, int, int], None]
"""Gets (scene, blocks done, blocks)."""


@dataclass(frozen=True)
class EvaluateSpec:
    """How labels are compared; the same for files and for models."""

    out: Path = Path("evaluation")
    """Folder for ``metrics.json``, ``report.html``, and the runs of a model."""
    classes: tuple[str, ...] = ()
    """Names of the classes by id, where the truth has none or others are wanted."""
    map_prediction: tuple[str, ...] = ()
    """``building=1``: what counts as what; see :func:`tileseg.evaluate.meaning.agree`."""
    map_truth: tuple[str, ...] = ()
    attribute: str | None = None
    """Column of vector files that says the class."""
    image: Path | None = None
    """Shown in the report; gives the grid where both sides are polygons."""
    pixel: float | None = None
    """Metres: pixels of the grid where both sides are polygons and there is no image."""
    boundary: str | None = None
    """Width of the boundary IoU's band: metres (``0.5``) or pixels (``3px``)."""
    min_area: str | None = None
    """Smaller polygons are not matched: square metres (``25``) or pixels (``50px``)."""
    distances: bool = True
    polygons: bool = True
    overwrite: bool = False
    trust_vrt: bool = False
    """Whether a virtual raster may refer to files outside its own folder."""

    def options(self) -> Options:
        """What is measured. Raises UsageError."""
        return Options(
            band=None if self.boundary is None else Quantity.parse(self.boundary),
            min_area=None if self.min_area is None else Quantity.parse(self.min_area),
            distances=self.distances,
            polygons=self.polygons,
            threads=default_threads(),
        )

    def check_out(self) -> None:
        """Make the folder. Raises UsageError where another evaluation is in it, InputError where it cannot be made."""
        if (self.out / METRICS).exists() and not self.overwrite:
            raise UsageError(f"{self.out / METRICS}: exists; choose another --out, or --overwrite it")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(self.out, error) from error
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise not_writable(self.out, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@dataclass(frozen=True)
class ModelSpec:
    """Which model, on what, and how it is run."""

    model: str
    dataset: Path
    split: Split = "validate"
    places: tuple[str, ...] = ()
    """Scenes of these places instead, whatever their split."""
    calibrate: Calibrates | None = None
    """What the card gets, found in these scenes: the temperature with which probabilities mean most what they say, or
    how likely polygons are real objects."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """Options of :class:`tileseg.spec.RunSpec`, such as ``scales`` and ``flips``."""


def evaluate_labels(prediction: Path, truth: Path, spec: EvaluateSpec, progress: Progress | None = None) -> Evaluation:
    """Compare two label rasters, vector files or run folders, and write the outputs.

    Raises UsageError where it is not clear what to compare, InputError where something cannot be read.
    """
    subject = {"prediction": str(prediction), "truth": str(truth)}
    return _evaluate_pairs([LabelPair(prediction, truth)], subject, spec, progress)


def evaluate_pairs(table: Path, spec: EvaluateSpec, progress: Progress | None = None) -> Evaluation:
    """The same for all pairs of a table, see :func:`tileseg.evaluate.pairs.read_pairs`, place by place.

    Raises InputError where pairs have different classes too.
    """
    return _evaluate_pairs(read_pairs(table), {"pairs": str(table)}, spec, progress)


def _evaluate_pairs(
    pairs: Sequence[LabelPair], subject: Mapping[str, str], spec: EvaluateSpec, progress: Progress | None
) -> Evaluation:
    options = spec.options()
    spec.check_out()
    described = [
        tuple(
            describe_side(p, _column(p, spec.attribute), trust_vrt=spec.trust_vrt)
            for p in (pair.truth, pair.prediction)
        )
        for pair in pairs
    ]
    if spec.attribute is not None and not any(side.is_vector for sides in described for side in sides):
        raise UsageError("--attribute: neither side is a vector file")
    image = None if spec.image is None else open_image(spec.image, trust_vrt=spec.trust_vrt)
    maps = {"names": spec.classes, "map_truth": spec.map_truth, "map_prediction": spec.map_prediction}
    meanings = [agree(true, predicted, **maps) for true, predicted in described]
    _refuse_other_classes(pairs, [meaning.classes for meaning in meanings])
    compared: list[Comparison] = []
    scored, notices, seen = [], list[str](), Counter[str]()
    for pair, (true, predicted), meaning in zip(pairs, described, meanings, strict=True):
        grid = reference_grid(true, predicted, image, spec.pixel)
        found, said = pair_files(true, predicted, meaning, grid, image)
        seen[found.name] += 1
        name = f"{found.name} ({seen[found.name]})" if seen[found.name] > 1 else found.name
        found = replace(found, name=name, place=pair.place, drawn=pair.drawn)
        notices += [*meaning.notices, *said]
        scored.append(score(found, meaning.classes, options, _named(progress, name)))
        compared.append(found)
    notices += _sizes_in_pixels(options, compared)
    evaluation = Evaluation(subject, meanings[0].classes, tuple(scored), tuple(dict.fromkeys(notices)), spec.distances)
    return _written(evaluation, compared, spec)


def _refuse_other_classes(pairs: Sequence[LabelPair], classes: Sequence[Sequence[ClassInfo]]) -> None:
    """Raises InputError where pairs have different classes, so that their scores would not be of the same."""
    names = [[info.name for info in infos] for infos in classes]
    for pair, own in zip(pairs, names, strict=True):
        if own != names[0]:
            raise InputError(
                f"{pair.prediction}: is compared by the classes {', '.join(own)}, {pairs[0].prediction} by "
                f"{', '.join(names[0])}; expected the same: --classes names them for all"
            )


def evaluate_model(
    model: ModelSpec,
    spec: EvaluateSpec,
    listener: Listener | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run a model on the scenes of a dataset as ``tileseg run`` does, and compare on each scene's own grid.

    Runs are kept in ``out/runs``: an evaluation that was stopped goes on where it was. Raises UsageError, InputError,
    and whatever a run raises.
    """
    options = spec.options()
    dataset = load_dataset(model.dataset, gsd="native")
    if model.places:
        chosen, which = dataset.of_places(model.places, "--places"), ", ".join(model.places)
    else:
        chosen = {"train": dataset.train, "validate": dataset.validate, "all": dataset.scenes}[model.split]
        which = model.split
    chosen = tuple(scene for scene in chosen if scene.has_labels)
    if not chosen:
        what = (
            f"labels in {which}; choose other --places" if model.places else f"scene to {which}; choose another --split"
        )
        raise InputError(f"{model.dataset}: has no {what}")
    folder = resolve_model(model.model)
    card = load_card(folder)
    # Before anything is run, which may take hours.
    meaning = match_classes(dataset.classes, describe_model(model.model, card.classes), spec.map_prediction)
    if model.calibrate:
        check_calibration(folder, card, meaning, model.model)
        if model.calibrate == "objects" and not spec.polygons:
            raise UsageError("--calibrate objects: needs polygons, without --no-polygons")
    spec.check_out()
    pairs: list[Comparison] = []
    scored = []
    notices: list[str] = []
    trained = card.ground_sample_distance
    for scene in chosen:
        notices += [doubt for doubt in (nodata_doubt(scene), mask_doubt(scene)) if doubt is not None]
        own = scene.ground_sample_distance
        if scene.grid.ground_sample_distance is None and own and trained and not 0.8 <= own / trained <= 1.25:
            notices.append(
                f"{scene.name}: nothing in the image says its pixel size ({own:g} m by the dataset, {trained:g} m for "
                "the model), so the model saw it as it is; --scales resamples it"
            )
        same = card.bands == dataset.bands and not scene.scene.palette
        side = describe_side(_run(_run_spec(scene, model, spec, same_bands=same), listener, again=spec.overwrite))
        pair, said = pair_scene(scene, side, meaning)
        notices += said
        scored.append(score(pair, meaning.classes, options, _named(progress, scene.name)))
        pairs.append(pair)
    found = Evaluation(
        {"model": model.model, "dataset": f"{model.dataset} ({which})"},
        meaning.classes,
        tuple(scored),
        (*meaning.notices, *notices, *_sizes_in_pixels(options, pairs)),
        spec.distances,
        set_temperature(folder, pairs) if model.calibrate == "probabilities" else None,
    )
    if model.calibrate == "objects":
        found = replace(found, objects=set_chances(folder, found.places, found.classes))
    return _written(found, pairs, spec)


def _sizes_in_pixels(options: Options, pairs: Sequence[Comparison]) -> list[str]:
    """Of metres that count pixels because nothing says how large these are, a line each."""
    unknown = [pair.name for pair in pairs if pair.grid.ground_sample_distance is None]
    if not unknown:
        return []
    where = unknown[0] + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
    return [
        f"{name} {size} counts pixels in {where}: nothing says how large they are; write {size}px to mean that"
        for name, size in {"--boundary": options.band, "--min-area": options.min_area}.items()
        if size is not None and not size.in_pixels
    ]


def _run_spec(scene: LabelledScene, model: ModelSpec, spec: EvaluateSpec, *, same_bands: bool) -> RunSpec:
    # What the dataset chose as its bands is what the model gets, if they mean the same.
    folder = spec.out / _RUNS / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', scene.name)}.tileseg"
    return RunSpec.parse(
        {
            "scene": scene.scene.path,
            "out": folder,
            "model": model.model,
            "trust_vrt": scene.trust_vrt,
            "bands": scene.scene.bands if same_bands else None,
            **model.run,
        }
    )


def _run(spec: RunSpec, listener: Listener | None, *, again: bool) -> Path:
    """The folder of a run. One that is finished is taken as it is; with ``again``, one of other options is replaced."""
    from tileseg.run.scene import run

    try:
        run(spec, listener)
    except UsageError:
        if not again:
            raise
        run(spec.model_copy(update={"overwrite": True}), listener)
    assert isinstance(spec.folder, Path)  # below the evaluation's own
    return spec.folder


def _written(found: Evaluation, pairs: Sequence[Comparison], spec: EvaluateSpec) -> Evaluation:
    if not found.total.matrix.sum():
        found = replace(found, notices=(*found.notices, "there is no pixel with both a true and a predicted class"))
    write_report(spec.out / REPORT, found, {pair.name: pair for pair in pairs})
    write_atomic(spec.out / METRICS, json.dumps(found.to_json(), indent=2) + "\n")
    return found


def _named(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, blocks: progress(name, done, blocks)


def _column(path: Path, attribute: str | None) -> str | None:
    """The attribute, if a file of that kind can have one."""
    from tileseg.dataset.spec import VECTORS

    return attribute if path.suffix.lower() in VECTORS else None
