"""Everything before the first step: data, scaling, network. No file is changed, so a mistake here costs nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from pydantic import ValidationError

from tileseg.card import HandedOver, ModelCard
from tileseg.dataset.dataset import Dataset, load_dataset
from tileseg.dataset.doubts import mask_doubt, nodata_doubt
from tileseg.dataset.patches import PatchSampler, count_cells
from tileseg.dataset.statistics import DatasetStatistics, statistics
from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras
from tileseg.nn.bundle import load_bundle
from tileseg.nn.encoder_weights import load_encoder_weights, settle_norms
from tileseg.nn.folder import load_card, resolve_model
from tileseg.nn.network_file import open_for_int8, open_network_file
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import BLOCKS, part_of
from tileseg.run.block import fill_of
from tileseg.train.checkpoint import Progress
from tileseg.train.folder import TrainingFolder
from tileseg.train.learner import Blueprint, Learner, OwnNetwork
from tileseg.train.losses import OPTIONS, DistilledLoss, Loss, parse_loss, refuse_idle_options
from tileseg.train.normalisation import Normalisation, normalisation_like, normalisation_of
from tileseg.train.spec import TrainSpec
from tileseg.train.teacher import Teacher, coarser_or_finer, open_teacher
from tileseg.train.validation import Validation

RATE_OF_INIT = 3e-4
"""Learning rate of a training that begins with a model, where none is given."""
_MOST_LISTED = 6
"""Names of layers in one line."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PreparedTraining:
    """A training that may begin."""

    spec: TrainSpec
    folder: TrainingFolder
    dataset: Dataset
    normalisation: Normalisation
    sampler: PatchSampler
    validation: Validation
    learner: Learner
    teacher: Teacher | None
    hands_over: HandedOver
    """Which polygons the model's users hand over: as those of ``init``, if its classes are the same."""
    progress: Progress
    """Where the training begins, or goes on."""

    @property
    def ground_sample_distance(self) -> float | None:
        """Metres per pixel that the network is trained at; None where nothing says it."""
        return _ground_sample_distance(self.dataset)

    @property
    def about(self) -> str:
        """What the user reads first, in one line."""
        count = len(self.dataset.train)
        scenes = f"{count} scene{'s' * (count != 1)} to train on, {len(self.dataset.validate)} to validate on"
        windows = f"{len(self.validation.watched)} of {len(self.validation.windows)} validation windows"
        gsd = self.ground_sample_distance
        return (
            f"{scenes} ({windows}), {'' if gsd is None else f'{gsd:g} m per pixel, '}"
            f"{self.learner.model.count_params():,} parameters, {self.spec.precision}"
        )


def like_init(spec: TrainSpec) -> tuple[TrainSpec, str | None]:
    """The options of a training that begins with a model: where ``network`` and ``rate`` are not given, those for it.

    The network is the one that the model's card has the options of; a network that knows something already is to learn
    slowly. Also what to tell the user, or None.
    """
    if spec.init is None:
        return spec, None
    try:
        card = load_card(resolve_model(spec.init))
    except InputError:
        return spec, None  # refused where the training is prepared, after what speaks against the options
    taken: dict[str, object] = {}
    listed = card.training.get("spec")
    options = listed.get("network") if isinstance(listed, dict) else None
    if "network" not in spec.model_fields_set and spec.quantize is None and isinstance(options, dict):
        with contextlib.suppress(ValidationError):  # of a file, or of another version: layers are compared, then
            taken["network"] = NetworkSpec.model_validate(options)
    if "rate" not in spec.model_fields_set:
        taken["rate"] = RATE_OF_INIT
    if not taken:
        return spec, None
    told = [f"--rate {RATE_OF_INIT:g}"] if "rate" in taken else []
    if isinstance(network := taken.get("network"), NetworkSpec):
        given = network.model_dump(exclude_defaults=True)
        shown = ",".join(f"{name}={str(value).lower()}" for name, value in given.items())
        told.insert(0, f"--network {shown}" if shown else "the usual network")
    return spec.model_copy(
        update=taken
    ), f"--init {spec.init}: begins with {' and '.join(told)}, as nothing else is said"


