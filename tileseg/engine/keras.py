"""The engine of ``.keras`` models: Keras on TensorFlow, PyTorch or JAX."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.card import ModelCard
from tileseg.engine.protocol import Engine, WindowSpec
from tileseg.errors import InputError, TilesegError, first_line
from tileseg.nn import backend, resample
from tileseg.nn.activation import RandomImages
from tileseg.nn.backend import keras
from tileseg.nn.bundle import open_form
from tileseg.nn.keras_ending import random_images
from tileseg.nn.keras_graph import flatten
from tileseg.nn.twin import inference_twin

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ROUNDINGS = 32
"""Units of the last place of 16 bits, by which a model that was trained in them may differ from float32."""
_UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def open_keras(folder: Path, card: ModelCard, threads: int) -> KerasNetwork:
    """Open the form ``.keras`` of a model folder. Raises InputError in one line."""
    backend.configure(threads=threads)
    return KerasNetwork(open_form(folder, card), card)


class KerasArrays:
    """Tensors on the backend's device (see :class:`tileseg.engine.protocol.Arrays`)."""

    ops: Any = keras.ops

    def compile(self, function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:
        """Compile with the backend; with XLA where the operations are to be fused."""
        return backend.compile(function, fused=fused)

    def resample(self, images: Any, scale: Fraction) -> Any:
        """Resample by strided convolutions."""
        return resample.resample(images, scale)

    def to_numpy(self, array: Any) -> npt.NDArray[np.generic]:
        """Copy to the host."""
        return backend.to_numpy(array)


class KerasNetwork:
    """A functional Keras graph with its card (see :class:`tileseg.engine.protocol.Network`)."""

    arrays = KerasArrays()

    def __init__(self, model: keras.Model, card: ModelCard) -> None:
        """``model`` as :func:`tileseg.nn.bundle.open_form` gives it."""
        self.model, self.card = model, card

    def engine(self, window: WindowSpec, /) -> Engine:
        """The graph with its layers in the precision wished for, cropped to what the map's core needs.

        Raises:
            InputError: If the model does not take such windows, or as many bands as its card says.
        """
        assert window.precision != "int8", "the registry gives Keras forms in float32 alone"
        bands = self.model.inputs[0].shape[-1]
        if bands != len(self.card.bands):
            raise InputError(f"model {self.card.name} takes {bands} bands, its card says {len(self.card.bands)}")
        try:
            twin = inference_twin(self.model, window.rows, window.cols, window.crop, window.precision)
        except Exception as error:  # layers of all origins raise what they like
            if isinstance(error, TilesegError) or backend.is_out_of_memory(error):
                raise
            raise InputError(
                f"model {self.card.name} does not take windows of {window.rows}x{window.cols}: {first_line(error)}"
            ) from error
        return lambda images: twin(images, training=False)

    @property
    def images(self) -> RandomImages:
        """Images as the model takes them."""
        return random_images(self.model)

    @property
    def plain_tolerance(self) -> float:
        """What was trained in 16 bits may differ from float32 by some units of its last place."""
        kinds = {
            keras.backend.standardize_dtype(tensor.dtype)
            for step in flatten(self.model).steps
            for tensor in step.node.output_tensors
        }
        return _ROUNDINGS * max((_UNITS.get(kind, 0.0) for kind in kinds), default=0.0)

    def plain(self, images: Any, /) -> Any:
        """What the model as it was trained gives for whole images."""
        return self.model(images, training=False)

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """As the backend says it."""
        return backend.is_out_of_memory(error)
