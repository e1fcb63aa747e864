"""Model folders that hold ``model.tflite``: made from a LiteRT file, and opened again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.card import ModelCard, Weights
from tileseg.errors import UsageError
from tileseg.nn.activation import Ending, EndingKind
from tileseg.nn.description import Description, GraphFacts, check_card, keep
from tileseg.nn.folder import check_archive
from tileseg.nn.litert_crop import cropped
from tileseg.nn.litert_file import open_litert
from tileseg.nn.litert_graph import LitertGraph, SizedLitertGraph

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ARCHIVE = "model.tflite"
_KINDS: dict[str, EndingKind] = {"SOFTMAX": "softmax", "LOG_SOFTMAX": "log_softmax", "LOGISTIC": "sigmoid"}
_PASSING = {"CAST", "DEQUANTIZE", "QUANTIZE", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "STRIDED_SLICE"}
"""Operators after which probabilities are still probabilities."""


def pack(file: Path, folder: Path, described: Description, output: str | None = None) -> ModelCard:
    """Make a model folder from a LiteRT file of any origin (see :func:`tileseg.nn.packing.pack`)."""
    from tileseg.nn.litert_session import LitertSession

    if output is not None:
        raise UsageError(f"--output {output}: a LiteRT file has one output; it is for ONNX files")
    graph = LitertGraph(open_litert(file), len(described.bands), file.stem)
    facts = facts_of(graph)
    facts.check(described)
    rows = -(-64 // facts.locality.stride) * facts.locality.stride
    SizedLitertGraph(graph, rows, rows + facts.locality.stride)  # windows are of many sizes

    def compute(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return LitertSession(cropped(graph, images.shape[1], images.shape[2], 0))(images)

    weights: Weights = "int8" if graph.quantised else "float32"
    return keep(folder / ARCHIVE, lambda path: path.write_bytes(graph.content), facts, described, compute, weights)


def load_graph(folder: Path, card: ModelCard) -> LitertGraph:
    """Open the graph of a model folder: the file that the card was made for, which fits the card.

    Raises:
        InputError: In one line, if it is not.
    """
    graph = LitertGraph(open_litert(check_archive(card, folder)), len(card.bands), card.name)
    check_card(facts_of(graph), card, folder)
    return graph


def facts_of(graph: LitertGraph) -> GraphFacts:
    """What a graph says of itself. Raises InputError if it is not of one image to a map of the same size."""
    sized = SizedLitertGraph(graph, *graph.own)
    return GraphFacts(graph.name, graph.bands, sized.channels, graph.parameters, graph.analyse(), _ending(sized))


def _ending(graph: SizedLitertGraph) -> Ending | None:
    """The last step that changes what the output means; None where there is none."""
    makers = {value: step for step in graph.steps for value in step.outputs}
    value = graph.output
    while value in makers and makers[value].kind in _PASSING:
        value = makers[value].inputs[0]
    return Ending(makers[value].title, _KINDS.get(makers[value].kind)) if value in makers else None