def load_scenes(spec: TrainSpec) -> Dataset:
    """The dataset of a training, with what is left out of it.

    Raises InputError where it cannot be used or has nothing to train on, UsageError for places that it has not.
    """
    dataset = load_dataset(spec.dataset, gsd=spec.gsd)
    if spec.leave_out:
        dataset = dataset.leaving_out(spec.leave_out)
    if not dataset.train:
        raise InputError(f'{spec.dataset}: no scenes to train on; expected split = "train"')
    without = [scene for scene in dataset.train if not scene.has_labels]
    if without and spec.teacher is None:
        raise InputError(
            f"{without[0].scene.path}: has no labels in {spec.dataset}{_and_more(len(without))}; give labels, or a "
            "--teacher that it can be learnt from"
        )
    return dataset


def prepare(spec: TrainSpec, dataset: Dataset, folder: TrainingFolder, notice: Notice) -> PreparedTraining:
    """Read what a training needs to know, and build its network; ``notice`` is called with what is odd.

    Raises UsageError, InputError.
    """
    if (unsized := _unsized(dataset)) is not None:
        notice(unsized)
    if spec.warmup is not None and spec.last_step is not None and spec.warmup > spec.last_step:
        notice(
            f"--warmup {spec.warmup}: is longer than the training ({spec.last_step} "
            f"step{'s' * (spec.last_step != 1)}), so the learning rate never reaches {spec.rate:g}"
        )
    blueprint = _blueprint(spec, dataset)
    found = _statistics(spec, dataset)
    normalisation, hands_over = normalisation_of(spec, dataset.dtype, found), HandedOver()
    if spec.init is not None:
        card = load_card(resolve_model(spec.init))
        _refuse_other_bands(spec, card, dataset)
        normalisation = normalisation_like(card, normalisation)
        if [info.name for info in card.classes] == [info.name for info in dataset.classes]:
            hands_over = card.hands_over
    # Where images have no data the network sees what a run will show it there.
    dataset = dataset.filled(fill_of(normalisation.scaling, dataset.dtype))
    loss = _loss(spec, dataset, found)
    teacher = None
    if spec.teacher is not None:
        teacher = open_teacher(spec, dataset, normalisation)
        if (doubt := coarser_or_finer(spec, _ground_sample_distance(dataset))) is not None:
            notice(doubt)
    learner = Learner(spec, blueprint, loss, normalisation)
    sampler = read_labels(spec, dataset, notice)
    return PreparedTraining(
        spec=spec,
        folder=folder,
        dataset=dataset,
        normalisation=normalisation,
        progress=_start(spec, folder, learner, sampler, normalisation, notice),
        sampler=sampler,
        validation=_choose_windows(spec, dataset, blueprint.stride, notice),
        learner=learner,
        teacher=teacher,
        hands_over=hands_over,
    )


def _blueprint(spec: TrainSpec, dataset: Dataset) -> Blueprint:
    """The network that is trained. Raises InputError or UsageError for a file that cannot be, or not so."""
    path = spec.network.file
    if spec.quantize is not None:
        return _for_int8(spec, dataset)
    if path is None:
        return OwnNetwork(spec.network, len(dataset.bands), len(dataset.classes))
    if spec.encoder_weights is not None:
        raise UsageError(f"--encoder-weights: is for tileseg's own networks; {path} brings its weights")
    network = open_network_file(path, dataset.bands, len(dataset.classes), own_weights=not spec.network.fresh)
    parts = {part_of(step.operation.name) for step in network.graph.steps}
    for option, given, known in (
        ("encoder_rate", spec.encoder_rate != 1, parts != {"decoder"}),
        ("unfreeze", spec.unfreeze > 0, not parts.isdisjoint(BLOCKS)),
        ("freeze", spec.freeze > 0, not parts.isdisjoint(BLOCKS)),
    ):
        if given and not known:
            raise UsageError(
                f"--{option.replace('_', '-')}: finds nothing in {path}; it is for layers called "
                f"{BLOCKS[0]}_... to {BLOCKS[-1]}_..., as those of VGG16 are"
            )
    if spec.crop % network.stride:
        raise UsageError(f"--crop {spec.crop}: --network {path} takes patches of multiples of {network.stride} pixels")
    return network


