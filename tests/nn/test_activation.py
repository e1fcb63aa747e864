"""What a model is said to give against what its graph and its numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tileseg.card import ClassInfo, ModelCard, Scaling
from tileseg.errors import InputError
from tileseg.nn.backend import keras
from tileseg.nn.bundle import load_bundle
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card, save_card
from tileseg.nn.packing import pack

layers, ops = keras.layers, keras.ops
TWO = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))


def packed(folder: Path, activation: str, channels: int = 2, head: object = None, end: object = None) -> ModelCard:
    """Pack a network with this head and end, as what it is said to give."""
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = (head or layers.Conv2D(channels, 1))(x)
    model = keras.Model(image, end(x) if end else x)
    model.save(folder / "given.keras")
    described = Description(
        name="m", bands=("r", "g", "b"), classes=TWO, scaling=Scaling(divisor=255), activation=activation
    )
    return pack(folder / "given.keras", folder / "model", described)


def by_hand(x: object) -> object:
    """A softmax that no layer's name tells."""
    odds = ops.exp(x - ops.max(x, axis=-1, keepdims=True))
    return odds / ops.sum(odds, axis=-1, keepdims=True)


SOFTMAX = {
    "head": lambda: {"head": layers.Conv2D(2, 1, activation="softmax")},
    "dense": lambda: {"head": layers.Dense(2, activation="softmax")},
    "layer": lambda: {"end": layers.Softmax()},
    "activation": lambda: {"end": layers.Activation("softmax", dtype="float32")},
    "operation": lambda: {"end": lambda x: ops.softmax(x, axis=-1)},
    "enlarged": lambda: {"end": lambda x: layers.UpSampling2D(2)(layers.Softmax()(layers.MaxPooling2D(2)(x)))},
    "by hand": lambda: {"end": by_hand},
    "nested": lambda: {"end": keras.Sequential([keras.Input((None, None, 2)), layers.Softmax()])},
}
"""Ends of a network; made anew for each, since Keras counts names from the start again after ``clear_session``."""


@pytest.mark.parametrize("how", SOFTMAX)
def test_a_softmax_is_not_taken_for_logits(tmp_path: Path, how: str) -> None:
    with pytest.raises(InputError, match=r"said to give logits, but .*probabilities.*--activation softmax") as error:
        packed(tmp_path, "logits", **SOFTMAX[how]())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model" / "card.json").exists()
    assert packed(tmp_path, "softmax", **SOFTMAX[how]()).activation == "softmax"


@pytest.mark.parametrize(
    ("claim", "channels", "end", "said"),
    [
        ("softmax", 2, None, "no probabilities; say --activation logits"),
        ("sigmoid", 1, None, "no probabilities; say --activation logits"),
        ("logits", 1, layers.Activation("sigmoid"), "sigmoid .*say --activation sigmoid"),
        ("logits", 1, ops.sigmoid, "sigmoid .*say --activation sigmoid"),
        ("softmax", 1, layers.Activation("sigmoid"), "say --activation sigmoid"),
        ("logits", 2, layers.Activation("sigmoid"), "of each of 2 channels by itself"),
        ("softmax", 2, layers.Activation("sigmoid"), "of each of 2 channels by itself"),
        ("softmax", 2, lambda x: 1 / (1 + ops.exp(-x)), "add up to .* where a softmax over classes gives 1"),
        ("softmax", 2, layers.Activation("log_softmax"), "its logarithms are logits: --activation logits"),
        ("softmax", 2, layers.Softmax(axis=1), "over rows or columns instead of channels"),
        ("logits", 2, layers.Softmax(axis=(1, 2)), "over rows or columns instead of channels"),
        ("logits", 2, lambda x: ops.softmax(x, axis=2), "over rows or columns instead of channels"),
        ("softmax", 1, layers.Softmax(), "of one channel it is always 1"),
        ("logits", 1, lambda x: 1 / (1 + ops.exp(-x)), "0 to 1 however bright .*say --activation sigmoid"),
        ("logits", 1, lambda x: (ops.tanh(x) + 1) / 2, "0 to 1 however bright .*say --activation sigmoid"),
        ("logits", 2, lambda x: 1 / (1 + ops.exp(-x)), "each of its 2 channels gives 0 to 1 however bright"),
        ("logits", 2, lambda x: x * np.nan, "nothing but NaN"),
    ],
)
def test_other_false_claims_are_refused(tmp_path: Path, claim: str, channels: int, end: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        packed(tmp_path, claim, channels, end=end)


@pytest.mark.parametrize(
    ("claim", "channels", "end"),
    [
        ("logits", 2, None),
        ("logits", 1, None),
        ("logits", 2, layers.Activation("linear")),
        ("logits", 2, layers.Activation("log_softmax")),
        ("sigmoid", 1, layers.Activation("sigmoid")),
        ("logits", 2, layers.ReLU()),
        ("logits", 1, layers.ReLU()),
        ("logits", 1, layers.Activation("tanh")),
        ("sigmoid", 1, lambda x: 1 / (1 + ops.exp(-x))),
    ],
)
def test_true_claims_are_taken(tmp_path: Path, claim: str, channels: int, end: object) -> None:
    assert packed(tmp_path, claim, channels, end=end).activation == claim


def test_a_card_that_was_changed_by_hand_is_refused_when_it_is_used(tmp_path: Path) -> None:
    packed(tmp_path, "softmax", **SOFTMAX["head"]())
    folder = tmp_path / "model"
    save_card(load_card(folder).model_copy(update={"activation": "logits"}), folder)
    with pytest.raises(InputError, match="activation logits in the card, but its last activation is softmax"):
        load_bundle(folder)


def test_logits_that_happen_to_be_small_are_logits(tmp_path: Path) -> None:
    head = layers.Conv2D(1, 1, kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(0.5))
    assert packed(tmp_path, "logits", 1, head=head).activation == "logits"
    assert np.isfinite(load_card(tmp_path / "model").flops_per_pixel)
