"""The model card: what a model expects and gives. Reading it needs no Keras, so that planning is quick."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from tileseg.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ARCHIVE = "model.keras"
EMBEDDED = "embedded"
"""Name of the model that comes with tileseg."""
_MODELS = Path(__file__).resolve().parent.parent / "models"

_COLORS = (
    "#d9544d", "#3f7fbf", "#4f9a4d", "#e0a030", "#8a63b0", "#4fb5b0", "#b5651d", "#d77fb0", "#6b6b76", "#9aa63c",
)  # fmt: skip
_BACKGROUND = "#c8b99a"

Activation = Literal["logits", "softmax", "sigmoid"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassInfo(_Strict):
    """One class; its id is its position in the card."""

    name: str = Field(min_length=1)
    color: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    """As in CSS: ``#rrggbb``."""
    background: bool = False
    """Background is labelled but not vectorised unless asked for with ``--classes``."""


def default_color(position: int, *, background: bool) -> str:
    """Colour of a class for which nobody chose one, by its place among the classes."""
    return _BACKGROUND if background else _COLORS[position % len(_COLORS)]


class Scaling(_Strict):
    """How pixel values become the network's input: ``(value / divisor - mean) / std``, per band.

    With a window, as radiologists use it, values are first clipped to ``center - width / 2 ... center + width / 2``
    and mapped to 0...1; there is no divisor then.
    """

    kind: Literal["fixed", "scene", "window"] = "fixed"
    """``scene``: mean and std are those of the scene's valid pixels (over ``divisor``), found once per scene."""
    divisor: float = Field(default=1.0, gt=0)
    """255 for 8-bit images that were divided by 255 in training."""
    mean: tuple[float, ...] = (0.0,)
    """One value, or one per band."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    """One value, or one per band."""
    center: float | None = None
    """Of the window, in pixel values (Hounsfield units, say)."""
    width: float | None = Field(default=None, gt=0)
    """Of the window, in pixel values."""

    @model_validator(mode="after")
    def _consistent(self) -> Scaling:
        if self.kind != "window":
            if self.center is not None or self.width is not None:
                raise ValueError('center and width are those of a window: expected kind "window"')
        elif self.center is None or self.width is None:
            raise ValueError("a window needs its center and its width")
        elif self.divisor != 1:
            raise ValueError("a window has no divisor: it maps its values to 0...1 itself")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """The pixel values that become 0 and 1 before mean and std apply; a window clips to them."""
        if self.center is None or self.width is None:
            return (0.0, self.divisor)
        return (self.center - self.width / 2, self.center + self.width / 2)

    @property
    def zero(self) -> tuple[float, ...]:
        """The pixel value that becomes 0: what the network sees where there is no data. One, or one per band."""
        low, high = self.limits
        return tuple(low + mean * (high - low) for mean in self.mean)

    @property
    def unit(self) -> tuple[float, ...]:
        """How many pixel values become 1 of the network's input. One, or one per band."""
        low, high = self.limits
        return tuple((high - low) * std for std in self.std)


