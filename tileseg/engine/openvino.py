"""The engine of ``.onnx`` forms by OpenVINO, on the processor: float32, bfloat16, or statically quantised."""

from __future__ import annotations

from pathlib import Path

from tileseg.card import ModelCard
from tileseg.engine.onnx import OnnxNetwork
from tileseg.engine.protocol import Engine, WindowSpec
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.openvino_session import OpenvinoSession, is_out_of_memory


def open_openvino(folder: Path, card: ModelCard, threads: int) -> OpenvinoNetwork:
    """Open a form ``.onnx`` of a model folder. Raises InputError in one line."""
    return OpenvinoNetwork(load_graph(folder, card), card, threads)


class OpenvinoNetwork(OnnxNetwork):
    """An ONNX graph that OpenVINO computes; what it is compared with (``plain``) is ONNX Runtime's."""

    def engine(self, window: WindowSpec, /) -> Engine:
        """The graph cropped to what the map's core needs, for one image at a time, in the precision wished for.

        Raises InputError if the graph does not take such windows.
        """
        graph = cropped(self._graph, window.rows, window.cols, window.crop)
        return OpenvinoSession(graph, window.precision, self._threads)

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """As OpenVINO says it, or ONNX Runtime."""
        return is_out_of_memory(error) or super().is_out_of_memory(error)
