"""Which engine computes which kind of model file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from tileseg.card import ModelCard
from tileseg.engine.protocol import Network
from tileseg.errors import InputError
from tileseg.nn.folder import check_archive, load_card

ENGINES = {
    ".keras": "tileseg.engine.keras:open_keras",
}
"""Suffix of the file beside ``card.json`` -> ``module:function`` that opens the folder, imported when it is needed.

The function takes the folder, its card, and the processor threads that the network may use; it returns a
:class:`tileseg.engine.protocol.Network` and raises InputError in one line.
"""


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
