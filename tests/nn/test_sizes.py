"""Models built for images of one size: any size where the weights do for it, one line where they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tileseg.card import ClassInfo, Scaling
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.proof import prove
from tileseg.errors import InputError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_archive, load_bundle
from tileseg.nn.description import Description
from tileseg.nn.packing import pack

layers, ops = keras.layers, keras.ops
TWO = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))
DESCRIBED = Description(name="m", bands=("r", "g", "b"), classes=TWO, scaling=Scaling(divisor=255))


def unet(shape: tuple[int | None, ...], batch: int | None = None) -> keras.Model:
    keras.utils.set_random_seed(2)
    image = keras.Input(shape, batch_size=batch)
    fine = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    fine = layers.BatchNormalization()(fine)
    coarse = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.MaxPooling2D()(fine))
    x = layers.Concatenate()([fine, layers.UpSampling2D()(coarse)])
    return keras.Model(image, layers.Conv2D(2, 1)(x))


def nested(shape: tuple[int | None, ...]) -> keras.Model:
    """Two parts that use the same names."""
    keras.utils.set_random_seed(2)

    def part(bands: int) -> keras.Model:
        image = keras.Input((*shape[:2], bands))
        return keras.Model(image, layers.Conv2D(3, 3, padding="same", name="conv")(image))

    image = keras.Input(shape)
    return keras.Model(image, layers.Conv2D(2, 1, name="conv")(part(3)(part(3)(image))))


@pytest.mark.parametrize("build", [unet, nested])
@pytest.mark.parametrize("shape", [(64, 64, 3), (50, 72, 3), (None, 64, 3)])
def test_a_fixed_size_model_is_taken_for_any_size(tmp_path: Path, build: object, shape: tuple) -> None:
    build(shape).save(tmp_path / "fixed.keras")
    pack(tmp_path / "fixed.keras", tmp_path / "model", DESCRIBED)
    model, card = load_bundle(tmp_path / "model")
    assert tuple(model.inputs[0].shape) == (None, None, None, 3)
    free = build((None, None, 3))
    free.set_weights(build(shape).get_weights())
    image = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype(np.float32)
    np.testing.assert_array_equal(*(to_numpy(one(image)) for one in (model, free)))
    if build is unet and shape == (50, 72, 3):
        assert prove(KerasNetwork(model, card)).holds


def test_a_fixed_batch_is_no_hindrance(tmp_path: Path) -> None:
    unet((64, 64, 3), batch=2).save(tmp_path / "fixed.keras")
    assert tuple(load_archive(tmp_path / "fixed.keras").inputs[0].shape) == (None, None, None, 3)


def test_names_of_image_and_map_are_no_hindrance(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3), name="image")
    keras.Model({"image": image}, {"mask": layers.Conv2D(2, 3, padding="same")(image)}).save(tmp_path / "named.keras")
    pack(tmp_path / "named.keras", tmp_path / "model", DESCRIBED)
    assert prove(KerasNetwork(*load_bundle(tmp_path / "model"))).holds


def flat(x: object) -> object:
    """Every pixel of a map depends on every other, by weights for this size."""
    return layers.Reshape((32, 48, 2))(layers.Dense(32 * 48 * 2)(layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (flat, r"32 x 48 alone, because of layer reshape\w* \(Reshape\)"),
        (layers.Reshape((32, 48, 4)), r"because of layer reshape\w* \(Reshape\): it always gives 32 x 48"),
        (layers.Resizing(32, 48), r"because of layer resizing\w* \(Resizing\): it always gives 32 x 48"),
        (lambda x: ops.reshape(x, (-1, 32, 48, 4)), r"\(Reshape\): it always gives 32 x 48"),
        (lambda x: x + np.ones((1, 32, 48, 1), np.float32), r"\(Add\): it always gives 32 x 48"),
        (layers.PReLU(), r"\(PReLU\)"),
        (layers.LayerNormalization(axis=(1, 2)), r"\(LayerNormalization\)"),
        (layers.Conv2D(4, 3), "gives a map of 30 x 46 for an image of 32 x 48.*padding 'same'"),
        (layers.Conv2D(4, 2, strides=2), "gives a map of 16 x 24 for an image of 32 x 48.*padding 'same'"),
        (layers.MaxPooling2D(2), "gives a map of 16 x 24 for an image of 32 x 48"),
    ],
)
def test_what_cannot_take_any_size_is_refused_in_one_line(tmp_path: Path, build: object, said: str) -> None:
    image = keras.Input((32, 48, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    keras.Model(image, layers.Conv2D(2, 1)(build(x))).save(tmp_path / "fixed.keras")
    with pytest.raises(InputError, match=said) as error:
        pack(tmp_path / "fixed.keras", tmp_path / "model", DESCRIBED)
    assert "\n" not in str(error.value)
    assert "fixed.keras" in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("build", [layers.Conv2D(4, 3), layers.MaxPooling2D(2), layers.Conv2D(4, 3, strides=3)])
def test_maps_of_another_size_are_refused_for_free_sizes_too(tmp_path: Path, build: object) -> None:
    image = keras.Input((None, None, 3))
    keras.Model(image, layers.Conv2D(2, 1)(build(image))).save(tmp_path / "free.keras")
    with pytest.raises(InputError, match=r"expected a map with the rows and columns of its input.*padding 'same'"):
        pack(tmp_path / "free.keras", tmp_path / "model", DESCRIBED)


def test_models_that_are_no_segmentation_are_refused_in_one_line(tmp_path: Path) -> None:
    image = keras.Input((32, 48, 3))
    x = layers.Conv2D(2, 3, padding="same")(image)
    other = keras.Input((32, 48, 3))
    models = {
        "classifier": keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))),
        "pair": keras.Model([image, other], layers.Add()([x, layers.Conv2D(2, 1)(other)])),
        "twice": keras.Model(image, [x, x]),
        "sequence": keras.Sequential([keras.Input((8, 3)), layers.LSTM(2)]),
        "volume": keras.Sequential([keras.Input((8, 8, 8, 3)), layers.Conv3D(2, 1)]),
    }
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
        with pytest.raises(InputError) as error:
            pack(tmp_path / f"{name}.keras", tmp_path / "model", DESCRIBED)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "model").exists()
