"""The engine of ``.onnx`` models: ONNX Runtime on the processor, in float32 or statically quantised, or on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard
from tileseg.engine.host import ROUNDED_OTHERWISE, HostArrays
from tileseg.engine.protocol import Engine, WindowSpec
from tileseg.errors import InputError
from tileseg.nn.activation import RandomImages
from tileseg.nn.cuda import device_count
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_graph import OnnxGraph, SizedOnnxGraph
from tileseg.nn.onnx_session import Session, built_with, is_out_of_memory


def open_onnx(folder: Path, card: ModelCard, threads: int) -> OnnxNetwork:
    """Open a form ``.onnx`` of a model folder, on a GPU where ONNX Runtime can use one. Raises InputError in one line.

    int8 stays on the processor, whose sums are whole numbers.
    """
    graph = load_graph(folder, card)
    if not graph.quantised and built_with("CUDAExecutionProvider") and device_count():
        from tileseg.engine.onnx_gpu import OnnxGpuNetwork
        from tileseg.nn.onnx_device import cuda, memory_limit

        return OnnxGpuNetwork(graph, card, cuda(memory_limit()), threads)
    return OnnxNetwork(graph, card, threads)


class OnnxNetwork:
    """An ONNX graph with its card (see :class:`tileseg.engine.protocol.Network`)."""

    arrays = HostArrays()

    def __init__(self, graph: OnnxGraph, card: ModelCard, threads: int | None = None) -> None:
        """``graph`` as :func:`tileseg.nn.onnx_bundle.load_graph` gives it."""
        self._graph, self.card, self._threads = graph, card, threads

    @property
    def plain_tolerance(self) -> float:
        """Operator by operator, an int8 graph is computed in float32, and some values are rounded to the next step."""
        return ROUNDED_OTHERWISE if self._graph.quantised else 0.0

    @property
    def images(self) -> RandomImages:
        """Images as the graph takes them."""
        return RandomImages(self._graph.bands)

    def engine(self, window: WindowSpec, /) -> Engine:
        """The graph cropped to what the map's core needs, for one image at a time.

        It is computed as the graph says: in float32, or in int8 where it is quantised. Raises InputError if the graph
        does not take such windows, or if 16 bits are wanted.
        """
        if window.precision in ("float16", "bfloat16"):
            raise InputError(
                f"model {self.card.name}: ONNX Runtime computes {window.precision} on GPUs alone, and sees none here"
            )
        return Session(cropped(self._graph, window.rows, window.cols, window.crop), self._threads)

    def plain(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """What the graph gives for whole images (n, rows, columns, bands), operator by operator as it stands."""
        rows, cols = images.shape[1:3]
        axes = SizedOnnxGraph(self._graph, rows, cols).output_axes
        given = np.moveaxis(images, 3, self._graph.band_axis)
        found = Session(self._graph.plain(rows, cols), self._threads, plain=True)(given)
        return found.transpose(0, *axes, 6 - sum(axes))

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """As ONNX Runtime says it."""
        return is_out_of_memory(error)
