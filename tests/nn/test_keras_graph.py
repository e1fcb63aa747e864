"""Stride, radius and locality: known numbers, and what perturbing one pixel shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileseg.errors import InputError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_graph import analyse
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network

layers = keras.layers


def model_of(*stack: object, bands: int = 2) -> keras.Model:
    image = x = keras.Input((None, None, bands))
    for layer in stack:
        x = layer(x)
    return keras.Model(image, x)


def measured_radius(model: keras.Model, stride: int, reach: int) -> int:
    """How far an aligned period of the output really depends on the input, by the gradient's support."""
    pad = -(-(reach + 2 * stride) // stride) * stride
    rows, cols = 2 * pad + stride, 2 * pad + 2 * stride
    rng = np.random.default_rng(0)
    distances = range(1, reach + stride + 1)
    # As many copies as there are distances, so that image by image the same arithmetic is done on both batches.
    base = rng.normal(size=(1, rows, cols, model.inputs[0].shape[-1])).astype(np.float32).repeat(len(distances), axis=0)

    def periods(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return to_numpy(model(images))[:, pad : pad + stride, pad : pad + stride]

    whole, farthest = periods(base), 0
    # In each image another row or column is changed, at that distance from the period.
    for axis, start, stop in ((1, pad, pad + stride), (2, pad, pad + stride)):
        for side in (-1, 1):
            changed = base.copy()
            for image, distance in zip(changed, distances, strict=True):
                line = np.moveaxis(image, axis - 1, 0)[start - distance if side < 0 else stop - 1 + distance]
                # Noise, large and of both signs, so that neither ReLU nor pooling hides it in every channel.
                line += rng.normal(size=line.shape) * 50
            noticed = (periods(changed) != whole).any(axis=(1, 2, 3))
            farthest = max([farthest, *(d for d, seen in zip(distances, noticed, strict=True) if seen)])
    return farthest


def test_the_vgg16_unet_is_as_designed() -> None:
    model = build_network(NetworkSpec(batch_norm=False), 3, 2)
    facts = analyse(model)
    assert (facts.stride, facts.radius, facts.local) == (16, 138, True)
    assert facts.nonlocal_layers == ()
    assert facts.flops_per_pixel == pytest.approx(1.72e6, rel=0.01)
    assert model.count_params() == pytest.approx(24.9e6, rel=0.002)


def test_bands_skips_and_normalisation_leave_stride_and_radius() -> None:
    facts = analyse(build_network(NetworkSpec(width=0.25, align_skips=64), 7, 3))
    assert (facts.stride, facts.radius) == (16, 138)
    assert analyse(build_network(NetworkSpec(width=0.25, decoder="transpose"), 3, 2)).radius < 138


@pytest.mark.parametrize(
    ("stack", "stride", "radius"),
    [
        ((layers.Conv2D(3, 3, padding="same"),), 1, 1),
        ((layers.Conv2D(3, (1, 7), padding="same"),), 1, 3),
        ((layers.Conv2D(3, 4, padding="same"),), 1, 2),
        ((layers.Conv2D(3, 3, dilation_rate=4, padding="same"),), 1, 4),
        ((layers.ZeroPadding2D(2), layers.Conv2D(3, 5)), 1, 2),
        ((layers.ZeroPadding2D(((3, 1), (3, 1))), layers.Conv2D(3, 5)), 1, 3),
        ((layers.MaxPooling2D(2), layers.UpSampling2D(2)), 2, 0),
        ((layers.MaxPooling2D(2), layers.UpSampling2D(2, interpolation="bilinear")), 2, 2),
        ((layers.Conv2D(3, 3, strides=2, padding="same"), layers.Conv2DTranspose(2, 2, strides=2)), 2, 1),
        ((layers.SeparableConv2D(4, 3, padding="same"), layers.DepthwiseConv2D(5, padding="same")), 1, 3),
        ((layers.Dense(3), layers.LayerNormalization(), layers.Softmax()), 1, 0),
    ],
)
def test_small_stacks_by_hand(stack: tuple[object, ...], stride: int, radius: int) -> None:
    model = model_of(*[layer.__class__.from_config(layer.get_config()) for layer in stack])
    facts = analyse(model)
    assert (facts.stride, facts.radius, facts.local) == (stride, radius, True)
    assert measured_radius(model, stride, radius + 3) == radius


DOWN = {
    "max": lambda: layers.MaxPooling2D(2),
    "average": lambda: layers.AveragePooling2D(2),
    "max same": lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
    "conv 3": lambda: layers.Conv2D(3, 3, strides=2, padding="same"),
    "conv 2": lambda: layers.Conv2D(3, 2, strides=2),
    "conv 1": lambda: layers.Conv2D(3, 1, strides=2, padding="same"),
    "depthwise": lambda: layers.DepthwiseConv2D(4, strides=2, padding="same"),
}
UP = {
    "nearest": lambda: layers.UpSampling2D(2),
    "bilinear": lambda: layers.UpSampling2D(2, interpolation="bilinear"),
    "transpose 2": lambda: layers.Conv2DTranspose(3, 2, strides=2, padding="same"),
    "transpose 3": lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same"),
    "transpose 4": lambda: layers.Conv2DTranspose(3, 4, strides=2, padding="same"),
}
LEVELS = st.lists(
    st.tuples(
        st.sampled_from([(1, 1), (3, 1), (2, 1), (3, 2), (5, 1)]),
        st.sampled_from(sorted(DOWN)),
        st.sampled_from(sorted(UP)),
        st.sampled_from([1, 2, 3]),
    ),
    max_size=2,
)
"""Random encoder-decoders: (kernel, dilation), then smaller, then larger, then another kernel, level by level."""


@settings(max_examples=15)
@given(LEVELS, st.sampled_from([1, 3]))
def test_the_radius_is_never_smaller_than_what_one_row_or_column_shows(levels: list, bottom: int) -> None:
    keras.utils.set_random_seed(4)
    image = x = keras.Input((None, None, 2))
    skips = []
    for (kernel, dilation), down, _, _ in levels:
        x = layers.Conv2D(3, kernel, dilation_rate=dilation, padding="same")(x)
        skips.append(x)
        x = DOWN[down]()(x)
    x = layers.SeparableConv2D(3, bottom, padding="same")(x)
    for _, _, up, kernel in reversed(levels):
        x = layers.Concatenate()([UP[up]()(x), skips.pop()])
        x = layers.Conv2D(3, kernel, padding="same")(x)
    model = keras.Model(image, keras.ops.sigmoid(x * 0.1))
    facts = analyse(model)
    assert facts.local
    assert facts.stride == 2 ** len(levels)
    assert measured_radius(model, facts.stride, facts.radius + 3) <= facts.radius


def squeeze_excite(x: object) -> object:
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    return layers.Multiply()([x, layers.Dense(2, activation="sigmoid")(gate)])


@keras.saving.register_keras_serializable("tileseg-tests")
class Unknown(layers.Layer):
    def call(self, inputs: object) -> object:
        return inputs - keras.ops.mean(inputs, axis=(1, 2), keepdims=True)


@pytest.mark.parametrize(
    ("layer", "blamed"),
    [
        (squeeze_excite, "squeeze (GlobalAveragePooling2D)"),
        (layers.GroupNormalization(1, name="norm"), "norm (GroupNormalization)"),
        (layers.LayerNormalization(axis=(1, 2, 3), name="norm"), "norm (LayerNormalization)"),
        (Unknown(name="mine"), "mine (Unknown)"),
        (lambda x: x - keras.ops.mean(x, axis=(1, 2), keepdims=True), "mean (Mean)"),
        (layers.Resizing(64, 80, name="again"), "again (Resizing)"),
        (lambda x: layers.BatchNormalization(name="live")(x, training=True), "live (BatchNormalization)"),
        (layers.Conv2D(2, 1, activation=lambda x: x - keras.ops.mean(x), name="odd"), "odd (Conv2D)"),
    ],
)
def test_layers_that_look_at_the_whole_window_are_named(layer: object, blamed: str) -> None:
    image = keras.Input((64, 80, 2))
    x = layers.Conv2D(2, 3, padding="same")(image)
    model = keras.Model(image, layers.Conv2D(2, 1)(layer(x)))
    facts = analyse(model)
    assert not facts.local
    kinds = [name.split(" (")[1] for name in facts.nonlocal_layers]
    assert kinds == [blamed.split(" (")[1]]


def test_a_constant_map_is_not_local() -> None:
    image = keras.Input((None, None, 2))
    fixed = keras.Input((64, 80, 2))
    assert not analyse(keras.Model(fixed, layers.Conv2D(2, 1)(fixed) + np.ones((1, 64, 1, 1), np.float32))).local
    assert analyse(keras.Model(image, layers.Conv2D(2, 1)(image) + np.ones((1, 1, 1, 2), np.float32))).local


def test_nested_and_shared_layers_count_as_often_as_they_are_called() -> None:
    inner = keras.Sequential([keras.Input((None, None, 2)), layers.Conv2D(2, 3, padding="same")])
    image = keras.Input((None, None, 2))
    shared = layers.Conv2D(2, 3, padding="same")
    model = keras.Model(image, inner(shared(inner(shared(image)))))
    assert analyse(model).radius == 4
    assert analyse(keras.Sequential([keras.Input((None, None, 2)), inner, shared])).radius == 2


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="expected a map with the rows and columns of its input"):
        analyse(model_of(layers.Conv2D(2, 3, padding="same", strides=2)))
    with pytest.raises(InputError, match="expected images"):
        analyse(keras.Sequential([keras.Input((5,)), layers.Dense(2)]))
