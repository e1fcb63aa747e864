"""Which engine computes which kind of model file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from tileseg.card import ModelCard
from tileseg.engine.protocol import Network
from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import check_archive, load_card
from tileseg.plan import Precision

ENGINES = {
    ".keras": "tileseg.engine.keras:open_keras",
    ".onnx": "tileseg.engine.onnx:open_onnx",
}
"""Suffix of the file beside ``card.json`` -> ``module:function`` that opens the folder, imported when it is needed.

The function takes the folder, its card, and the processor threads that the network may use; it returns a
:class:`tileseg.engine.protocol.Network` and raises InputError in one line.
"""


FLOAT32_ALONE = frozenset({".onnx"})
"""Kinds of files that are computed in float32, whatever the machine could."""


def precision_of(archive: Path, asked: Precision | Literal["auto"], fastest: Precision) -> Precision:
    """The precision in which a model's file is computed: what was asked for, or the machine's fastest.

    Raises:
        UsageError: If its engine has only another.
    """
    if archive.suffix not in FLOAT32_ALONE:
        return fastest if asked == "auto" else asked
    if asked not in ("auto", "float32"):
        raise UsageError(f"--precision {asked}: {archive.name} is computed in float32; expected float32 or auto")
    return "float32"


def open_network(folder: Path, expected: ModelCard, threads: int) -> Network:
    """Open a model folder with the engine for its kind of file.

    ``expected`` is the card that the run was planned with; ``threads``: of the processor, for the network.

    Raises:
        InputError: If the folder holds another model by now, or one that no engine can compute.
    """
    card = load_card(folder)
    if card != expected:
        raise InputError(
            f"{folder}: card.json is not the one that the run was planned with (model {expected.name}, SHA-256 "
            f"{expected.sha256[:12]}...): it was changed meanwhile, or is another on this machine; start the run again"
        )
    archive = check_archive(card, folder)
    if archive.suffix not in ENGINES:
        raise InputError(f"{archive}: no engine computes such a model; expected model{', model'.join(ENGINES)}")
    module, _, function = ENGINES[archive.suffix].partition(":")
    return cast(Network, getattr(import_module(module), function)(folder, card, threads))
