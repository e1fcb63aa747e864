"""Keras models as ONNX files for images of any size: Keras's own export, brought to a form that says nothing else."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tileseg.errors import InputError, TilesegError, UsageError, first_line
from tileseg.imports import silent
from tileseg.nn import backend
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_graph import analyse
from tileseg.nn.onnx_file import open_onnx, write_onnx
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.nn.onnx_session import Session
from tileseg.nn.onnx_sizes import with_free_size
from tileseg.nn.onnx_tidy import tidy
from tileseg.nn.twin import inference_twin

_ROUNDING = 1e-4
"""Largest difference between both graphs, in standard deviations of the map: sums in another order, nothing else."""


def export_onnx(model: keras.Model, path: Path) -> None:
    """Write a model as an ONNX file in float32: images (n, rows, columns, bands) of any size to a map of that size.

    Normalisation is folded into the convolutions, as in a run. The same model gives the same bytes everywhere.

    Args:
        model: A functional graph of one image of any size to one map, as :mod:`tileseg.nn.bundle` opens it.
        path: Written when it is whole; what was there is replaced.

    Raises:
        InputError: If it cannot be said in ONNX, or computes something else there.
        UsageError: If the package that Keras exports with is missing.
    """
    if backend.NAME == "tensorflow" and find_spec("tf2onnx") is None:
        raise UsageError('Keras exports to ONNX by tf2onnx, which is not installed: pip install "tileseg[export]"')
    bands, stride = model.inputs[0].shape[-1], analyse(model).stride
    # Keras enlarges maps in graphs of known sizes only; the sides differ, so that swapped axes would show.
    rows = -(-64 // stride) * stride
    cols = rows + stride
    twin = inference_twin(model, rows, cols, 0, "float32")
    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        exported = Path(folder) / "exported.onnx"
        try:
            with quiet():
                twin(np.zeros((1, rows, cols, bands), np.float32))  # Keras exports only what was called
                signature = [keras.InputSpec(shape=(1, rows, cols, bands), dtype="float32")]
                twin.export(exported, format="onnx", verbose=False, input_signature=signature)
        except Exception as error:  # layers and converters of all versions raise what they like
            if isinstance(error, TilesegError) or backend.is_out_of_memory(error):
                raise
            raise InputError(f"model {model.name} cannot be exported to ONNX: {first_line(error)}") from error
        graph = with_free_size(OnnxGraph(open_onnx(exported), bands, model.name))
    tidied = tidy(graph.model)
    _check_equal(model, OnnxGraph(tidied, bands, model.name), (rows + stride, cols + 2 * stride))
    partial = path.with_name(f".partial-{path.name}")
    write_onnx(tidied, partial)
    partial.replace(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Converters report their steps, and Keras's patch of one asks NumPy for names that it no longer has."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), silent():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_equal(model: keras.Model, graph: OnnxGraph, size: tuple[int, int]) -> None:
    """Both give the same for an image of another size than that of the export."""
    image = np.random.default_rng(0).normal(size=(1, *size, graph.bands)).astype(np.float32)
    expected = to_numpy(model(image, training=False)).astype(np.float32)
    found = Session(graph.plain(*size))(image)
    largest = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if not largest <= _ROUNDING * (expected.std() or 1):
        raise InputError(
            f"model {model.name} cannot be exported to ONNX: the exported graph gives other values for an image of "
            f"{size[0]} x {size[1]}"
        )