def _for_int8(spec: TrainSpec, dataset: Dataset) -> Blueprint:
    """The network of ``init``, to be trained for int8. Raises InputError where it is for something else."""
    assert spec.init is not None
    folder = resolve_model(spec.init)
    theirs, ours = ([info.name for info in infos] for infos in (load_card(folder).classes, dataset.classes))
    if theirs != ours:
        raise InputError(
            f"--init {spec.init}: has the classes {', '.join(theirs)}, the dataset {', '.join(ours)}; --quantize "
            "expects the same in the same order"
        )
    return open_for_int8(folder, dataset.bands, len(dataset.classes))


def _statistics(spec: TrainSpec, dataset: Dataset) -> DatasetStatistics:
    """What the scenes to train on are like; where nothing in them is known, misunderstood labels may be why."""
    try:
        return statistics(dataset.train, classes=len(dataset.classes), limits=spec.value_limits)
    except InputError as error:
        doubts = (doubt for scene in dataset.train for doubt in (mask_doubt(scene), nodata_doubt(scene)))
        if (first := next((doubt for doubt in doubts if doubt is not None), None)) is None:
            raise
        raise InputError(f"{error}; {first}") from error


def _start(
    spec: TrainSpec,
    folder: TrainingFolder,
    learner: Learner,
    sampler: PatchSampler,
    normalisation: Normalisation,
    notice: Notice,
) -> Progress:
    """Give the network its first weights: those of the last checkpoint, of another model, or random ones."""
    # Another process may replace the state before the folder is ours; its own would have become the same.
    checkpoint = None if spec.overwrite else folder.store.read(folder.store.last)
    if checkpoint is not None:
        learner.restore(checkpoint)
        return checkpoint.progress
    if spec.quantize is not None:
        pass  # it is built with the weights of --init
    elif spec.init is not None:
        _start_from(learner.network, spec, notice)
    elif spec.encoder_weights is not None:
        load_encoder_weights(learner.model, spec.encoder_weights)
        side = spec.crop  # patches may be larger
        pixels = sampler.batch(0)[0][:, -side:, -side:]
        settle_norms(learner.model, (normalisation.to_unit(pixels) - normalisation.mean) / normalisation.std)
    return Progress()


def _refuse_other_bands(spec: TrainSpec, card: ModelCard, dataset: Dataset) -> None:
    if card.bands != dataset.bands:
        raise InputError(
            f"--init {spec.init}: takes the bands {', '.join(card.bands)}, the dataset has {', '.join(dataset.bands)}; "
            "expected the same in the same order: change bands in the dataset, or start without --init"
        )


def _start_from(network: keras.Model, spec: TrainSpec, notice: Notice) -> None:
    """Take over the weights of a model's layers that have the same names and shapes; say which have none."""
    assert spec.init is not None
    source, _ = load_bundle(resolve_model(spec.init))
    taken, anew = 0, []
    layers = {layer.name: layer for layer in source.layers}
    for layer in network.layers:
        if not layer.weights:
            continue
        weights = layers[layer.name].get_weights() if layer.name in layers else []
        if [w.shape for w in weights] == [tuple(w.shape) for w in layer.weights]:
            layer.set_weights(weights)
            taken += 1
        else:
            anew.append(layer.name)
    if not taken:
        raise InputError(
            f"--init {spec.init}: none of its layers fits this network by name and shape; give the --network options "
            "that it was trained with (tileseg model info -v)"
        )
    if anew:
        listed = ", ".join(anew[:_MOST_LISTED]) + (f" and {len(anew) - _MOST_LISTED} more" * (len(anew) > _MOST_LISTED))
        notice(
            f"--init {spec.init}: {taken} of {taken + len(anew)} layers fit by name and shape; these start anew: "
            f"{listed}"
        )


