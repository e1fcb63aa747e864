"""A model on disk: a folder with ``card.json`` and ``model.keras``, checked before anything in it is run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tileseg.card import ModelCard
from tileseg.errors import InputError, UsageError, first_line
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.description import Description, GraphFacts, check_card, keep
from tileseg.nn.folder import ARCHIVE, check_archive, load_card, resolve_model
from tileseg.nn.keras_ending import ending, random_images
from tileseg.nn.keras_graph import analyse, flatten
from tileseg.nn.sizes import with_free_size

_CODE = {"Lambda"}
"""Layers that hold code."""
_TRUSTED = ("keras", "builtins", "tileseg.")


def save_bundle(model: keras.Model, folder: Path, described: Description) -> ModelCard:
    """Write a model and its card; stride, radius, locality and costs are derived from the graph.

    A model that was built for images of one size is saved for any.

    Raises:
        InputError: If the model cannot be used for segmentation, or the description contradicts it.
    """
    _refuse_code(json.loads(model.to_json()), folder)
    model = with_free_size(model)
    facts = facts_of(model)
    facts.check(described)

    def compute(images: Any) -> Any:
        return to_numpy(model(images, training=False))

    def write(path: Path) -> None:
        # A model of the same layers, never compiled: the optimizer's state would triple the file.
        keras.Model(model.inputs[0], model.outputs[0], name=model.name).save(path)

    return keep(folder / ARCHIVE, write, facts, described, compute, images=random_images(model))


def facts_of(model: keras.Model) -> GraphFacts:
    """What a functional graph says of itself. Raises InputError if it is not of one image to a map of the same size."""
    return GraphFacts(
        name=model.name,
        bands=model.inputs[0].shape[-1],
        channels=model.outputs[0].shape[-1],
        parameters=model.count_params(),
        locality=analyse(model),
        ending=ending(flatten(model)),
    )


def load_bundle(folder: Path) -> tuple[keras.Model, ModelCard]:
    """Open a model folder: the archive is the one that the card was made for, holds no code, and fits the card.

    Raises:
        InputError: In one line, if it is not, or if the network has no Keras form.
    """
    card = load_card(folder)
    files = [form.file for form in card.forms if form.suffix == ".keras"]
    if not files:
        held = " and ".join(form.file for form in card.forms)
        raise InputError(f"{folder}: holds {held}; expected a Keras model: others can be run, not trained")
    return open_form(folder, card.using(files[0])), card


def open_form(folder: Path, card: ModelCard) -> keras.Model:
    """Open the one form of a card, a Keras archive. Raises InputError in one line."""
    model = load_archive(check_archive(card, folder))
    check_card(facts_of(model), card, folder)
    return model


def pack(archive: Path, folder: Path, described: Description, output: str | None = None) -> ModelCard:
    """Make a model folder from a ``.keras`` file of any origin (see :func:`tileseg.nn.packing.pack`)."""
    if output is not None:
        raise UsageError(f"--output {output}: a Keras model has one output; it is for ONNX files")
    return save_bundle(load_archive(archive), folder, described)


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
