"""A Keras network of the user's is trained as tileseg's own are: what comes out, what it starts from, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import write_dataset
from silent import Silent

from tileseg.errors import InputError, Interrupted, UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle
from tileseg.nn.folder import load_card
from tileseg.nn.fused import FusedBatchNormalization
from tileseg.nn.network_file import open_network_file
from tileseg.train.spec import TrainSpec
from tileseg.train.trainer import train

layers = keras.layers
BANDS = ("red", "green", "blue")
QUICK: dict[str, Any] = {
    "crop": 32,
    "batch": 2,
    "steps": 4,
    "steps_per_epoch": 2,
    "warmup": 1,
    "rate": 1e-2,
    "threads": 1,
    "panel_every": 0,
    "augment": "none",
}


def go(dataset: Path, out: Path, network: Any, stop_after: int | None = None, **options: Any) -> list[float]:
    listener = Silent(stop_after)
    spec = TrainSpec.parse({"dataset": dataset, "out": out, "network": network, **QUICK, **options})
    train(spec, listener, listener.stop)
    return listener.losses


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"), train=1, validate=1, height=70, width=90)


def save(path: Path, end: str = "conv softmax", classes: int = 2, bands: int = 3, seed: int = 1) -> Path:
    """A small network of stride 2 with a nested part, a shared layer, a frozen one and batch normalisation."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((None, None, bands))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first", trainable=False)(image)
    skip = layers.Activation("relu")(layers.BatchNormalization(name="norm")(x))
    inside = keras.Input((None, None, 4))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    inner = keras.Model(inside, shared(shared(inside)), name="inner")
    x = inner(layers.MaxPooling2D()(skip))
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = keras.ops.concatenate([x, skip], axis=-1)
    if end == "conv softmax":
        x = layers.Conv2D(classes, 1, activation="softmax", name="last")(x)
    elif end == "softmax":
        x = layers.Softmax()(layers.Conv2D(classes, 1, name="last")(x))
    elif end == "operation":
        x = keras.ops.softmax(layers.Conv2D(classes, 1, name="last")(x), axis=-1)
    elif end == "sigmoid":
        x = layers.Activation("sigmoid")(layers.Conv2D(1, 1, name="last")(x))
    elif end == "add":
        x = layers.Add()([layers.Conv2D(classes, 1, name="last")(x), layers.Conv2D(classes, 3, padding="same")(x)])
    else:
        x = layers.Conv2D(classes, 1, name="last")(x)
    keras.Model(image, x, name="theirs").save(path)
    return path


def values(model: keras.Model, pixels: Any) -> np.ndarray:
    return to_numpy(model(pixels.astype(np.float32), training=False))


PIXELS = np.random.default_rng(2).normal(size=(1, 24, 40, 3))


