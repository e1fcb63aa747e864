"""The engine of ``.tflite`` models: LiteRT on the processor, in float32 or statically quantised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.card import ModelCard
from tileseg.engine.host import ROUNDED_OTHERWISE, HostArrays
from tileseg.engine.protocol import Engine, WindowSpec
from tileseg.nn.activation import RandomImages
from tileseg.nn.litert_bundle import load_graph
from tileseg.nn.litert_crop import cropped
from tileseg.nn.litert_graph import LitertGraph
from tileseg.nn.litert_session import LitertSession, is_out_of_memory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def open_litert(folder: Path, card: ModelCard, threads: int) -> LitertNetwork:
    """Open a form ``.tflite`` of a model folder. Raises InputError in one line."""
    return LitertNetwork(load_graph(folder, card), card, threads)


class LitertNetwork:
    """A LiteRT graph with its card (see :class:`tileseg.engine.protocol.Network`)."""

    arrays = HostArrays()

    def __init__(self, graph: LitertGraph, card: ModelCard, threads: int | None = None) -> None:
        """``graph`` as :func:`tileseg.nn.litert_bundle.load_graph` gives it."""
        self._graph, self.card, self._threads = graph, card, threads

    @property
    def plain_tolerance(self) -> float:
        """LiteRT's plain kernels round some values to the next step."""
        return ROUNDED_OTHERWISE if self._graph.quantised else 0.0

    @property
    def images(self) -> RandomImages:
        """Images as the graph takes them."""
        return RandomImages(self._graph.bands)

    def engine(self, window: WindowSpec, /) -> Engine:
        """The graph cropped to what the map's core needs, for one image at a time, in the precision of its file.

        Raises InputError if the graph does not take such windows.
        """
        assert window.precision in ("float32", "int8"), "the registry gives LiteRT no other"
        return LitertSession(cropped(self._graph, window.rows, window.cols, window.crop), self._threads)

    def plain(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """What the graph gives for whole images (n, rows, columns, bands), operator by operator as it stands."""
        rows, cols = images.shape[1:3]
        return LitertSession(cropped(self._graph, rows, cols, 0), self._threads, plain=True)(images)

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """As LiteRT says it."""
        return is_out_of_memory(error)
