"""Quantisation-aware training: rounding by hand, gradients straight through, and whole trainings of tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from drawn import write_dataset
from silent import Silent

from tileseg.card import ClassInfo, Scaling
from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle, save_bundle
from tileseg.nn.description import Description
from tileseg.nn.fake_quantised import fake_quantised_kind
from tileseg.nn.network_file import open_for_int8
from tileseg.train.checkpoint import Store
from tileseg.train.spec import TrainSpec
from tileseg.train.trainer import train

layers = keras.layers
BANDS = ("red", "green", "blue")
CLASSES = (
    ClassInfo(name="ground", color="#c8b48c", background=True),
    ClassInfo(name="house", color="#d73027"),
)
QUICK: dict[str, Any] = {
    "crop": 32, "batch": 2, "steps": 2, "steps_per_epoch": 2, "warmup": 1, "rate": 1e-3, "threads": 1, "panel_every": 0,
    "augment": "none", "quantize": "int8",
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"), train=1, validate=1, height=70, width=90)


def save(folder: Path, classes: tuple[ClassInfo, ...] = CLASSES, middle: bool = True) -> Path:
    """A network of every kind of convolution, with batch normalisation of random statistics."""
    keras.utils.set_random_seed(5)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    if middle:
        x = layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False, name="down")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="norm2")(x))
        x = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
        x = layers.SeparableConv2D(6, 3, padding="same", activation="relu", name="separable")(x)
        x = layers.Conv2DTranspose(4, 2, strides=2, activation="relu", name="up")(x)
    model = keras.Model(image, layers.Conv2D(len(classes), 1, name="logits")(x), name="net")
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    scaling = Scaling(divisor=255, mean=(0.5,), std=(0.25,))
    save_bundle(model, folder, Description(name="net", bands=BANDS, classes=classes, scaling=scaling))
    return folder


def go(dataset: Path, out: Path, init: Path, **options: Any) -> list[float]:
    listener = Silent()
    spec = TrainSpec.parse({"dataset": dataset, "out": out, "init": init, **QUICK, **options})
    train(spec, listener, listener.stop)
    return listener.losses


def rounded(values: np.ndarray, low: Any, high: Any, bits: int, first: int = 0) -> np.ndarray:
    """To the nearest of the steps between low and high, one of which is 0."""
    scale = (high - low) / (2**bits - 1 - first)
    zero = np.round(first - low / scale)
    return (np.clip(np.round(values / scale) + zero, first, 2**bits - 1) - zero) * scale


def test_a_convolution_is_of_values_of_8_bits_and_a_kernel_of_7(tmp_path) -> None:
    rng = np.random.default_rng(0)
    plain = layers.Conv2D(4, 3, padding="same")
    made = fake_quantised_kind(plain).from_config(plain.get_config())
    x = rng.uniform(-1, 3, (2, 6, 9, 3)).astype(np.float32)
    made(x, training=True)  # the first range is that of the first batch
    kernel, bias, low, high = made.get_weights()
    assert (low, high) == (pytest.approx(x.min()), pytest.approx(x.max()))
    most = np.abs(kernel).max(axis=(0, 1, 2))
    plain.build(x.shape)
    plain.set_weights([rounded(kernel, -most, most, 7, first=1), bias])
    expected = plain(rounded(x, low, high, 8))
    np.testing.assert_allclose(to_numpy(made(x, training=False)), to_numpy(expected), atol=2e-4)
    assert np.abs(to_numpy(expected) - to_numpy(plain(x))).max() > 1e-3


def test_gradients_go_straight_through() -> None:
    plain = layers.Conv2D(4, 3, padding="same")
    made = fake_quantised_kind(plain).from_config(plain.get_config())
    x = tf.constant(np.random.default_rng(0).uniform(0, 1, (2, 6, 9, 3)), tf.float32)
    made(x, training=True)
    plain.build(x.shape)
    plain.set_weights(made.get_weights()[:2])
    found = []
    for layer in (made, plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=False) * 0.5)  # linear: what is rounded does not change its slope
        found.append(tape.gradient(loss, [x, layer.trainable_variables[0]]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), rtol=0.02, atol=0.05)


def test_what_is_between_the_first_and_the_last_is_rounded_and_normalisation_is_folded_in(tmp_path) -> None:
    folder = save(tmp_path / "m")
    network = open_for_int8(folder, BANDS, 2)
    learning, plain = network.build("float32", fused=True), network.build("float32")
    kinds = {layer.name: type(layer).__name__ for layer in learning.layers}
    assert {name for name, kind in kinds.items() if kind.startswith("_")} == {"down", "depth", "separable", "up"}
    assert not any("BatchNormalization" in kind for kind in kinds.values())
    assert all(type(layer).__module__.startswith("keras.") for layer in plain.layers)
    x = np.random.default_rng(2).normal(size=(1, 16, 24, 3)).astype(np.float32)
    model, _ = load_bundle(folder)
    expected, folded, int8 = (to_numpy(each(x, training=False)) for each in (model, plain, learning))
    np.testing.assert_allclose(folded, expected, atol=1e-4)
    assert 1e-4 < np.abs(int8 - expected).max() < 0.2 * np.ptp(expected)


def test_a_training_for_int8_keeps_ranges_and_what_comes_out_is_a_plain_model(drawn, tmp_path) -> None:
    init, out = save(tmp_path / "init"), tmp_path / "m"
    assert np.isfinite(go(drawn, out, init)).all()
    kept = Store(out / "training" / ".state").read(out / "training" / ".state" / "last.npz")
    learning = open_for_int8(init, BANDS, 2).build("float32", fused=True)
    names = [variable.path for variable in learning.variables]
    ranges = {
        name: float(kept.arrays[f"network/{i}"]) for i, name in enumerate(names) if name.endswith(("low", "high"))
    }
    assert len(ranges) == 8
    assert all(value > 0 for name, value in ranges.items() if name.endswith("high")), "what is gone on with"
    model, card = load_bundle(out)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    assert card.training["spec"]["quantize"] == "int8"
    assert card.scaling.mean == load_bundle(init)[1].scaling.mean * 3
    assert model.get_layer("down").get_weights()[0].dtype == np.float32


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"init": None}, "--quantize: goes on from a finished model; give it with --init"),
        ({"network": "width=0.5"}, "--quantize: trains the network of --init"),
        ({"precision": "bfloat16"}, "--quantize: rounds values itself; expected --precision float32"),
        ({"quantize": "int4"}, "--quantize: 'int4'"),
    ],
)
def test_options_that_contradict_it_are_refused(options, told) -> None:
    with pytest.raises(UsageError, match=told):
        TrainSpec.parse({"dataset": "d.toml", "out": "m", "init": "i", "quantize": "int8", **options})


def test_models_that_it_is_not_for_are_refused(drawn, tmp_path) -> None:
    with pytest.raises(InputError, match=r"has the classes house, ground, the dataset ground, house; --quantize"):
        go(drawn, tmp_path / "m", save(tmp_path / "other", CLASSES[::-1]))
    with pytest.raises(InputError, match="no convolution between its first and its last"):
        go(drawn, tmp_path / "m", save(tmp_path / "two", middle=False))
