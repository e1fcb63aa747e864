"""A card made of what a graph says and of what its owner says, and compared with the graph. No framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, ValidationError

from tileseg.card import Activation, Appearance, ClassInfo, Form, HandedOver, ModelCard, Scaling, Weights
from tileseg.errors import InputError
from tileseg.nn.activation import Ending, RandomImages, contradiction, contradiction_of_outputs
from tileseg.nn.folder import save_card
from tileseg.nn.locality import Locality
from tileseg.problems import first_problem
from tileseg.storage.digest import file_sha256

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a card says that no graph knows; the fields are those of :class:`tileseg.card.ModelCard`."""

    name: str
    bands: tuple[str, ...]
    classes: tuple[ClassInfo, ...]
    scaling: Scaling
    description: str = ""
    dtypes: tuple[str, ...] = ("uint8",)
    ground_sample_distance: float | None = None
    activation: Activation = "logits"
    hands_over: HandedOver = field(default_factory=HandedOver)
    appearance: Appearance | None = None
    credits: tuple[str, ...] = ()
    training: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph says of itself, whatever its format."""

    name: str
    bands: int
    channels: int
    parameters: int
    locality: Locality
    ending: Ending | None

    def check(self, described: Description) -> None:
        """Raise InputError where the graph is not what its owner says."""
        if self.bands != len(described.bands):
            raise InputError(f"model {self.name} takes {self.bands} bands, but {len(described.bands)} are named")
        self.check_activation(described.activation, contradiction(self.ending, self.channels, described.activation))

    def check_activation(self, claim: Activation, why: str | None) -> None:
        """Raise InputError where something speaks against what the model is said to give."""
        if why:
            raise InputError(f"model {self.name} is said to give {claim}, but {why}")

    def card(self, described: Description, form: Form) -> ModelCard:
        """The card of a network whose only form is this one. Raises InputError where it would contradict itself."""
        try:
            return ModelCard(
                **{field.name: getattr(described, field.name) for field in fields(described)},
                output_channels=self.channels,
                stride=self.locality.stride,
                radius=self.locality.radius,
                local=self.locality.local,
                nonlocal_layers=self.locality.nonlocal_layers,
                flops_per_pixel=self.locality.flops_per_pixel,
                activation_bytes_per_pixel=self.locality.activation_bytes_per_pixel,
                parameters=self.parameters,
                forms=(form,),
            )
        except ValidationError as error:
            raise InputError(
                f"model {self.name} and its card do not agree: {first_problem(error, ModelCard)}"
            ) from error


def check_card(facts: GraphFacts, card: ModelCard, folder: Path) -> None:
    """Compare a card with what the graph says. Raises InputError at the first contradiction."""
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("bands", len(card.bands), facts.bands),
        ("output channels", card.output_channels, facts.channels),
        ("stride", card.stride, facts.locality.stride),
        ("locality", card.local, facts.locality.local),
    )
    for what, said, true in pairs:
        if said != true:
            raise InputError(
                f"{folder / 'card.json'}: {what} {said} in the card, {true} in the model's graph; pack the model again"
            )
    if card.local and card.radius < facts.locality.radius:
        raise InputError(
            f"{folder / 'card.json'}: radius {card.radius} in the card, {facts.locality.radius} in the model's graph; "
            "pack the model again"
        )
    if why := contradiction(facts.ending, facts.channels, card.activation):
        raise InputError(
            f"{folder / 'card.json'}: activation {card.activation} in the card, but {why} when packing again"
        )


def keep(
    archive: Path,
    write: Callable[[Path], object],
    facts: GraphFacts,
    described: Description,
    compute: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]],
    precision: Weights = "float32",
    images: RandomImages | None = None,
) -> ModelCard:
    """Make the folder of a graph that gives what it is said to give. Raises InputError, and writes nothing, if not.

    Args:
        archive: The file to make.
        write: Puts the graph into a file of this name.
        facts: What the graph says of itself.
        described: What its owner says.
        compute: Images (n, rows, columns, bands) -> maps (n, rows, columns, channels).
        precision: Of its weights.
        images: As it takes them; None: any numbers.
    """
    claim, images = described.activation, images or RandomImages(facts.bands)
    facts.check_activation(claim, contradiction_of_outputs(compute, images, claim, facts.locality.stride, facts.name))
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".partial-{archive.name}")
    write(partial)
    try:
        card = facts.card(described, Form(file=archive.name, sha256=file_sha256(partial), precision=precision))
    except InputError:
        partial.unlink()
        raise
    partial.replace(archive)
    save_card(card, archive.parent)
    return card
