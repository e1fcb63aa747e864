"""The ONNX form of a Keras network, beside it in the model folder: it starts in a second and needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from tileseg.card import Form, ModelCard
from tileseg.nn.bundle import load_bundle
from tileseg.nn.description import check_card
from tileseg.nn.folder import add_form
from tileseg.nn.keras_export import export_onnx
from tileseg.nn.onnx_bundle import ARCHIVE, facts_of
from tileseg.nn.onnx_file import open_onnx
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.storage.digest import file_sha256


def add_onnx(folder: Path) -> ModelCard:
    """Write ``model.onnx`` into the folder of a Keras model and name it in the card; one that is there is replaced.

    Returns the new card. Raises InputError or UsageError in one line.
    """
    model, card = load_bundle(folder)
    partial = folder / f".partial-{ARCHIVE}"
    try:
        export_onnx(model, partial)
        check_card(facts_of(OnnxGraph(open_onnx(partial), len(card.bands), card.name)), card, folder)
        return add_form(folder, partial, Form(file=ARCHIVE, sha256=file_sha256(partial)))
    finally:
        partial.unlink(missing_ok=True)
