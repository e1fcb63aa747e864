"""Model folders that hold ``model.onnx``: made from an ONNX file, and opened again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.card import ModelCard, Weights
from tileseg.nn.description import Description, GraphFacts, check_card, keep
from tileseg.nn.folder import check_archive
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_ending import ending
from tileseg.nn.onnx_file import open_onnx, write_onnx
from tileseg.nn.onnx_graph import OnnxGraph, SizedOnnxGraph
from tileseg.nn.onnx_session import Session
from tileseg.nn.onnx_sizes import with_free_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ARCHIVE = "model.onnx"


def pack(file: Path, folder: Path, described: Description, output: str | None = None) -> ModelCard:
    """Make a model folder from an ONNX file of any origin (see :func:`tileseg.nn.packing.pack`)."""
    graph = with_free_size(OnnxGraph(open_onnx(file, output), len(described.bands), file.stem))
    facts = facts_of(graph)
    facts.check(described)

    def compute(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return Session(cropped(graph, images.shape[1], images.shape[2], 0))(images)

    weights: Weights = "int8" if graph.quantised else "float32"
    return keep(folder / ARCHIVE, lambda path: write_onnx(graph.model, path), facts, described, compute, weights)


def load_graph(folder: Path, card: ModelCard) -> OnnxGraph:
    """Open the graph of a model folder: the file that the card was made for, which fits the card.

    Raises:
        InputError: In one line, if it is not.
    """
    graph = OnnxGraph(open_onnx(check_archive(card, folder)), len(card.bands), card.name)
    check_card(facts_of(graph), card, folder)
    return graph


def facts_of(graph: OnnxGraph) -> GraphFacts:
    """What a graph says of itself. Raises InputError if it is not of one image to a map of the same size."""
    locality = graph.analyse()
    rows = -(-64 // locality.stride) * locality.stride
    sized = SizedOnnxGraph(graph, rows, rows + locality.stride)
    return GraphFacts(graph.name, graph.bands, sized.channels, graph.parameters, locality, ending(sized))
