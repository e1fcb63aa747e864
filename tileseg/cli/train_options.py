"""The options of ``tileseg train``, fields of :class:`tileseg.train.spec.TrainSpec`; None where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tileseg.cli.option import option

_DATA, _NETWORK, _TEACHER, _LENGTH = "Data", "Network", "Teacher", "Length"
_LOSS, _LEARNING, CONTROL = "Loss", "Learning", "Control"


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What is trained, and what its weights start from."""

    network: Annotated[
        str | None,
        option(
            _NETWORK,
            "Options, such as width=0.25,encoder=mobile; or a Keras network of your own.",
            metavar="NAME=VALUE,...|FILE.keras",
        ),
    ] = None
    encoder_weights: Annotated[
        str | None, option(_NETWORK, "What the VGG16 encoder starts from.", metavar="imagenet|FILE")
    ] = None
    init: Annotated[Path | None, option(_NETWORK, "Model folder whose weights the network starts from.")] = None
    quantize: Annotated[
        str | None, option(_NETWORK, "Teach the network of --init to be computed in int8.", metavar="int8")
    ] = None


@dataclass(frozen=True, slots=True)
class TeacherOptions:
    """Which model is learnt from besides the labels."""

    teacher: Annotated[
        Path | None,
        option(
            _TEACHER, "Model folder whose answers are learnt too; alone, where scenes have no labels.", metavar="MODEL"
        ),
    ] = None
    distill: Annotated[
        str | None,
        option(
            _TEACHER,
            "Its share of the loss, how soft its answers are, and what computes them; default "
            "alpha=0.5,temperature=2,precision=auto.",
            metavar="NAME=VALUE,...",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How patches are drawn from the scenes."""

    gsd: Annotated[
        str | None, option(_DATA, "Metres per pixel to resample to; default the dataset's.", metavar="native|METRES")
    ] = None
    leave_out: Annotated[
        str | None,
        option(_DATA, "Places to validate on; all others are trained on, however marked.", metavar="PLACE,..."),
    ] = None
    crop: Annotated[int | None, option(_DATA, "Side of a patch in pixels; default 256.")] = None
    batch: Annotated[int | None, option(_DATA, "Patches per step; default 8.")] = None
    balance: Annotated[float | None, option(_DATA, "Share of patches drawn where rare classes are; default 0.5.")] = (
        None
    )
    draw_by: Annotated[
        str | None,
        option(_DATA, "What counts alike when patches are drawn; default pixel.", metavar="pixel|scene|place"),
    ] = None
    scaling: Annotated[str | None, option(_DATA, "How values become the network's input.", metavar="dataset|unit")] = (
        None
    )
    value_window: Annotated[
        str | None, option(_DATA, "Values that matter, as in radiology; others are clipped.", metavar="CENTRE,WIDTH")
    ] = None
    augment: Annotated[
        str | None,
        option(_DATA, "Strengths, such as hue=0.1,cutmix=0.3,elastic=0; or none.", metavar="none|NAME=VALUE,..."),
    ] = None
    threads: Annotated[int | None, option(_DATA, "Threads that read and augment ahead; default 2.")] = None


@dataclass(frozen=True, slots=True)
class LengthOptions:
    """How long, and how often the network is validated."""

    steps: Annotated[int | None, option(_LENGTH, "Steps in all; default 2000.")] = None
    minutes: Annotated[
        float | None, option(_LENGTH, "Wall-clock limit; schedules follow it (then not exactly repeatable).")
    ] = None
    steps_per_epoch: Annotated[
        int | None, option(_LENGTH, "Steps between two validations and checkpoints; default 100.")
    ] = None
    validation_share: Annotated[
        float | None, option(_LENGTH, "Work of validating over that of training, at most; default 0.05.")
    ] = None
    patience: Annotated[int | None, option(_LENGTH, "Stop after so many validations without a better one.")] = None


@dataclass(frozen=True, slots=True)
class LossOptions:
    """What is minimised."""

    loss: Annotated[
        str | None, option(_LOSS, "Sum of ce, dice, focal, tversky, boundary; default ce+dice.", metavar="SUM")
    ] = None
    class_weights: Annotated[
        str | None, option(_LOSS, "One weight per class in ce and focal.", metavar="balanced|LIST")
    ] = None
    label_smoothing: Annotated[float | None, option(_LOSS, "Of cross-entropy; default 0.")] = None
    focal_alpha: Annotated[float | None, option(_LOSS, "Weight of the foreground in the focal loss.")] = None
    focal_gamma: Annotated[float | None, option(_LOSS, "Of the focal loss; default 2.")] = None
    tversky_beta: Annotated[float | None, option(_LOSS, "Weight of false negatives; default 0.7.")] = None


@dataclass(frozen=True, slots=True)
class RateOptions:
    """How fast, and when more slowly."""

    optimizer: Annotated[str | None, option(_LEARNING, "adamw (default) or adam.", metavar="adamw|adam")] = None
    rate: Annotated[float | None, option(_LEARNING, "Highest learning rate; default 0.001.")] = None
    encoder_rate: Annotated[float | None, option(_LEARNING, "Rate of the encoder, as a share; default 1.")] = None
    schedule: Annotated[str | None, option(_LEARNING, "cosine (default), plateau, step, constant.", metavar="NAME")] = (
        None
    )
    warmup: Annotated[
        int | None, option(_LEARNING, "Steps over which the rate rises; default 50, at most a tenth of all.")
    ] = None
    step_epochs: Annotated[int | None, option(_LEARNING, "Epochs between falls of 'step'; default 10.")] = None
    plateau_epochs: Annotated[
        int | None, option(_LEARNING, "Validations without a better one before 'plateau' falls; default 3.")
    ] = None
    fall: Annotated[float | None, option(_LEARNING, "What a fall leaves of the rate; default 0.3.")] = None


@dataclass(frozen=True, slots=True)
class UpdateOptions:
    """What an update does to the weights."""

    weight_decay: Annotated[float | None, option(_LEARNING, "Of kernels, decoupled; default 0.01.")] = None
    clip: Annotated[float | None, option(_LEARNING, "Largest norm of all gradients; default 1.")] = None
    accumulate: Annotated[int | None, option(_LEARNING, "Batches per update; default 1.")] = None
    ema: Annotated[
        float | None, option(_LEARNING, "Decay of the weights' running mean, which is then saved; default 0: none.")
    ] = None
    unfreeze: Annotated[
        int | None, option(_LEARNING, "Epochs between two encoder blocks that begin to learn; default 0: all learn.")
    ] = None
    freeze: Annotated[
        int | None,
        option(_LEARNING, "Layers of the encoder, from its first, that never learn; default 0, of VGG16 at most 13."),
    ] = None
    precision: Annotated[
        str | None, option(_LEARNING, "Of the layers; default float32.", metavar="float32|bfloat16|float16")
    ] = None


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What can be repeated, and what is shown of it."""

    seed: Annotated[int | None, option(CONTROL, "Of everything random; default 1.")] = None
    panel_every: Annotated[int | None, option(CONTROL, "Validations between panels of examples; default 5.")] = None


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a network is trained."""

    network: NetworkOptions
    teacher: TeacherOptions
    data: DataOptions
    length: LengthOptions
    loss: LossOptions
    rate: RateOptions
    update: UpdateOptions
    records: RecordOptions
