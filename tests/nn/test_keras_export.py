"""Keras models exported to ONNX: plain ONNX Runtime computes the same from the file, at any size."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tileseg.errors import UsageError
from tileseg.nn import keras_export
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_export import export_onnx
from tileseg.nn.keras_graph import analyse
from tileseg.nn.onnx_file import open_onnx
from tileseg.nn.onnx_graph import OnnxGraph

layers, ops = keras.layers, keras.ops


def network(seed: int = 4, *, gate: bool = False) -> keras.Model:
    """Everything that our networks enlarge, join and normalise by, once."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((None, None, 4))
    fine = layers.Conv2D(5, 3, padding="same", use_bias=False, name="fine")(image)
    fine = layers.ReLU()(layers.BatchNormalization(name="norm")(fine))
    middle = layers.DepthwiseConv2D(3, strides=2, padding="same", name="middle")(fine)
    coarse = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(layers.MaxPooling2D()(middle))
    if gate:
        coarse = layers.Multiply()([coarse, ops.mean(coarse, axis=(1, 2), keepdims=True)])
    up = layers.UpSampling2D(interpolation="bilinear")(coarse)
    up = layers.Conv2DTranspose(5, 2, strides=2, padding="same")(layers.Concatenate()([up, middle]))
    model = keras.Model(image, layers.Conv2D(3, 1, name="logits")(layers.Add()([up, fine])))
    rng = np.random.default_rng(seed)
    norm = model.get_layer("norm")
    norm.set_weights([np.abs(rng.normal(size=w.shape)).astype(np.float32) + 0.5 for w in norm.get_weights()])
    return model


def test_the_exported_file_computes_the_same_at_any_size_and_says_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(network(), path)
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 64, 96, 4), (2, 40, 28, 4)):
        images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        expected = to_numpy(network()(images, training=False))
        np.testing.assert_allclose(session.run(None, {"image": images})[0], expected, atol=1e-5 * expected.std())
    opened = open_onnx(path)
    assert "BatchNormalization" not in {node.op_type for node in opened.graph.node}, "folded"
    once, ours = OnnxGraph(opened, 4, "m").analyse(), analyse(network())
    assert (once.stride, once.radius, once.local) == (ours.stride, ours.radius, True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    weights = sum(weight.size for weight in network().get_weights())
    assert path.stat().st_size < 4 * weights + 4096
    first = path.read_bytes()
    export_onnx(network(), path)
    assert path.read_bytes() == first, "same model, same bytes"
    assert str(tmp_path).encode() not in first
    assert onnx.load(path).producer_name == "tileseg"


def test_what_looks_at_the_whole_window_does_so_in_the_exported_file_too(tmp_path: Path) -> None:
    export_onnx(network(gate=True), tmp_path / "gated.onnx")
    found = OnnxGraph(open_onnx(tmp_path / "gated.onnx"), 4, "m").analyse()
    assert not found.local
    assert found.nonlocal_layers


def test_without_the_converter_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_export, "find_spec", lambda name: None if name == "tf2onnx" else util.find_spec(name))
    with pytest.raises(UsageError, match=r'tf2onnx.*pip install "tileseg\[export\]"'):
        export_onnx(network(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
