"""Every option of a training, strict, from the command line, TOML or Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tileseg.errors import UsageError
from tileseg.nn.options import NetworkSpec
from tileseg.problems import first_problem
from tileseg.train.augment_spec import AugmentSpec

ALGORITHM = 4
"""Raised when the same options would train another model than before: unfinished trainings are then not resumed."""

_WARMUP = 50
"""Steps over which the rate rises, where the training is long enough and nothing else is said."""
WARMUP_PART = 10
"""One part of so many is what such a rise takes at most."""

_LATER = ("file", "fresh", "decoder_width", "decoder_convs")
"""Options of the network that were not there from the beginning."""

_NETWORK_FILES = (".keras", ".h5", ".hdf5", ".onnx", ".pt", ".pth", ".pkl", ".pb", ".tflite")
"""What is taken for the file of a network; only the first can be trained, and the others are told so."""

Schedule = Literal["cosine", "plateau", "step", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]


def _pairs(value: Any) -> Any:
    """``width=0.25,batch_norm=true`` as a table; a table as it is."""
    if not isinstance(value, str):
        return value
    table: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, given, text = part.partition("=")
        if not given:
            raise ValueError(f"expected name=value, not {part!r}")
        table[name.strip().replace("-", "_")] = _plain(text.strip())
    return table


def _network(value: Any) -> Any:
    """The file of a network, or a table of options."""
    if isinstance(value, str | Path) and "=" not in str(value) and Path(value).suffix in _NETWORK_FILES:
        return {"file": Path(value)}
    return _pairs(value)


def _plain(text: str) -> Any:
    """A value as TOML would read it; what is none of its own kinds is text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _strengths(value: Any) -> Any:
    """``none``, or a table of what differs from the defaults."""
    return AugmentSpec.none() if value == "none" else _pairs(value)


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_numbers(value: Any) -> Any:
    parts = _split(value)
    return [_plain(part) if isinstance(part, str) else part for part in parts] if isinstance(parts, list) else parts


def _weights(value: Any) -> Any:
    return value if value == "balanced" else _split(value)


def _native_or_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value != "native" and _plain(value) != value else value


Weights = tuple[Annotated[float, Field(ge=0, strict=False)], ...]


class DistillSpec(BaseModel):
    """How much of a teacher is learnt."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    alpha: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher in the loss, the ordinary one having the rest: at 1 the teacher alone."""
    temperature: float = Field(default=2.0, gt=0)
    """What logits are divided by before they are compared: higher, and what is unlikely counts more."""
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """What the teacher is computed in: by default the fastest that loses nothing to speak of; int8 is quicker still."""


