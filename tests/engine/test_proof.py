"""The proof of a model's halo: far from the first pixel, and for models that were trained in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tileseg.card import ClassInfo, Form, ModelCard, Scaling
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.proof import TOLERANCE, prove
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle
from tileseg.nn.description import Description
from tileseg.nn.keras_graph import analyse
from tileseg.nn.packing import pack
from tileseg.tta import View

layers, ops = keras.layers, keras.ops
TWO = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))
FORMS = (Form(file="model.keras", sha256="0" * 64),)
DESCRIBED = Description(name="m", bands=("r", "g", "b"), classes=TWO, scaling=Scaling(divisor=255))


def enlarging(
    size: object, interpolation: str = "bilinear", policy: str = "float32", end: str = "float32"
) -> keras.Model:
    """A network that shrinks by ``size`` and enlarges again."""
    keras.utils.set_random_seed(5)
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", dtype=policy)(image)
    x = layers.BatchNormalization(dtype=policy)(x)
    x = layers.Conv2D(6, 3, padding="same", dtype=policy)(layers.AveragePooling2D(size, dtype=policy)(x))
    x = layers.UpSampling2D(size, interpolation=interpolation, dtype=policy)(x)
    return keras.Model(image, layers.Conv2D(2, 3, padding="same", dtype=end)(x))


@pytest.mark.parametrize(
    ("size", "interpolation", "local"),
    [
        (2, "bilinear", True), (4, "bilinear", True), ((8, 1), "bilinear", True),
        (3, "bilinear", False), (6, "bilinear", False), ((2, 5), "bilinear", False), (7, "bilinear", False),
        (3, "nearest", True), ((5, 2), "nearest", True),
        (2, "bicubic", False), (2, "lanczos3", False), (4, "lanczos5", False),
    ],
)  # fmt: skip
def test_enlarging_is_local_where_positions_are_exact(size: object, interpolation: str, local: bool) -> None:
    facts = analyse(enlarging(size, interpolation))
    assert facts.local is local
    assert all(name.endswith("(UpSampling2D)") for name in facts.nonlocal_layers)


@pytest.mark.parametrize(("size", "interpolation"), [(4, "bilinear"), ((3, 5), "nearest")])
def test_what_is_local_is_so_far_from_the_first_pixel(tmp_path: Path, size: object, interpolation: str) -> None:
    enlarging(size, interpolation).save(tmp_path / "m.keras")
    proof = prove(KerasNetwork(load_archive_of(tmp_path), pack(tmp_path / "m.keras", tmp_path / "model", DESCRIBED)))
    assert proof.holds
    assert proof.far <= TOLERANCE


def load_archive_of(folder: Path) -> keras.Model:
    from tileseg.nn.bundle import load_archive

    return load_archive(folder / "m.keras")


@pytest.mark.parametrize("size", [3, (1, 6), (6, 1)])
def test_float32_positions_are_found_far_from_the_first_pixel(size: object) -> None:
    """The same layer under a name that is taken for local: the first pixels alone would not show it."""

    model = enlarging(size)
    down, across = size if isinstance(size, tuple) else (size, size)
    card = ModelCard(
        name="m", bands=("r", "g", "b"), classes=TWO, output_channels=2, stride=np.lcm(down, across).item(),
        radius=5 * max(down, across), flops_per_pixel=1, activation_bytes_per_pixel=1, parameters=1, forms=FORMS,
    )  # fmt: skip
    proof = prove(KerasNetwork(model, card))
    assert proof.far > 4 * TOLERANCE
    assert not proof.holds


@pytest.mark.parametrize(("policy", "end"), [("mixed_float16", "mixed_float16"), ("mixed_bfloat16", "float32")])
def test_models_of_16_bits_are_proved_and_run_in_float32(tmp_path: Path, policy: str, end: str) -> None:
    enlarging(2, policy=policy, end=end).save(tmp_path / "m.keras")
    pack(tmp_path / "m.keras", tmp_path / "model", DESCRIBED)
    model, card = load_bundle(tmp_path / "model")
    assert prove(KerasNetwork(model, card)).holds
    whole = enlarging(2)
    whole.set_weights(model.get_weights())
    image = np.random.default_rng(1).normal(size=(1, 32, 48, 3)).astype(np.float32)
    spec = PredictorSpec((32, 48), 0, (View(),), Scaling(), halo=0, output="float32")
    found = Predictor(KerasNetwork(model, card), spec)(image)[0]
    assert np.moveaxis(found, 0, -1) == pytest.approx(to_numpy(whole(image))[0], abs=1e-5)


def test_a_model_that_takes_bytes_is_proved_with_bytes(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), dtype="uint8")
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(image))
    keras.Model(image, layers.Conv2D(2, 1)(x)).save(tmp_path / "m.keras")
    pack(tmp_path / "m.keras", tmp_path / "model", DESCRIBED)
    proof = prove(KerasNetwork(*load_bundle(tmp_path / "model")))
    assert proof.holds
    assert proof.deviation > 0.01


def test_a_model_without_a_single_layer_is_proved(tmp_path: Path) -> None:
    image = keras.Input((None, None, 2))
    keras.Model(image, image).save(tmp_path / "m.keras")
    described = Description(name="m", bands=("a", "b"), classes=TWO, scaling=Scaling())
    pack(tmp_path / "m.keras", tmp_path / "model", described)
    assert prove(KerasNetwork(*load_bundle(tmp_path / "model"))).holds


def test_a_cast_to_16_bits_at_the_end_is_not_carried_out(tmp_path: Path) -> None:
    plain = enlarging(2)
    keras.Model(plain.inputs[0], ops.cast(plain.outputs[0], "float16")).save(tmp_path / "m.keras")
    pack(tmp_path / "m.keras", tmp_path / "model", DESCRIBED)
    model, card = load_bundle(tmp_path / "model")
    assert prove(KerasNetwork(model, card)).holds


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow")
def test_a_run_is_whole_float32_and_training_need_not_be() -> None:
    import tensorflow as tf

    from tileseg.nn.backend import configure

    configure(whole_float32=False)
    assert tf.config.experimental.tensor_float_32_execution_enabled()
    configure()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
