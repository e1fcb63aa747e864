"""The model card: what a model expects and gives. Plain data, so that planning needs no network."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from tileseg.errors import UsageError
from tileseg.polygons.quantity import Quantity

_COLORS = (
    "#d9544d", "#3f7fbf", "#4f9a4d", "#e0a030", "#8a63b0", "#4fb5b0", "#b5651d", "#d77fb0", "#6b6b76", "#9aa63c",
)  # fmt: skip

_BACKGROUND = "#c8b99a"

Activation = Literal["logits", "softmax", "sigmoid"]
Weights = Literal["float32", "int8"]


_DECIDES = (
    "name", "bands", "dtypes", "scaling", "classes", "activation", "output_channels", "stride", "radius", "local",
)  # fmt: skip
"""Fields of a card that decide pixels, polygons or their names; the name stands in the mosaic."""


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
    """Default colour of a class, by its place among the classes."""
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
    """Centre of the window, in pixel values (Hounsfield units, say)."""
    width: float | None = Field(default=None, gt=0)
    """Width of the window, in pixel values."""

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


class HandedOver(_Strict):
    """Which polygons the users of a model hand over: options of a run or of ``vectorize`` that give none themselves.

    All as on the command line.
    """

    min_area: str | None = None
    """Smaller polygons are dropped: ``4`` (square metres) or ``50px``."""
    fill_holes: str | None = None
    """Smaller holes are filled."""
    regularize: tuple[str, ...] = ()
    """Names of the classes whose outlines get straight walls and right angles, or ``all``."""
    tolerance: str | None = None
    """How far such outlines may lie from the raw ones: ``1`` (metres) or ``3px``."""

    @field_validator("min_area", "fill_holes", "tolerance")
    @classmethod
    def _a_size(cls, value: str | None) -> str | None:
        try:
            return None if value is None else str(Quantity.parse(value))
        except UsageError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> HandedOver:
        if self.tolerance is not None and not self.regularize:
            raise ValueError("tolerance is that of regularize, which names no class")
        return self

    @property
    def given(self) -> dict[str, JsonValue]:
        """The options that are given: none where polygons are handed over as the pixels have them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def told(self) -> str:
        """As they would be given on the command line."""
        sizes = {"min-area": self.min_area, "fill-holes": self.fill_holes, "tolerance": self.tolerance}
        texts = {**sizes, "regularize": ",".join(self.regularize) or None}
        return " ".join(f"--{name} {text}" for name, text in texts.items() if text is not None)


EXACT_BY = "exact_by"
"""Of an int8 form's calibration: the engines that give the same in windows of any size."""


class Loss(_Strict):
    """What a form of a network loses against its float32 form, on scenes that its making has not seen."""

    iou: float = Field(le=1)
    """Mean IoU of the float32 form less that of this one, mean over the scenes: 0.005 is half a point."""
    worst_iou: float = Field(le=1)
    """The same of the scene that loses most."""
    labels: float = Field(ge=0, le=1)
    """Share of the labels that differ."""
    ece: float | None = None
    """Expected calibration error of this form less that of the float32 form."""
    data: str
    """Which scenes, and whether they were compared with their labels or with what float32 gives."""

    @property
    def told(self) -> str:
        """In the user's words, the scenes aside."""
        return f"loses {100 * self.iou:.2f} points of IoU" if self.iou > 0 else "loses no IoU"


class PlaceCalibration(_Strict):
    """How far probabilities are off in one place, see :mod:`tileseg.evaluate.calibration`."""

    place: str
    count: int = Field(ge=1)
    """How many pixels, or objects, were looked at."""
    ece_before: float = Field(ge=0, le=1)
    """Expected calibration error of the network's own probabilities (of objects: of their means)."""
    ece_after: float = Field(ge=0, le=1)
    """The same with what was found in the other places, or in this one where it is the only one."""


class Temperature(_Strict):
    """What logits are divided by before they become probabilities, so that these mean what they say.

    Labels do not depend on it. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """

    value: float = Field(gt=0, allow_inf_nan=False)
    """Above 1, the network is surer of itself than it is right."""
    data: str
    """What it was found on."""
    places: tuple[PlaceCalibration, ...] = ()


class MatchChance(_Strict):
    """How likely a polygon of a class is that of a real object: that their IoU is 0.5 or more.

    A logistic regression; :mod:`tileseg.polygons.chance` has the formula.
    """

    weights: tuple[float, float, float, float, float]
    """Of 1, the logarithm of the area in square metres, its square, the logit of the mean probability, and whether the
    polygon touches the scene's edge."""
    data: str
    """What it was found on."""
    places: tuple[PlaceCalibration, ...] = ()


