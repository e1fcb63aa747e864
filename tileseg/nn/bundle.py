"""A model on disk: a folder with ``card.json`` and ``model.keras``, checked before anything in it is run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tileseg.card import Activation, ClassInfo, ModelCard, Scaling
from tileseg.errors import InputError, UsageError, first_line
from tileseg.nn.backend import keras
from tileseg.nn.folder import ARCHIVE, check_archive, load_card, resolve_model, save_card
from tileseg.nn.receptive import analyse
from tileseg.problems import first_problem
from tileseg.storage.digest import file_sha256

_CODE = {"Lambda"}
"""Layers that hold code."""
_TRUSTED = ("keras", "builtins", "tileseg.")


def save_bundle(  # noqa: PLR0913 - a card's fields that cannot be derived
    model: keras.Model,
    folder: Path,
    *,
    name: str,
    bands: tuple[str, ...],
    classes: tuple[ClassInfo, ...],
    scaling: Scaling,
    description: str = "",
    dtypes: tuple[str, ...] = ("uint8",),
    ground_sample_distance: float | None = None,
    activation: Activation = "logits",
    credits: tuple[str, ...] = (),  # noqa: A002 - the card's word
    training: dict[str, JsonValue] | None = None,
) -> ModelCard:
    """Write a model and its card; stride, radius, locality and costs are derived from the graph.

    Raises:
        InputError: If the model cannot be used for segmentation, or the description contradicts it.
    """
    facts = analyse(model)
    _refuse_code(json.loads(model.to_json()), folder)
    if model.inputs[0].shape[-1] != len(bands):
        raise InputError(f"model {model.name} takes {model.inputs[0].shape[-1]} bands, but {len(bands)} are named")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ARCHIVE
    partial = folder / f".partial-{ARCHIVE}"
    # A model of the same layers, never compiled: the optimizer's state would triple the file.
    keras.Model(model.inputs[0], model.outputs[0], name=model.name).save(partial)
    try:
        card = ModelCard(
            name=name,
            description=description,
            bands=bands,
            dtypes=dtypes,
            scaling=scaling,
            ground_sample_distance=ground_sample_distance,
            classes=classes,
            activation=activation,
            output_channels=model.outputs[0].shape[-1],
            stride=facts.stride,
            radius=facts.radius,
            local=facts.local,
            nonlocal_layers=facts.nonlocal_layers,
            flops_per_pixel=facts.flops_per_pixel,
            activation_bytes_per_pixel=facts.activation_bytes_per_pixel,
            parameters=model.count_params(),
            credits=credits,
            training=training or {},
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
            raise InputError(f"{folder / 'card.json'}: {what} {said} in the card, {true} in the model's graph")
    if card.local and card.radius < facts.radius:
        raise InputError(
            f"{folder / 'card.json'}: radius {card.radius} in the card, {facts.radius} in the model's graph"
        )


def pack(  # noqa: PLR0913 - as save_bundle
    archive: Path,
    folder: Path,
    *,
    name: str,
    bands: tuple[str, ...],
    classes: tuple[ClassInfo, ...],
    scaling: Scaling,
    dtypes: tuple[str, ...] = ("uint8",),
    ground_sample_distance: float | None = None,
    activation: Activation = "logits",
) -> ModelCard:
    """Make a model folder from a ``.keras`` file of any origin.

    Raises:
        InputError: If the file is refused, or the description contradicts it.
        UsageError: If the folder already holds a model.
    """
    if (folder / "card.json").exists():
        raise UsageError(f"{folder}: already holds a model; choose another folder")
    return save_bundle(
        load_archive(archive), folder, name=name, bands=bands, classes=classes, scaling=scaling, dtypes=dtypes,
        ground_sample_distance=ground_sample_distance, activation=activation,
    )  # fmt: skip


def load_archive(path: Path) -> keras.Model:
    """Open a ``.keras`` archive that holds no code, without its training state.

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
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = first_line(error)
        raise InputError(f"{path}: Keras cannot open it: {reason}") from error


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
