"""Model folders as networks: opened by the engine that computes their files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from tileseg.card import ModelCard
from tileseg.engine.kinds import ENGINES, engine_kind, how_to_get, no_engine
from tileseg.engine.protocol import Network
from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import check_archive, load_card


def open_network(
    folder: Path, expected: ModelCard, threads: int, *, engine: str | None = None, form: str | None = None
) -> Network:
    """Open one form of a network with an engine.

    Args:
        folder: The model folder.
        expected: The card that the run was planned with.
        threads: Of the processor, for the network.
        engine: A name of :data:`ENGINES`; None: the first that computes such a file.
        form: Name of the form's file; None: the network itself, which is the first.

    Raises:
        InputError: If the folder holds another model by now, or one that no engine can compute.
    """
    card = load_card(folder)
    file = form or expected.forms[0].file
    if file not in {each.file for each in card.forms} or card.using(file) != expected.using(file):
        raise InputError(
            f"{folder}: card.json is not the one that the run was planned with (model {expected.name}, SHA-256 "
            f"{expected.sha256[:12]}...): it was changed meanwhile, or is another on this machine; start the run again"
        )
    card = card.using(file)
    archive = check_archive(card, folder)
    if engine is None:
        engine = next((name for name, kind in ENGINES.items() if card.forms[0].suffix in kind.suffixes), None)
        if engine is None:
            raise InputError(f"{archive}: {no_engine()}")
    kind = engine_kind(engine)
    if kind.missing:
        raise UsageError(f"{archive}: {how_to_get(engine)}")
    module, _, function = kind.function.partition(":")
    return cast(Network, getattr(import_module(module), function)(folder, card, threads))
