"""Every option of the network: what it is made of, and that tiles of each local one equal the whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from oracle import whole_scene_logits
from pydantic import ValidationError

from tileseg.card import ClassInfo, Form, ModelCard, Scaling
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.engine.proof import prove
from tileseg.errors import UsageError
from tileseg.nn.backend import compile as compile_function
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle, save_bundle
from tileseg.nn.description import Description
from tileseg.nn.keras_graph import analyse
from tileseg.nn.options import NetworkSpec
from tileseg.nn.twin import inference_twin
from tileseg.nn.unet import ENCODERS, build_network, output_weights, part_of, training_model
from tileseg.tta import Flips, View, alignment, view_halo, view_margin, views

layers = keras.layers
WIDTH = 1 / 16
CLASSES = tuple(ClassInfo(name=f"class {i}", color="#000000") for i in range(3))
SCALING = Scaling(divisor=255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))

LOCAL = {
    "plain": (NetworkSpec(width=WIDTH), 16, 138),
    "not normalised": (NetworkSpec(width=WIDTH, batch_norm=False), 16, 138),
    "transpose": (NetworkSpec(width=WIDTH, decoder="transpose"), 16, 122),
    "aligned": (NetworkSpec(width=WIDTH, align_skips=32), 16, 138),
    "unet": (NetworkSpec(width=WIDTH, encoder="unet"), 16, 110),
    "mobile": (NetworkSpec(width=0.5, encoder="mobile"), 16, 126),
    "mobile, not normalised": (NetworkSpec(width=0.5, encoder="mobile", batch_norm=False), 16, 126),
    "separable": (NetworkSpec(width=WIDTH, separable=True), 16, 138),
    "separable, not normalised": (NetworkSpec(width=WIDTH, separable=True, batch_norm=False), 16, 138),
    "attention": (NetworkSpec(width=WIDTH, attention=True), 16, 138),
    "dilated": (NetworkSpec(width=WIDTH, dilated=True), 8, 130),
    "light decoder": (NetworkSpec(width=WIDTH, decoder_width=0.5, decoder_convs=1, align_skips=True), 16, 122),
    "dropout": (NetworkSpec(width=WIDTH, dropout=0.3), 16, 138),
    "all": (
        NetworkSpec(
            encoder="unet", width=WIDTH, decoder="transpose", align_skips=True, separable=True, attention=True,
            dilated=True, deep_supervision=True, dropout=0.3,
        ), 8, 102,
    ),
    "all, light": (
        NetworkSpec(encoder="mobile", width=0.5, attention=True, dilated=True, deep_supervision=True), 8, 126,
    ),
}  # fmt: skip
"""Name -> options, stride, radius by hand."""

REACHES = ["light decoder", "all", "all, light"]
"""Those that have every kind of layer that looks elsewhere; strides and radii are tested of all, and folding is."""


def network(spec: NetworkSpec, bands: int = 3, classes: int = 3) -> keras.Model:
    """Random weights, and random statistics where it normalises."""
    keras.utils.set_random_seed(3)
    model = build_network(spec, bands, classes)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights(
                [rng.uniform(0.7, 1.4, n), rng.normal(0, 0.1, n), rng.normal(0, 0.1, n), rng.uniform(0.6, 1.6, n)]
            )
    return model


@functools.cache
def random(name: str) -> keras.Model:
    """A local network; for tests that leave it as it is."""
    return network(LOCAL[name][0])


def card_of(model: keras.Model) -> ModelCard:
    facts = analyse(model)
    return ModelCard(
        name="test", bands=("red", "green", "blue"), classes=CLASSES, scaling=SCALING, output_channels=len(CLASSES),
        stride=facts.stride, radius=facts.radius, local=facts.local, nonlocal_layers=facts.nonlocal_layers,
        flops_per_pixel=facts.flops_per_pixel, activation_bytes_per_pixel=facts.activation_bytes_per_pixel,
        parameters=model.count_params(), forms=(Form(file="model.keras", sha256="0" * 64),),
    )  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_stride_radius_and_locality(name: str) -> None:
    spec, stride, radius = LOCAL[name]
    facts = analyse(build_network(spec, 5, 2))
    assert (facts.stride, facts.radius, facts.local, facts.nonlocal_layers) == (stride, radius, True, ())


@pytest.mark.parametrize("name", REACHES)
def test_tiles_equal_the_whole(name: str) -> None:
    model = random(name)
    proof = prove(KerasNetwork(model, card_of(model)))
    assert proof.holds, proof
    assert proof.deviation > 1e-3


def test_a_much_smaller_halo_shows() -> None:
    model = random("all")
    card = card_of(model)
    less = card.model_copy(update={"radius": card.stride})
    assert not prove(KerasNetwork(model, less)).holds


@pytest.mark.parametrize("name", LOCAL)
def test_folding_and_cropping_change_nothing(name: str) -> None:
    model = random(name)
    window = np.random.default_rng(1).normal(size=(2, 64, 112, 3)).astype(np.float32)
    whole = to_numpy(model(window, training=False))
    twin = inference_twin(model, 64, 112, 21, "float32")
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in twin.layers)
    core = to_numpy(twin(window, training=False))
    assert core.shape == (2, 22, 70, 3)
    # Folded factors are rounded otherwise, and the signal passes 22 normalisations.
    assert np.abs(core - whole[:, 21:-21, 21:-21]).max() <= 1e-4 * whole.std()


@pytest.mark.parametrize("name", ["mobile", "separable", "all"])
def test_in_bfloat16_it_is_near(name: str) -> None:
    model = random(name)
    window = np.random.default_rng(1).normal(size=(1, 64, 112, 3)).astype(np.float32)
    whole = to_numpy(model(window, training=False))
    near = to_numpy(inference_twin(model, 64, 112, 0, "bfloat16")(window, training=False))
    assert near.dtype == np.float32
    assert 0 < np.abs(near - whole).mean() < 0.04 * whole.std()


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_of_several_channels_each_is_folded(multiplier: int) -> None:
    keras.utils.set_random_seed(3)
    image = keras.Input((None, None, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=multiplier, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(center=False)(x)
    model = keras.Model(image, layers.Conv2D(2, 1)(x))
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    window = rng.normal(size=(1, 16, 24, 3)).astype(np.float32)
    twin = inference_twin(model, 16, 24, 0, "float32")
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in twin.layers)
    whole = to_numpy(model(window))
    assert np.abs(to_numpy(twin(window)) - whole).max() <= 1e-5 * whole.std()


def folded(model: keras.Model) -> Callable[..., npt.NDArray[np.float32]]:
    """The whole network with its normalisation folded, as runs have it."""

    def call(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        twin = inference_twin(model, *images.shape[1:3], 0, "float32")
        return to_numpy(compile_function(lambda image: twin(image, training=False))(images))

    return call


def tiled(model: keras.Model, scene: npt.NDArray[np.uint8], seen: tuple[View, ...]) -> npt.NDArray[np.float32]:
    """(class, y, x) logits of a scene, tile by tile, as a run computes them."""
    card = card_of(model)
    scales = tuple(dict.fromkeys(view.scale for view in seen))
    align = alignment(card.stride, scales)
    core = tuple(-(-side // align) * align for side in (64, 96))
    margin = max(view_margin(view_halo(card.radius, card.stride, s), s) for s in scales)
    margin = -(-margin // 2) * 2
    spec = PredictorSpec(core=core, margin=margin, views=seen, scaling=SCALING, output="float32")
    predictor = Predictor(KerasNetwork(model, card), spec)
    rows, cols = (-(-side // c) * c for side, c in zip(scene.shape[:2], core, strict=True))
    after = ((margin, margin + rows - scene.shape[0]), (margin, margin + cols - scene.shape[1]), (0, 0))
    pixels = np.pad(scene, after, mode="reflect")
    found = np.empty((len(CLASSES), rows, cols), np.float32)
    for row in range(0, rows, core[0]):
        for col in range(0, cols, core[1]):
            tile = pixels[row : row + core[0] + 2 * margin, col : col + core[1] + 2 * margin]
            found[:, row : row + core[0], col : col + core[1]] = predictor(tile[None])[0]
    return found[:, : scene.shape[0], : scene.shape[1]]


@pytest.mark.parametrize(
    ("name", "scales", "flips", "apart"),
    [
        ("mobile", (Fraction(1), Fraction(3, 2)), "h", 1e-5),
        # TensorFlow cuts a dilated map into pieces by its size, and sums each in an order of its own: 1.7e-5 was seen.
        ("dilated", (Fraction(1),), "v", 3e-5),
        ("all", (Fraction(1),), "d4", 3e-5),
    ],
)
def test_tiles_with_views_equal_the_oracle(name: str, scales: tuple[Fraction, ...], flips: Flips, apart: float) -> None:
    scene = np.random.default_rng(5).integers(0, 256, (83, 107, 3), dtype=np.uint8)
    model, seen = random(name), views(scales, flips)
    # Normalised as a run does it: random normalisations blow up even the rounding of the input.
    image = (scene - np.float32(SCALING.zero)) * (1 / np.array(SCALING.unit)).astype(np.float32)
    expected = whole_scene_logits(folded(model), card_of(model), Scaling(), image, seen)
    assert np.abs(tiled(model, scene, seen) - expected).max() <= apart * expected.std()


def test_squeeze_excite_is_not_local_and_says_so() -> None:
    model = network(NetworkSpec(encoder="unet", width=WIDTH, decoder_convs=1, squeeze_excite=True, attention=True))
    facts = analyse(model)
    assert not facts.local
    assert set(facts.nonlocal_layers) == {f"decoder{n}_squeeze (GlobalAveragePooling2D)" for n in range(1, 5)}
    assert not prove(KerasNetwork(model, card_of(model))).holds
    window = np.random.default_rng(1).normal(size=(1, 64, 112, 3)).astype(np.float32)
    whole = to_numpy(model(window, training=False))
    core = to_numpy(inference_twin(model, 64, 112, 16, "float32")(window, training=False))
    assert np.abs(core - whole[:, 16:-16, 16:-16]).max() <= 1e-4 * whole.std()


def test_encoders_have_the_sizes_of_their_papers() -> None:
    def convolutions(encoder: str) -> list[tuple[int, ...]]:
        model = build_network(NetworkSpec(encoder=encoder, batch_norm=False), 3, 2)
        return [
            tuple(layer.kernel.shape) for layer in model.layers
            if part_of(layer.name) != "decoder" and isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D))
        ]  # fmt: skip

    theirs = keras.applications.VGG16(include_top=False, weights=None)
    assert convolutions("vgg16") == [tuple(w.shape) for w in theirs.weights if len(w.shape) == 4]
    assert convolutions("unet")[-1] == (3, 3, 1024, 1024)
    assert convolutions("mobile")[:3] == [(3, 3, 3, 16), (3, 3, 16, 1), (1, 1, 16, 32)]


def test_light_networks_are_light() -> None:
    full, separable, mobile = (
        analyse(build_network(spec, 3, 2)).flops_per_pixel
        for spec in (NetworkSpec(), NetworkSpec(separable=True), NetworkSpec(encoder="mobile"))
    )
    assert separable < full / 7
    assert mobile < separable / 10


@pytest.mark.parametrize(("width", "convolutions"), [(0.5, 2), (0.25, 1), (0.5, 3)])
def test_a_lighter_decoder_costs_what_its_convolutions_cost(width: float, convolutions: int) -> None:
    """Against the network of the usual decoder, by the multiplications of each 3x3 convolution, two operations each."""
    encoder = (64, 128, 256, 512, 512)

    def of_convolutions(width: float, convolutions: int) -> float:
        total, below = 0.0, float(encoder[4])
        for stage in (4, 3, 2, 1):
            made = encoder[stage - 1] * width
            pairs = (below + encoder[stage - 1]) * made + (convolutions - 1) * made * made
            total += 2 * 9 * pairs / 4 ** (stage - 1)
            below = made
        return total + 2 * below * 2  # two classes

    def of_graph(**options: float) -> float:
        spec = NetworkSpec(batch_norm=False, **options)
        return float(analyse(build_network(spec, 3, 2)).flops_per_pixel)

    found = of_graph(decoder_width=width, decoder_convs=convolutions) - of_graph()
    expected = of_convolutions(width, convolutions) - of_convolutions(1.0, 2)
    # Enlarging and joining fewer channels is cheap, but not for nothing.
    assert found == pytest.approx(expected, rel=0.02, abs=1)


def test_parts_of_the_network() -> None:
    names = [layer.name for layer in build_network(NetworkSpec(width=WIDTH, dropout=0.1), 3, 2).layers]
    parts = {name: part_of(name) for name in names}
    assert parts["block1_conv1"] == parts["block1_conv2_bn"] == "block1"
    assert parts["block5_conv3_relu"] == "block5"
    assert parts["decoder4_up"] == parts["logits"] == "decoder"
    assert set(parts.values()) == {*(f"block{n}" for n in range(1, 6)), "decoder"} | {part_of("image")}


def test_deep_supervision_trains_every_stage_and_is_not_saved(tmp_path: Path) -> None:
    model = network(NetworkSpec(encoder="unet", width=WIDTH, decoder_convs=1, deep_supervision=True))
    teacher = training_model(model)
    x = np.random.default_rng(0).normal(size=(2, 48, 80, 3)).astype(np.float32)
    given = teacher(x, training=False)
    assert [tuple(g.shape) for g in given] == [(2, 48, 80, 3)] * 4
    assert all(keras.backend.standardize_dtype(g.dtype) == "float32" for g in given)
    assert np.array_equal(to_numpy(given[0]), to_numpy(model(x, training=False)))
    extra = {w.path for w in teacher.trainable_weights} - {w.path for w in model.trainable_weights}
    assert {path.split("/")[0] for path in extra} == {"auxiliary2", "auxiliary3", "auxiliary4"}
    before = [to_numpy(w).copy() for w in teacher.trainable_weights]
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.SGD(0.1), [entropy] * 4, loss_weights=list(output_weights(4)), jit_compile=False)
    labels = (x[..., 0] > 0).astype(np.uint8)
    teacher.train_on_batch(x, [labels] * 4)
    still = [w.path for w, b in zip(teacher.trainable_weights, before, strict=True) if np.array_equal(to_numpy(w), b)]
    # A bias before a normalisation has no gradient, and a ReLU may have died.
    assert [path for path in still if path.endswith("kernel")] == []
    card = save_bundle(
        model, tmp_path, Description(name="deep", bands=("r", "g", "b"), classes=CLASSES, scaling=SCALING)
    )
    assert card.local
    again, _ = load_bundle(tmp_path)
    assert [tuple(output.shape[1:]) for output in again.outputs] == [(None, None, 3)]
    assert np.array_equal(to_numpy(again(x, training=False)), to_numpy(model(x, training=False)))


def test_coarser_outputs_count_half() -> None:
    assert output_weights(1) == (1.0,)
    assert output_weights(4) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15))


def test_dropout_acts_in_training_alone() -> None:
    model = network(NetworkSpec(width=WIDTH, dropout=0.5, batch_norm=False))
    x = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype(np.float32)
    still = to_numpy(model(x, training=False))
    assert np.array_equal(still, to_numpy(model(x, training=False)))
    assert not np.array_equal(to_numpy(model(x, training=True)), to_numpy(model(x, training=True)))


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "resnet"}, {"width": 0}, {"width": 5.0}, {"dropout": 1.0}, {"align_skips": -1},
        {"batch_norm": "yes"}, {"depth": 5},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NetworkSpec(**options)


def test_a_network_without_bands_or_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="0 bands and 2 classes"):
        build_network(NetworkSpec(), 0, 2)


def test_options_survive_json() -> None:
    spec = LOCAL["all"][0]
    assert NetworkSpec.model_validate_json(spec.model_dump_json()) == spec
    assert set(ENCODERS) == {"vgg16", "unet", "mobile"}
