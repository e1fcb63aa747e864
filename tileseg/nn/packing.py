"""Which kind of file a model folder can be made from."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from tileseg.card import ModelCard
from tileseg.errors import InputError, UsageError
from tileseg.nn.description import Description
from tileseg.nn.folder import resolve_model
from tileseg.storage.place import similar_name

PACKERS = {
    ".keras": "tileseg.nn.bundle:pack",
    ".onnx": "tileseg.nn.onnx_bundle:pack",
    ".tflite": "tileseg.nn.litert_bundle:pack",
}
"""Suffix -> ``module:function`` that takes the file, the folder, the description and the name of an output."""


def pack(file: Path, folder: Path, described: Description, output: str | None = None) -> ModelCard:
    """Make a model folder from a file of any origin.

    Args:
        file: The network, of a kind in :data:`PACKERS`.
        folder: Made, if it is not there.
        described: What the graph does not say.
        output: Which of several outputs is the map.

    Raises:
        InputError: If the file is refused, or the description contradicts it.
        UsageError: If the folder already holds a model.
    """
    if (folder / "card.json").exists():
        raise UsageError(f"{folder}: already holds a model; choose another folder")
    if not file.exists():
        raise InputError(f"{file}: no such file{similar_name(file)}; expected a {' or '.join(PACKERS)} file")
    if file.suffix not in PACKERS or not file.is_file():
        if file.suffix not in PACKERS:
            resolve_model(file)  # says what it is
        raise InputError(f"{file}: expected a {' or '.join(PACKERS)} file")
    module, _, function = PACKERS[file.suffix].partition(":")
    return cast(ModelCard, getattr(import_module(module), function)(file, folder, described, output))