class Appearance(_Strict):
    """What the images looked like that a model was trained on; :mod:`tileseg.source.appearance` measures it."""

    middle: tuple[float, ...]
    """Of each feature, the median over windows of the training's scenes."""
    deviation: tuple[Annotated[float, Field(gt=0)], ...]
    """Of each feature, half of what the middle two thirds of these windows span."""
    far: float = Field(gt=0, allow_inf_nan=False)
    """A scene at a larger distance looks unlike them."""
    places: dict[str, float] = {}
    """Place -> its distance from the others: what ``far`` was found from."""

    @model_validator(mode="after")
    def _consistent(self) -> Appearance:
        if len(self.middle) != len(self.deviation):
            raise ValueError(
                f"{len(self.middle)} medians and {len(self.deviation)} deviations: expected as many of both"
            )
        return self


class Form(_Strict):
    """One file of a network: the same graph and weights in a format and precision of its own."""

    file: str = Field(pattern=r"^model(\.[a-z0-9_]+)+$")
    """Name in the model folder: ``model.keras``, ``model.int8.onnx``."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file."""
    precision: Weights = "float32"
    """What it computes in at least: ``int8`` is static quantisation."""
    calibration: dict[str, JsonValue] = {}
    """Free facts about how the ranges of an int8 form were found."""
    loss: Loss | None = None
    """What it loses; None for the form that is the network itself, or where it was not measured."""

    @property
    def suffix(self) -> str:
        """Which format it is: ``.keras``, ``.onnx``."""
        return self.file[self.file.rindex(".") :]


class ModelCard(_Strict):
    """What a model expects and gives, and the facts about its graph that plan a run."""

    format: Literal[2] = 2
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
    """What the graph gives: logits, softmax probabilities, or (one channel for two classes) a sigmoid's probability."""
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
    hands_over: HandedOver = HandedOver()
    """Which polygons its users hand over."""
    temperature: Temperature | None = None
    """None: nobody has measured whether probabilities are off, and they are given out as they are."""
    objects: dict[str, MatchChance] = {}
    """Name of a class -> how likely its polygons are real objects, where that was measured."""
    appearance: Appearance | None = None
    """None: nobody has measured what the images of the training look like."""
    credits: tuple[str, ...] = ()
    """Who made the training data, and under which licence."""
    training: dict[str, JsonValue] = {}
    """Free facts about how it was trained, and its scores: the settings that made it, say."""
    forms: tuple[Form, ...] = Field(min_length=1)
    """The files of the network; the first is the network itself, in float32, from which the others were made."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if len({form.file for form in self.forms}) < len(self.forms):
            raise ValueError("a file stands twice among the forms")
        for name in ("mean", "std"):
            if len(getattr(self.scaling, name)) not in (1, len(self.bands)):
                raise ValueError(f"scaling.{name} needs one value or {len(self.bands)} (one per band)")
        binary = self.output_channels == 1 and len(self.classes) == 2
        if not binary and self.output_channels != len(self.classes):
            raise ValueError(f"{self.output_channels} output channels cannot give {len(self.classes)} classes")
        if self.activation == "sigmoid" and not binary:
            raise ValueError("a sigmoid is understood for one channel and two classes only")
        known = {info.name for info in self.classes} if self.hands_over.regularize != ("all",) else {"all"}
        if strange := set(self.hands_over.regularize) - known:
            raise ValueError(f"hands_over.regularize: {', '.join(sorted(strange))}: not among the classes")
        if self.activation == "softmax" and self.output_channels == 1:
            raise ValueError("softmax of one channel is always 1: expected the activation sigmoid or logits")
        return self

    def takes(self, dtype: str) -> bool:
        """Whether the scaling is meant for pixels of a type. A window's is for values, whatever holds them: HU, say."""
        return dtype in self.dtypes or (self.scaling.kind == "window" and dtype not in ("uint8", "int8"))

    @property
    def halo(self) -> int:
        """Context around a core in pixels of the network's input: the radius, up to a multiple of the stride."""
        return -(-self.radius // self.stride) * self.stride

    @property
    def divisor(self) -> float:
        """What logits are divided by before they become probabilities: the temperature, or 1."""
        return 1.0 if self.temperature is None else self.temperature.value

    @property
    def sha256(self) -> str:
        """SHA-256 of the network itself: of its first form's file."""
        return self.forms[0].sha256

    def form(self, file: str) -> Form:
        """The form with a file's name. Raises KeyError if there is none."""
        return {form.file: form for form in self.forms}[file]

    def using(self, file: str) -> ModelCard:
        """The card with one form alone: what computing with it depends on."""
        return self.model_copy(update={"forms": (self.form(file),)})

    @property
    def decides(self) -> dict[str, JsonValue]:
        """What decides the result of a run beside the model's file (JSON values): runs and workers must agree on it.

        The ground sample distance decides by the scale that a run derives from it; sizes and costs decide nothing.
        """
        decided = self.model_dump(mode="json", include=set(_DECIDES))
        if self.temperature is not None:
            decided["temperature"] = self.temperature.value
        if self.objects:
            decided["objects"] = {name: list(chance.weights) for name, chance in self.objects.items()}
        return decided

    @property
    def digest(self) -> str:
        """SHA-256 of the first form's file and of what else in the card decides the result."""
        return hashlib.sha256(json.dumps([self.sha256, self.decides], sort_keys=True).encode()).hexdigest()