@pytest.mark.parametrize(
    ("end", "precision"),
    [
        *((end, "float32") for end in ("conv softmax", "softmax", "operation", "sigmoid", "logits")),
        ("conv softmax", "bfloat16"), ("add", "bfloat16"), ("operation", "float16"),
    ],
)  # fmt: skip
def test_a_network_is_made_again_with_its_weights_and_gives_logits(tmp_path, end, precision) -> None:
    path = save(tmp_path / "n.keras", end)
    made = open_network_file(path, BANDS, 2, own_weights=True).build(precision)
    given = values(made, PIXELS)
    assert given.dtype == np.float32
    odds = {"sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    odds |= dict.fromkeys(["conv softmax", "softmax", "operation"], lambda z: to_numpy(keras.ops.softmax(z, axis=-1)))
    found = odds.get(end, lambda z: z)(given)
    rough = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[precision]
    np.testing.assert_allclose(found, values(keras.models.load_model(path), PIXELS), atol=rough)
    assert {layer.name: layer.trainable for layer in made.layers}["first"] is False
    assert made.get_layer("shared").compute_dtype == precision
    assert made.get_layer("last").compute_dtype == ("float32" if end != "add" else precision)
    assert all(keras.backend.standardize_dtype(weight.dtype) == "float32" for weight in made.weights)


def test_normalisation_is_fused_for_training_and_plain_in_what_is_saved(tmp_path) -> None:
    network = open_network_file(save(tmp_path / "n.keras"), BANDS, 2, own_weights=True)
    fused, plain = network.build("float32", fused=True), network.build("float32")
    assert type(fused.get_layer("norm")) is FusedBatchNormalization
    assert type(plain.get_layer("norm")) is layers.BatchNormalization
    for one, other in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_those_of_the_file_or_random_where_that_is_asked(tmp_path) -> None:
    path = save(tmp_path / "n.keras")
    own, fresh = (open_network_file(path, BANDS, 2, own_weights=own).build("float32") for own in (True, False))
    theirs = keras.models.load_model(path)
    np.testing.assert_array_equal(own.get_layer("first").get_weights()[0], theirs.get_layer("first").get_weights()[0])
    assert np.abs(fresh.get_layer("first").get_weights()[0] - theirs.get_layer("first").get_weights()[0]).max() > 0.01


def test_a_training_goes_on_and_its_folder_is_like_any_other(drawn, tmp_path) -> None:
    path = save(tmp_path / "n.keras")
    whole = go(drawn, tmp_path / "whole", path)
    with pytest.raises(Interrupted):
        go(drawn, tmp_path / "parts", path, stop_after=2)
    assert go(drawn, tmp_path / "parts", str(path)) == whole[2:]
    model, card = load_bundle(tmp_path / "parts")
    assert (card.activation, card.output_channels, card.stride, card.local) == ("logits", 2, 2, True)
    assert card.training["spec"]["network"] == {**card.training["spec"]["network"], "file": "n.keras"}
    assert "iou_house" in card.training
    # What was frozen is as it was; the statistics of the normalisation have been learnt.
    theirs = keras.models.load_model(path)
    kept, learnt = (model.get_layer(name).get_weights() for name in ("first", "norm"))
    np.testing.assert_array_equal(kept[0], theirs.get_layer("first").get_weights()[0])
    assert all(np.abs(a - b).max() > 0 for a, b in zip(learnt, theirs.get_layer("norm").get_weights(), strict=True))
    save(path, seed=9)
    with pytest.raises(UsageError, match=r"--network .*n\.keras is another model by now"):
        go(drawn, tmp_path / "parts", path)
    with pytest.raises(UsageError, match="--network fresh=None, now True"):
        go(drawn, tmp_path / "parts", f"file={path},fresh=true")


def test_a_network_of_one_size_and_an_odd_stride_is_trained_in_16_bits(drawn, tmp_path) -> None:
    image = keras.Input((96, 96, 3))
    x = layers.Conv2D(3, 3, padding="same", activation="relu")(layers.AveragePooling2D(3)(image))
    x = layers.Conv2D(1, 1, activation="sigmoid")(layers.UpSampling2D(3)(x))
    keras.Model(image, x).save(tmp_path / "n.keras")
    losses = go(drawn, tmp_path / "m", tmp_path / "n.keras", crop=48, precision="bfloat16", steps=2)
    assert np.isfinite(losses).all()
    assert load_card(tmp_path / "m").stride == 3
    model, card = load_bundle(tmp_path / "m")
    assert (model.input_shape, card.output_channels) == ((None, None, None, 3), 1)


def lambda_network(path: Path) -> Path:
    image = keras.Input((None, None, 3))
    keras.Model(image, layers.Conv2D(2, 1)(layers.Lambda(lambda x: x * 2, name="sly")(image))).save(path)
    return path


def two_outputs(path: Path) -> Path:
    image = keras.Input((None, None, 3))
    keras.Model(image, [layers.Conv2D(2, 1)(image), layers.Conv2D(2, 1)(image)]).save(path)
    return path


def unlearnt(path: Path) -> Path:
    image = keras.Input((None, None, 3))
    keras.Model(image, layers.Conv2D(2, 1, trainable=False)(image)).save(path)
    return path


def probabilities(path: Path) -> Path:
    """What adds up to 1 without a softmax that could be seen."""
    image = keras.Input((None, None, 3))
    x = keras.ops.exp(layers.Conv2D(2, 1)(image))
    keras.Model(image, x / keras.ops.sum(x, axis=-1, keepdims=True)).save(path)
    return path


def sigmoids(path: Path) -> Path:
    image = keras.Input((None, None, 3))
    keras.Model(image, layers.Conv2D(2, 1, activation="sigmoid")(image)).save(path)
    return path


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda path: save(path, bands=4), r"takes 4 bands, the dataset has 3 \(red, green, blue\)"),
        (lambda path: save(path, classes=5), r"gives 5 channels for 2 classes; expected 2 \(or 1\)"),
        (lambda_network, "sly is a Lambda"),
        (two_outputs, "has 1 inputs and 2 outputs"),
        (unlearnt, "has no weights that can be trained"),
        (probabilities, "channels always add up to 1"),
        (sigmoids, "each of 2 channels by itself"),
        (lambda path: path, "no such file"),
        (lambda path: path.with_suffix(".h5"), "expected a .keras file, saved by Keras 3: others can be run"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(drawn, tmp_path, made, told) -> None:
    with pytest.raises(InputError, match=told) as raised:
        go(drawn, tmp_path / "m", made(tmp_path / "n.keras"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"encoder_weights": "imagenet"}, "--encoder-weights: is for tileseg's own networks"),
        ({"unfreeze": 1}, r"--unfreeze: finds nothing in .*n\.keras; it is for layers called block1_"),
        ({"freeze": 2}, r"--freeze: finds nothing"),
        ({"encoder_rate": 0.1}, r"--encoder-rate: finds nothing"),
    ],
)
def test_options_that_are_for_other_networks_are_refused(drawn, tmp_path, options, told) -> None:
    with pytest.raises(UsageError, match=told):
        go(drawn, tmp_path / "m", save(tmp_path / "n.keras"), **options)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"file": "n.keras", "width": 0.5}, "--network: width is an option of tileseg's own networks: n.keras is one"),
        ("fresh=true", "--network: fresh is for the network of a file"),
        ("n.tar", "name=value"),
    ],
)
def test_a_file_has_no_other_options(network, told) -> None:
    with pytest.raises(UsageError, match=told):
        TrainSpec.parse({"dataset": "d.toml", "out": "m", "network": network})


def test_patches_are_multiples_of_the_network_s_stride(drawn, tmp_path) -> None:
    image = keras.Input((None, None, 3))
    x = layers.UpSampling2D(3)(layers.Conv2D(2, 1)(layers.MaxPooling2D(3)(image)))
    keras.Model(image, x).save(tmp_path / "n.keras")
    with pytest.raises(UsageError, match=r"--crop 32: --network .* multiples of 3 pixels"):
        go(drawn, tmp_path / "m", tmp_path / "n.keras")