def read_labels(spec: TrainSpec, dataset: Dataset, notice: Notice) -> PatchSampler:
    """Count the labels of all scenes: one that is no class shows before the first step, wherever it is.

    ``notice`` is called with what labels probably do not mean. Raises InputError.
    """
    hidden = [doubt for scene in dataset.scenes if (doubt := nodata_doubt(scene)) is not None]
    if hidden:
        notice(hidden[0] + _and_more(len(hidden)))
    # Larger patches than are learnt from, so that what turns or shrinks brings in its real surroundings.
    margin = spec.crop // 8 if spec.augment.moves else 0
    sampler = PatchSampler(
        dataset.train,
        size=spec.crop + 2 * margin,
        batch=spec.batch,
        seed=spec.seed,
        balance=spec.balance,
        by=spec.draw_by,
    )
    validated = count_cells(dataset.validate, len(dataset.classes), sampler.cells.side)
    doubts = []
    for scene, counts in zip(dataset.scenes, sampler.cells.counts + validated.counts, strict=True):
        known = counts.sum(axis=(0, 1), dtype=np.int64)
        # Only a scene of one class and of what is not known can be a mask: others are not read again.
        if np.count_nonzero(known) == 1 and known.sum() < scene.extent.pixels and (doubt := mask_doubt(scene)):
            doubts.append(doubt)
    if doubts:
        notice(doubts[0] + _and_more(len(doubts)))
    return sampler


def _choose_windows(spec: TrainSpec, dataset: Dataset, stride: int, notice: Notice) -> Validation:
    if not dataset.validate:
        notice('no scenes to validate on (split = "validate"): the last weights are kept, unscored')
    return Validation.plan(spec, dataset, stride)


def _ground_sample_distance(dataset: Dataset) -> float | None:
    """Metres per pixel that the network is trained at: the median scene's where scenes are read as they are.

    None where no scene for training says its own: then none can have been resampled.
    """
    known = [s.ground_sample_distance for s in dataset.train if s.ground_sample_distance is not None]
    if not known:
        return None
    return dataset.ground_sample_distance or round(median(known), 4)


def _unsized(dataset: Dataset) -> str | None:
    """What to say of scenes whose ground sample distance is not known while one was asked for, or others have one."""
    without = [scene for scene in dataset.scenes if scene.ground_sample_distance is None]
    asked = dataset.ground_sample_distance
    if not without or (asked is None and len(without) == len(dataset.scenes)):
        return None
    instead = "" if asked is None else f" instead of at {asked:g} m per pixel"
    card = "" if _ground_sample_distance(dataset) is not None else ", and the model's card names none"
    return (
        f"{without[0].scene.path}: does not say its ground sample distance, so it is read as it is{instead}{card}; "
        f"give pixel_size (metres){_and_more(len(without))}"
    )


def _and_more(count: int) -> str:
    """Follows what was said of the first of several."""
    return f" ({count - 1} more like it)" if count > 1 else ""


def _is_given(spec: TrainSpec, name: str) -> bool:
    return bool(getattr(spec, name) != TrainSpec.model_fields[name].default)


def _loss(spec: TrainSpec, dataset: Dataset, found: DatasetStatistics) -> Loss | DistilledLoss:
    refuse_idle_options(spec.loss, {name: getattr(spec, name) for name in OPTIONS if _is_given(spec, name)})
    weights: tuple[float, ...] | None
    if spec.class_weights == "balanced":
        shares = np.maximum(np.asarray(found.class_shares, np.float64), 1e-4)
        rarity = 1 / np.sqrt(shares)
        weights = tuple(float(w) for w in rarity / rarity.mean())
    else:
        weights = spec.class_weights
    background = next((i for i, info in enumerate(dataset.classes) if info.background), None)
    ordinary = parse_loss(
        spec.loss,
        classes=len(dataset.classes),
        background=background,
        class_weights=weights,
        label_smoothing=spec.label_smoothing,
        focal_alpha=spec.focal_alpha,
        focal_gamma=spec.focal_gamma,
        tversky_beta=spec.tversky_beta,
    )
    if spec.teacher is None:
        return ordinary
    return DistilledLoss(ordinary, spec.distill.alpha, spec.distill.temperature)
