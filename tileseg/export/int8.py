"""The formats that int8 forms are made in, each by its own tools."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tileseg.card import EXACT_BY, ModelCard
from tileseg.engine.kinds import how_to_get
from tileseg.engine.protocol import Network
from tileseg.engine.registry import open_network
from tileseg.errors import InputError, UsageError
from tileseg.nn.description import check_card

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pydantic import JsonValue

To = Literal["onnx", "litert"]
Calibration = Literal["percentile", "minmax", "entropy"]
"""Those of :mod:`tileseg.nn.onnx_quantise`, which takes half a second to import."""
METHODS: tuple[Calibration, ...] = get_args(Calibration)
"""In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Int8:
    """A network that was quantised, and not written yet."""

    network: Network
    method: Calibration
    facts: Mapping[str, JsonValue]
    """For the form's card: versions, and which engines give the same in windows of any size."""
    write: Callable[[Path], None]


Quantiser = Callable[[Sequence["npt.NDArray[np.float32]"], Calibration], Int8]
"""Images (rows, columns, bands), all of one size and scaled, and how ranges are found -> the network in int8."""


@dataclass(frozen=True, slots=True)
class Target:
    """A format of int8 forms."""

    file: str
    """Name of the form."""
    methods: tuple[Calibration, ...]
    open: Callable[[Path, ModelCard, int], tuple[Network, Quantiser]]
    """Model folder, its card and processor threads -> the network in float32, and what quantises it."""


def _onnx(folder: Path, card: ModelCard, threads: int) -> tuple[Network, Quantiser]:
    from tileseg.engine.onnx import OnnxNetwork
    from tileseg.nn.onnx_bundle import facts_of, load_graph
    from tileseg.nn.onnx_exact import sums_are_whole
    from tileseg.nn.onnx_file import write_onnx
    from tileseg.nn.onnx_graph import OnnxGraph
    from tileseg.nn.onnx_quantise import quantise

    alone = _with_onnx(folder, card)
    graph = load_graph(folder, alone)

    def quantised(images: Sequence[npt.NDArray[np.float32]], method: Calibration) -> Int8:
        made = OnnxGraph(quantise(graph, images, method), graph.bands, graph.name)
        check_card(facts_of(made), alone, folder)
        exact_by: list[JsonValue] = ["onnx", *(["openvino"] if sums_are_whole(made.model) else [])]
        facts: dict[str, JsonValue] = {"onnxruntime": version("onnxruntime"), EXACT_BY: exact_by}
        return Int8(OnnxNetwork(made, alone, threads), method, facts, lambda path: write_onnx(made.model, path))

    return OnnxNetwork(graph, alone, threads), quantised


def _with_onnx(folder: Path, card: ModelCard) -> ModelCard:
    """The card with its ONNX form in float32 alone, which is made where there is none."""
    files = [form.file for form in card.forms if form.suffix == ".onnx" and form.precision == "float32"]
    if not files:
        if not any(form.suffix == ".keras" for form in card.forms):
            held = " and ".join(form.file for form in card.forms)
            raise InputError(f"{folder}: holds {held}; expected a network in float32, from which int8 is made")
        from tileseg.nn.onnx_bundle import ARCHIVE
        from tileseg.nn.onnx_form import add_onnx

        card = add_onnx(folder)
        files = [ARCHIVE]
    return card.using(files[0])


def _litert(folder: Path, card: ModelCard, threads: int) -> tuple[Network, Quantiser]:
    if find_spec("ai_edge_litert") is None:
        raise UsageError(f"--to litert: {how_to_get('litert')}")
    from tileseg.engine.litert import LitertNetwork
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.keras_files import wrapped, write_litert
    from tileseg.nn.litert_bundle import facts_of
    from tileseg.nn.litert_file import open_litert
    from tileseg.nn.litert_graph import LitertGraph

    files = [form.file for form in card.forms if form.suffix == ".keras"]
    if not files:
        held = " and ".join(form.file for form in card.forms)
        raise InputError(f"{folder}: holds {held}; LiteRT's int8 is made from model.keras; expected --to onnx")
    model, alone = load_bundle(folder)[0], card.using(files[0])

    def quantised(images: Sequence[npt.NDArray[np.float32]], method: Calibration) -> Int8:
        rows, cols = images[0].shape[:2]
        with tempfile.TemporaryDirectory(prefix="tileseg-") as place:
            path = Path(place) / "model.tflite"
            write_litert(wrapped(model, (rows, cols), None, probabilities=False), path, "int8", images)
            graph = LitertGraph(open_litert(path), len(card.bands), card.name)
        check_card(facts_of(graph), alone, folder)
        exact_by: list[JsonValue] = ["litert"] if graph.whole_numbers else []
        facts: dict[str, JsonValue] = {"tensorflow": version("tensorflow"), EXACT_BY: exact_by}
        content = graph.content
        return Int8(LitertNetwork(graph, alone, threads), method, facts, lambda path: _write(path, content))

    return open_network(folder, alone, threads), quantised


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


TARGETS: dict[To, Target] = {
    "onnx": Target("model.int8.onnx", METHODS, _onnx),
    "litert": Target("model.int8.tflite", ("minmax",), _litert),
}
"""Name for ``--to`` -> format."""
