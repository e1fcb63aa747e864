"""The engines of ``.onnx`` models on an NVIDIA GPU: ONNX Runtime by CUDA, or by TensorRT, in float32 or float16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.card import ModelCard
from tileseg.engine.onnx import OnnxNetwork
from tileseg.engine.predictor import LARGEST_HALF
from tileseg.engine.protocol import Ends, Engine, WindowSpec
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_device import DeviceSession, Provider, is_out_of_memory, memory_limit, tensorrt
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.nn.onnx_pixels import with_pixels
from tileseg.nn.onnx_wrap import halved

if TYPE_CHECKING:
    import onnx


def open_tensorrt(folder: Path, card: ModelCard, threads: int) -> OnnxGpuNetwork:
    """Open a form ``.onnx`` of a model folder. Raises InputError in one line, UsageError where the limit is no size."""
    return OnnxGpuNetwork(load_graph(folder, card), card, tensorrt(memory_limit()), threads)


class OnnxGpuNetwork(OnnxNetwork):
    """An ONNX graph on a GPU; what it is compared with (``plain``) is computed by the processor.

    It takes pixels as they are (see :class:`tileseg.engine.protocol.TakesPixels`).
    """

    def __init__(self, graph: OnnxGraph, card: ModelCard, provider: Provider, threads: int | None = None) -> None:
        """``provider`` computes it; ``threads`` of the processor are for :meth:`plain`."""
        super().__init__(graph, card, threads)
        self._provider = provider

    def engine(self, window: WindowSpec, /) -> Engine:
        """The graph cropped to what the map's core needs, for one image at a time, in the precision wished for.

        Raises:
            InputError: If the graph does not take such windows.
            UsageError: If ONNX Runtime does not load what is to compute it.
        """
        return DeviceSession(self._graph_for(window), self._provider)

    def pixel_engine(self, window: WindowSpec, ends: Ends, /) -> Engine:
        """The same from pixels that are scaled on the device. Raises as :meth:`engine`."""
        largest = LARGEST_HALF if ends.kept else None
        model = with_pixels(self._graph_for(window), ends.scaling, ends.dtype, largest_half=largest)
        return DeviceSession(model, self._provider)

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """As ONNX Runtime or CUDA says it."""
        return is_out_of_memory(error)

    def _graph_for(self, window: WindowSpec) -> onnx.ModelProto:
        model = cropped(self._graph, window.rows, window.cols, window.crop)
        return halved(model) if window.precision == "float16" else model