class TrainSpec(BaseModel):
    """One training: which dataset, which network, and how. Tables may be given as ``name=value,name=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Path
    """TOML that lists the scenes and their labels."""
    out: Path
    """Model folder that is made; the training's own files are kept in ``training/`` in it."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the model in its card; by default that of the folder."""

    network: Annotated[NetworkSpec, BeforeValidator(_network)] = NetworkSpec()
    """Options of the network, or a ``.keras`` file that has it; by default those of ``init``, if that is given."""
    encoder_weights: str | None = None
    """``imagenet``, or a file of keras.applications.VGG16 without top: what the encoder starts from."""
    init: Path | None = None
    """Model folder whose weights the network starts from: layers that fit by name and shape."""

    quantize: Literal["int8"] | None = None
    """Teach the network of ``init`` to be computed in whole numbers: values and kernels are rounded in training."""

    teacher: Path | None = None
    """Model folder whose answers are learnt besides the labels, and alone where there are none."""
    distill: Annotated[DistillSpec, BeforeValidator(_pairs)] = DistillSpec()
    """How much of the teacher."""

    gsd: Annotated[Annotated[float, Field(gt=0)] | Literal["native"] | None, BeforeValidator(_native_or_number)] = None
    """Ground sample distance in metres that scenes are resampled to; by default what the dataset says."""
    leave_out: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Places of the dataset whose scenes are validated on, and all others trained on, however they are marked."""
    crop: int = Field(default=256, ge=16)
    """Side of a patch in pixels."""
    batch: int = Field(default=8, ge=1)
    """Patches per step."""
    balance: float = Field(default=0.5, ge=0, le=1)
    """Share of the patches that are drawn where rare classes are."""
    draw_by: Literal["pixel", "scene", "place"] = "pixel"
    """What counts alike, times the weights of scenes, when patches are drawn."""
    scaling: Literal["dataset", "unit"] = "dataset"
    """``dataset``: mean and deviation of the training scenes, per band; ``unit``: all values become -2 to 2."""
    value_window: Annotated[tuple[float, Annotated[float, Field(gt=0)]] | None, BeforeValidator(_split_numbers)] = None
    """Centre and width of the values that matter, as in radiology: others are clipped. By default all matter."""
    augment: Annotated[AugmentSpec, BeforeValidator(_strengths)] = AugmentSpec()
    """Strength of each augmentation."""

    steps: int | None = Field(default=None, ge=1)
    """Steps in all; 2000 where ``minutes`` is not given either."""
    minutes: float | None = Field(default=None, gt=0)
    """Most wall-clock minutes of training, over all its runs: schedules follow the share that is used up."""
    steps_per_epoch: int = Field(default=100, ge=1)
    """Steps after which the model is validated and the state is kept."""
    validation_share: float = Field(default=0.05, gt=0, le=1)
    """Work of validating in relation to that of training: as many validation windows as fit, spread evenly."""
    patience: int | None = Field(default=None, ge=1)
    """Stop when so many validations in a row brought nothing better."""

    loss: str = "ce+dice"
    """Weighted sum of ce, dice, focal, tversky and boundary, such as ``0.5*ce+1.0*dice``."""
    class_weights: Annotated[Weights | Literal["balanced"] | None, BeforeValidator(_weights)] = None
    """One weight per class in cross-entropy, and in the focal loss where there is no ``focal_alpha``; ``balanced``: by
    the square root of their rarity."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    focal_alpha: float | None = Field(default=None, gt=0, lt=1)
    """Weight of the foreground in the focal loss."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """How much the focal loss turns away from what is easy."""
    tversky_beta: float = Field(default=0.7, gt=0, lt=1)
    """Weight of what is missed, against what is invented."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    rate: float = Field(default=1e-3, gt=0)
    """Learning rate at its highest; where ``init`` is given and it is not, 3e-4."""
    encoder_rate: float = Field(default=1.0, ge=0)
    """Learning rate of the encoder as a share of ``rate``."""
    schedule: Schedule = "cosine"
    """How the rate falls: to nothing by a cosine, at plateaus of the validation score, in steps, or not at all."""
    warmup: int | None = Field(default=None, ge=0)
    """Steps over which the rate rises; by default 50, but no more than a tenth of the training."""
    step_epochs: int = Field(default=10, ge=1)
    """Epochs between two falls of the schedule ``step``."""
    plateau_epochs: int = Field(default=3, ge=1)
    """Validations without anything better before the schedule ``plateau`` falls."""
    fall: float = Field(default=0.3, gt=0, lt=1)
    """What is left of the rate after a fall of ``step`` or ``plateau``."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Share of the weights that a step takes away, times the rate; of kernels only. Adam takes none."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of all gradients together."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one update."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the running mean of the weights, such as 0.998, which is then validated and saved; 0: none."""
    unfreeze: int = Field(default=0, ge=0)
    """Epochs between two blocks of the encoder that begin to learn, the deepest first; 0: all learn at once."""
    freeze: int = Field(default=0, ge=0)
    """Layers of the encoder that stay as they are throughout, from its first: 13 are all of VGG16."""

    precision: Precision = "float32"
    """Arithmetic of the layers; weights, loss and logits are float32 always."""
    seed: int = Field(default=1, ge=0, lt=2**31)
    threads: int = Field(default=2, ge=1)
    """Threads that read and augment patches ahead."""
    panel_every: int = Field(default=5, ge=0)
    """Validations between two panels of examples; 0: none but the last."""
    overwrite: bool = False
    """Start anew in a folder that is finished or was trained with other options."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop % 16:
            raise ValueError(f"crop: must be a multiple of 16, not {self.crop}")
        if self.encoder_weights is not None and self.init is not None:
            raise ValueError("init: starts from a whole model; encoder_weights cannot be given too")
        if self.quantize is not None:
            if self.init is None:
                raise ValueError("quantize: goes on from a finished model; give it with --init")
            if "network" in self.model_fields_set:
                raise ValueError("quantize: trains the network of --init; --network cannot be given too")
            if self.precision != "float32":
                raise ValueError(f"quantize: rounds values itself; expected --precision float32, not {self.precision}")
        if self.teacher is None and "distill" in self.model_fields_set:
            raise ValueError("distill: says how a teacher is learnt from; give a --teacher, or leave it out")
        return self

    @classmethod
    def parse(cls, options: dict[str, Any]) -> Self:
        """Check options (names as the fields). Raises UsageError in one line."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            where, colon, what = first_problem(error, cls).partition(": ")
            option = where.replace("_", "-").replace(".", " ", 1)
            raise UsageError(f"--{option}{colon}{what}") from error

    @property
    def last_step(self) -> int | None:
        """Steps in all, or None where only time ends the training."""
        return self.steps if self.steps is not None else None if self.minutes is not None else 2000

    @property
    def warmup_steps(self) -> int:
        """Steps over which the rate rises, as far as steps tell: where time ends the training, it may rise faster."""
        if self.warmup is not None:
            return self.warmup
        return _WARMUP if self.last_step is None else min(_WARMUP, self.last_step // WARMUP_PART)

    @property
    def value_limits(self) -> tuple[float, float] | None:
        """Pixel values beyond which others count as these; None: all count as they are."""
        if self.value_window is None:
            return None
        center, width = self.value_window
        return center - width / 2, center + width / 2

    def choices(self) -> dict[str, Any]:
        """The options that decide what comes out, as JSON values: trainings that differ here share no folder."""
        chosen = self.model_dump(mode="json", exclude={"dataset", "out", "name", "threads", "panel_every", "overwrite"})
        # Trainings which began before there were such options go on.
        if not self.leave_out:
            del chosen["leave_out"]
        if self.teacher is None:
            del chosen["teacher"], chosen["distill"]
        if self.quantize is None:
            del chosen["quantize"]
        for name in _LATER:
            if chosen["network"][name] == NetworkSpec.model_fields[name].default:
                del chosen["network"][name]
        # The number, given or not: so that trainings which began when it was always 50 go on where it still is.
        return chosen | {"warmup": self.warmup_steps}

    def for_card(self) -> dict[str, Any]:
        """The choices as a model's card has them: files and folders by their names, as cards are given to others."""
        names = {name: value.name for name, value in self if isinstance(value, Path)}
        choices = self.choices()
        chosen = choices | {name: short for name, short in names.items() if name in choices}
        if self.network.file is not None:
            chosen["network"] = {**chosen["network"], "file": self.network.file.name}
        return chosen
