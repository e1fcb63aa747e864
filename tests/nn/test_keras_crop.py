"""Cropping changes what is computed, not what comes out."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
from oracle import BIT_EQUAL, PROMISE

from tileseg.errors import UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_crop import cropped
from tileseg.nn.keras_graph import analyse, flatten
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network

layers = keras.layers
PLAIN = NetworkSpec(width=0.125, batch_norm=False)


def foreign() -> keras.Model:
    """Not ours: separable convolutions, strides without padding, a nested block, uneven padding, operations."""
    block = keras.Sequential(
        [keras.Input((None, None, 6)), layers.SeparableConv2D(6, 3, padding="same"), layers.ReLU()]
    )
    image = keras.Input((None, None, 4))
    x = layers.ZeroPadding2D(((1, 0), (0, 1)))(image * 0.5)
    x = one = layers.Conv2D(6, 2)(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = block(block(x))
    x = layers.DepthwiseConv2D(5, strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(6, 3, strides=4, padding="same")(x)
    x = layers.Add()([x, one])
    return keras.Model(image, layers.Conv2D(3, (1, 3), padding="same")(keras.ops.leaky_relu(x)))


def gated() -> keras.Model:
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([x, layers.Conv2D(4, 1, activation="sigmoid")(gate)])
    return keras.Model(image, layers.Conv2D(2, 3, padding="same")(x))


NETWORKS = {
    "bilinear": lambda: build_network(PLAIN, 3, 4),
    "transpose": lambda: build_network(PLAIN.model_copy(update={"decoder": "transpose"}), 3, 4),
    "aligned, normalised": lambda: build_network(NetworkSpec(width=0.125, align_skips=True), 3, 4),
    "foreign": foreign,
    "gated": gated,
}


Floats = npt.NDArray[np.float32]


@functools.cache
def seen_whole(name: str) -> tuple[keras.Model, Floats, Floats]:
    """A network, a window, and what it makes of all of it."""
    keras.utils.set_random_seed(2)
    model = NETWORKS[name]()
    window = np.random.default_rng(1).normal(size=(2, 96, 176, model.inputs[0].shape[-1])).astype(np.float32)
    return model, window, to_numpy(model(window))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("margin", [0, 16, 37])
def test_the_core_is_that_of_the_whole_window(name: str, margin: int) -> None:
    model, window, whole = seen_whole(name)
    core = to_numpy(cropped(model, 96, 176, margin)(window))
    assert core.shape == (2, 96 - 2 * margin, 176 - 2 * margin, whole.shape[-1])
    expected = whole[:, margin : 96 - margin, margin : 176 - margin]
    assert np.abs(core - expected).max() <= (1e-6 if BIT_EQUAL else PROMISE) * expected.std()


def test_it_saves_work_in_the_decoder() -> None:
    model = build_network(PLAIN, 3, 4)
    fewer = cropped(model, 512, 640, 144)
    graph = flatten(fewer)
    shapes = graph.shapes(512, 640)
    last = next(step for step in graph.steps if step.operation.name == "decoder1_conv1")
    rows, cols = shapes[last.outputs[0]][1:3]
    assert (224, 352) <= (rows, cols) <= (232, 360)
    assert {id(w) for w in fewer.weights} <= {id(w) for w in model.weights}, "weights are shared"


def test_windows_that_cannot_be_are_refused() -> None:
    model = build_network(PLAIN, 3, 4)
    with pytest.raises(UsageError, match="no multiple of the model's stride 16"):
        cropped(model, 100, 96, 0)
    with pytest.raises(UsageError, match="leaves nothing"):
        cropped(model, 96, 96, 48)
    assert analyse(foreign()).stride == 4