class ModelCard(_Strict):
    """What a model expects and gives, and the facts about its graph that plan a run."""

    format: Literal[1] = 1
    name: str = Field(min_length=1)
    description: str = ""
    bands: tuple[str, ...] = Field(min_length=1)
    """Meaning of each input band, in order: ``("red", "green", "blue")``."""
    dtypes: tuple[str, ...] = ("uint8",)
    """Pixel types that the scaling is meant for; the first is the preferred one."""
    scaling: Scaling = Scaling()
    ground_sample_distance: float | None = Field(default=None, gt=0)
    """Metres per pixel of the images it was trained on."""
    classes: tuple[ClassInfo, ...] = Field(min_length=2, max_length=255)
    activation: Activation = "logits"
    """What the graph gives: logits, softmax probabilities, or (one channel for two classes) a sigmoid."""
    output_channels: int = Field(ge=1)
    """Channels of the graph's output: one per class, or 1 for two classes (then its logit is the second class's)."""
    stride: int = Field(ge=1)
    """Pixels: windows must start and end at multiples of it."""
    radius: int = Field(ge=0)
    """Pixels: how far one logit depends on its surroundings. Of no meaning when not ``local``."""
    local: bool = True
    """False where a layer looks at the whole window: then tiles cannot equal the whole, and are blended."""
    nonlocal_layers: tuple[str, ...] = ()
    """Names (and kinds) of the layers that are to blame."""
    flops_per_pixel: float = Field(gt=0)
    """Floating-point operations per input pixel of a large window (a multiply-add is two)."""
    activation_bytes_per_pixel: float = Field(gt=0)
    """Peak of the live float32 activations per input pixel: the memory of a window, to be scaled by precision."""
    parameters: int = Field(ge=0)
    credits: tuple[str, ...] = ()
    """Who made the training data, and under which licence."""
    training: dict[str, JsonValue] = {}
    """Free facts about how it was trained, and its scores: the settings that made it, say."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of ``model.keras``."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        for name in ("mean", "std"):
            if len(getattr(self.scaling, name)) not in (1, len(self.bands)):
                raise ValueError(f"scaling.{name} needs one value or {len(self.bands)} (one per band)")
        binary = self.output_channels == 1 and len(self.classes) == 2
        if not binary and self.output_channels != len(self.classes):
            raise ValueError(f"{self.output_channels} output channels cannot give {len(self.classes)} classes")
        if self.activation == "sigmoid" and not binary:
            raise ValueError("a sigmoid is understood for one channel and two classes only")
        return self

    @property
    def halo(self) -> int:
        """Context around a core in pixels of the network's input: the radius, up to a multiple of the stride."""
        return -(-self.radius // self.stride) * self.stride

    @property
    def background_ids(self) -> frozenset[int]:
        """Ids of the classes that are not vectorised by default."""
        return frozenset(i for i, c in enumerate(self.classes) if c.background)


def resolve_model(name: str | Path) -> Path:
    """The folder of a model: ``embedded`` (the one that comes with tileseg) or a path.

    Raises:
        InputError: If it is not a model folder; the message says what it is and what to do.
    """
    if str(name) == EMBEDDED:
        return _MODELS / EMBEDDED
    path = Path(name)
    if (path / "card.json").is_file():
        return path
    if path.suffix == ".keras" and path.is_file():
        raise InputError(f"{path}: a Keras file without a card; pack it first: tileseg model pack {path} FOLDER ...")
    if path.suffix in (".h5", ".hdf5"):
        raise InputError(
            f"{path}: .h5 models can run code when opened and are refused; save it as .keras with Keras 3 and pack "
            f"that: tileseg model pack {path.with_suffix('.keras')} FOLDER ..."
        )
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise InputError(f"{path}: pickles can run code when opened and are refused; expected a model folder")
    if (path / "saved_model.pb").is_file():
        raise InputError(
            f"{path}: a SavedModel cannot be checked and is refused; save it as .keras with Keras 3 and pack that: "
            "tileseg model pack MODEL.keras FOLDER ..."
        )
    if path.is_dir():
        raise InputError(f"{path}: not a model: no card.json in it; expected a folder with card.json and {ARCHIVE}")
    raise InputError(f"{path}: no such model; expected {EMBEDDED!r} or a folder with card.json and {ARCHIVE}")


def load_card(folder: Path) -> ModelCard:
    """Read ``card.json`` of a model folder. Raises InputError in one line."""
    path = folder / "card.json"
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder}: not a model: {error.strerror or error} (card.json); expected a folder with card.json and "
            "model.keras; `tileseg model pack` makes one from a .keras file"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {first_problem(error, ModelCard)}") from error


def check_archive(card: ModelCard, folder: Path) -> Path:
    """The model's file, if it is the one that the card was made for. Raises InputError in one line."""
    archive = folder / ARCHIVE
    if not archive.is_file():
        raise InputError(f"{folder}: no {ARCHIVE} beside card.json")
    if (found := file_sha256(archive)) != card.sha256:
        raise InputError(
            f"{archive}: not the file that the card was made for (SHA-256 {found[:12]}..., the card says "
            f"{card.sha256[:12]}...); pack the model again"
        )
    return archive


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def save_card(card: ModelCard, folder: Path) -> None:
    """Write ``card.json`` into a model folder."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8")


def first_problem(error: ValidationError | UnicodeDecodeError, model: type[BaseModel] | None = None) -> str:
    """The first complaint of a validation error as ``field: what is wrong``, in one line.

    Where a key is none of ``model``'s, or a table is missing, it names those that are.
    """
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    problems = error.errors()
    first, place = problems[0], problems[0]["loc"]
    match first["type"]:
        case "missing" if isinstance(place[-1], int):  # the values of a list that is too short, one complaint each
            given, place = place[-1], place[:-1]
            told = f"has {given} value{'s' * (given != 1)}; expected {given + _absent(problems, place)}"
        case "missing":
            told = "is missing"
        case "extra_forbidden":
            known = _keys(model, place[:-1])
            close = get_close_matches(str(place[-1]), known, 1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            told = f"is not known{meant}" + (f"; expected one of {', '.join(known)}" if known else "")
        case "model_type":
            told = f"expected a table of {', '.join(_keys(model, place))}, not {reprlib.repr(first['input'])}"
        case "tuple_type":
            told = f"expected a list, not {reprlib.repr(first['input'])}"
        case _:
            told = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in place)
    return f"{where}: {told}" if where else told


def _absent(problems: Sequence[ErrorDetails], place: tuple[int | str, ...]) -> int:
    return sum(problem["type"] == "missing" and problem["loc"][:-1] == place for problem in problems)


def _keys(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> list[str]:
    """What may be said at a place in a model, as users write it."""
    for part in place:  # positions in lists, which name no field, are passed over
        fields = {} if model is None else model.model_fields
        field = next((field for name, field in fields.items() if part in (name, field.alias)), None)
        model = model if field is None else _model_in(field.annotation)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, itself or as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
