"""A model on disk: a folder with ``card.json`` and ``model.keras``, checked before anything in it is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tileseg.card import Activation, ClassInfo, ModelCard, Scaling
from tileseg.errors import InputError, UsageError, first_line
from tileseg.nn.activation import contradiction, contradiction_of_outputs
from tileseg.nn.backend import keras
from tileseg.nn.folder import ARCHIVE, check_archive, load_card, resolve_model, save_card
from tileseg.nn.receptive import analyse
from tileseg.nn.sizes import with_free_size
from tileseg.problems import first_problem
from tileseg.storage.digest import file_sha256

_CODE = {"Lambda"}
"""Layers that hold code."""
_TRUSTED = ("keras", "builtins", "tileseg.")


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
    credits: tuple[str, ...] = ()
    training: Mapping[str, JsonValue] = field(default_factory=dict)


def save_bundle(model: keras.Model, folder: Path, described: Description) -> ModelCard:
    """Write a model and its card; stride, radius, locality and costs are derived from the graph.

    A model that was built for images of one size is saved for any.

    Raises:
        InputError: If the model cannot be used for segmentation, or the description contradicts it.
    """
    _refuse_code(json.loads(model.to_json()), folder)
    model = with_free_size(model)
    facts = analyse(model)
    if model.inputs[0].shape[-1] != len(described.bands):
        raise InputError(
            f"model {model.name} takes {model.inputs[0].shape[-1]} bands, but {len(described.bands)} are named"
        )
    channels = model.outputs[0].shape[-1]
    _check_activation(model, described.activation, facts.stride, f"model {model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    partial = folder / f".partial-{ARCHIVE}"
    # A model of the same layers, never compiled: the optimizer's state would triple the file.
    keras.Model(model.inputs[0], model.outputs[0], name=model.name).save(partial)
    try:
        card = ModelCard(
            **{field.name: getattr(described, field.name) for field in fields(described)},
            output_channels=channels,
            stride=facts.stride,
            radius=facts.radius,
            local=facts.local,
            nonlocal_layers=facts.nonlocal_layers,
            flops_per_pixel=facts.flops_per_pixel,
            activation_bytes_per_pixel=facts.activation_bytes_per_pixel,
            parameters=model.count_params(),
            sha256=file_sha256(partial),
        )
    except ValidationError as error:
        partial.unlink()
        raise InputError(f"model {model.name} and its card do not agree: {first_problem(error, ModelCard)}") from error
    partial.replace(archive)
    save_card(card, folder)
    return card


def load_bundle(folder: Path) -> tuple[keras.Model, ModelCard]:
    """Open a model folder: the archive is the one that the card was made for, holds no code, and fits the card.

    Raises:
        InputError: In one line, if it is not.
    """
    card = load_card(folder)
    archive = check_archive(card, folder)
    model = load_archive(archive)
    check_card(model, card, folder)
    return model, card


def check_card(model: keras.Model, card: ModelCard, folder: Path) -> None:
    """Compare a card with what the graph says. Raises InputError at the first contradiction."""
    facts = analyse(model)
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("bands", len(card.bands), model.inputs[0].shape[-1]),
        ("output channels", card.output_channels, model.outputs[0].shape[-1]),
        ("stride", card.stride, facts.stride),
        ("locality", card.local, facts.local),
    )
    for what, said, true in pairs:
        if said != true:
            raise InputError(
                f"{folder / 'card.json'}: {what} {said} in the card, {true} in the model's graph; pack the model again"
            )
    if card.local and card.radius < facts.radius:
        raise InputError(
            f"{folder / 'card.json'}: radius {card.radius} in the card, {facts.radius} in the model's graph; pack the "
            "model again"
        )
    if why := contradiction(model, card.activation):
        raise InputError(
            f"{folder / 'card.json'}: activation {card.activation} in the card, but {why} when packing again"
        )


def pack(archive: Path, folder: Path, described: Description) -> ModelCard:
    """Make a model folder from a ``.keras`` file of any origin.

    Raises:
        InputError: If the file is refused, or the description contradicts it.
        UsageError: If the folder already holds a model.
    """
    if (folder / "card.json").exists():
        raise UsageError(f"{folder}: already holds a model; choose another folder")
    return save_bundle(load_archive(archive), folder, described)


def _check_activation(model: keras.Model, claim: Activation, stride: int, who: str) -> None:
    """Raise InputError where the graph, or what it gives for random images, is not what is claimed."""
    why = contradiction(model, claim) or contradiction_of_outputs(model, claim, stride)
    if why:
        raise InputError(f"{who} is said to give {claim}, but {why}")


def load_archive(path: Path) -> keras.Model:
    """Open a ``.keras`` archive that holds no code, without its training state, for images of any size.

    Raises:
        InputError: If it is anything else.
    """
    if path.suffix != ".keras" or not path.is_file():
        resolve_model(path)
        raise InputError(f"{path}: expected a .keras file, saved by Keras 3")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a .keras archive ({error}); expected one saved by Keras 3") from error
    _refuse_code(config, path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # layers of all versions raise what they like
        raise InputError(f"{path}: Keras cannot open it: {first_line(error)}") from error
    try:
        return with_free_size(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _refuse_code(config: Any, path: Path) -> None:
    """Raise InputError where a model's configuration names a layer that holds or needs code."""
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
            kind, module = item.get("class_name"), item.get("module")
            if kind in _CODE or kind == "__lambda__":
                name = (item.get("config") or {}).get("name", kind) if isinstance(item.get("config"), dict) else kind
                raise InputError(
                    f"{path}: layer {name} is a Lambda, which runs code when opened; replace it with Keras layers"
                )
            if isinstance(kind, str) and isinstance(module, str) and not module.startswith(_TRUSTED):
                raise InputError(f"{path}: layer {kind} comes from {module}, which is not part of Keras")
