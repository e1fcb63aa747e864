"""Tiled predictions against the network run once on the whole scene, by means that share nothing with the tiles."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from tileseg.card import ClassInfo, Form, ModelCard, Scaling
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.predictor import Predictor, PredictorSpec
from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_graph import analyse
from tileseg.tta import Flips, alignment, view_halo, view_margin, views

ONE = (Fraction(1),)
THREE = (Fraction(1, 2), Fraction(1), Fraction(3, 2))
ODD = (Fraction(3, 4), Fraction(5, 4))
SCALING = Scaling(divisor=255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
MARGIN = 32
Floats = npt.NDArray[np.float32]


@functools.cache
def network(decoder: str = "bilinear", classes: int = 4, activation: str | None = None) -> keras.Model:
    """A U-Net of three halvings (stride 8), which needs 32 pixels around what it gives."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    convolve = functools.partial(layers.Conv2D, 8, 3, padding="same", activation="relu", kernel_initializer="he_normal")
    image = keras.Input((None, None, 3))
    skips, x = [], image
    for _ in range(3):
        skips.append(convolve()(x))
        x = layers.MaxPooling2D()(skips[-1])
    x = convolve()(x)
    for skip in reversed(skips):
        if decoder == "bilinear":
            x = layers.UpSampling2D(interpolation="bilinear")(x)
        else:
            x = layers.Conv2DTranspose(8, 2, strides=2, use_bias=False)(x)
            x = layers.Activation("relu")(layers.BatchNormalization()(x))
        x = convolve()(layers.Concatenate()([x, skip]))
    # Small logits: what a sigmoid makes of large ones cannot be told from 1.
    model = keras.Model(
        image, layers.Conv2D(classes, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.1))(x)
    )
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights(
                [rng.uniform(0.5, 2, n), rng.normal(size=n), rng.normal(size=n) / 9, rng.uniform(0.5, 2, n)]
            )
    if activation:
        model = keras.Model(model.inputs[0], keras.layers.Activation(activation)(model.outputs[0]))
    return model


def card_of(model: keras.Model, classes: int = 4, activation: str = "logits") -> ModelCard:
    facts = analyse(model)
    return ModelCard(
        name="test",
        bands=("red", "green", "blue"),
        classes=tuple(ClassInfo(name=f"class {i}", color="#000000") for i in range(classes)),
        scaling=SCALING,
        activation=activation,
        output_channels=model.outputs[0].shape[-1],
        stride=facts.stride,
        radius=facts.radius,
        local=facts.local,
        flops_per_pixel=facts.flops_per_pixel,
        activation_bytes_per_pixel=facts.activation_bytes_per_pixel,
        parameters=model.count_params(),
        forms=(Form(file="model.keras", sha256="0" * 64),),
    )


def predictor_of(model: keras.Model, card: ModelCard, **options: object) -> Predictor:
    return Predictor(KerasNetwork(model, card), PredictorSpec(**options))


def reflect(scene: npt.NDArray[np.generic], start: int, stop: int, axis: int) -> npt.NDArray[np.generic]:
    """The scene on an infinite plane of mirrors that stand on its outermost pixels' centres."""
    size = scene.shape[axis]
    if size == 1:
        return np.repeat(scene, stop - start, axis)
    index = np.mod(np.arange(start, stop), 2 * (size - 1))
    return np.take(scene, np.where(index >= size, 2 * (size - 1) - index, index), axis)


def plane(scene: npt.NDArray[np.generic], height: int, width: int, margin: int) -> npt.NDArray[np.generic]:
    return reflect(reflect(scene, -margin, height + margin, 0), -margin, width + margin, 1)


def matrix(size: int, scale: Fraction) -> npt.NDArray[np.float64]:
    made = np.zeros((int(size * scale), size))
    radius = max(1.0, float(1 / scale))
    for out in range(len(made)):
        centre = (out + 0.5) / float(scale) - 0.5
        taps = np.arange(int(np.floor(centre - radius)), int(np.ceil(centre + radius)) + 1)
        weights = np.maximum(0, 1 - np.abs(taps - centre) / radius)
        np.add.at(made[out], np.clip(taps, 0, size - 1), weights / weights.sum())
    return made


def resized(image: Floats, scale: Fraction) -> Floats:
    if scale == 1:
        return image
    rows, cols = matrix(image.shape[0], scale), matrix(image.shape[1], scale)
    return np.einsum("ri,ijc,sj->rsc", rows, image, cols, optimize=True).astype(np.float32)


def whole_scene_logits(
    model: keras.Model, scene: npt.NDArray[np.generic], scales: tuple[Fraction, ...], flips: Flips, merge: str
) -> Floats:
    """The network once on the whole padded scene per view, merged as its definition says; (classes, rows, columns)."""
    facts = analyse(model)
    align = alignment(facts.stride, scales)
    height, width = (-(-side // align) * align for side in scene.shape[:2])
    margin = -(-max(view_margin(view_halo(facts.radius, facts.stride, s), s) for s in scales) // align) * align
    pixels = plane(scene, height, width, margin).astype(np.float64)
    image = ((pixels / SCALING.divisor - SCALING.mean) / SCALING.std).astype(np.float32)
    found = []
    for view in views(scales, flips):
        seen = view.flip.forward(resized(image, view.scale), (0, 1))
        logits = to_numpy(model(np.ascontiguousarray(seen)[None], training=False))[0]
        if merge == "probabilities":
            logits = np.exp(logits - logits.max(-1, keepdims=True))
            logits /= logits.sum(-1, keepdims=True)
        found.append(resized(view.flip.inverse(logits, (0, 1)), 1 / view.scale))
    mean = np.mean(found, axis=0)
    mean = np.log(mean) if merge == "probabilities" else mean
    return mean[margin : margin + scene.shape[0], margin : margin + scene.shape[1]].transpose(2, 0, 1)


def tiled_logits(
    model: keras.Model,
    scene: npt.NDArray[np.generic],
    scales: tuple[Fraction, ...],
    flips: Flips,
    merge: str = "logits",
    core: tuple[int, int] = (64, 128),
    batch: int = 1,
    **options: object,
) -> Floats:
    card = card_of(model)
    align = alignment(card.stride, scales)
    core = (-(-core[0] // align) * align, -(-core[1] // align) * align)
    periods = math.lcm(*(s.denominator for s in scales))
    margin = max(view_margin(view_halo(card.radius, card.stride, s), s) for s in scales)
    margin = -(-margin // periods) * periods
    predictor = predictor_of(
        model, card, core=core, margin=margin, batch=batch, views=views(scales, flips), merge=merge,
        **{"precision": "float32", "halo": None, "scaling": SCALING, "output": "float32"} | options,
    )  # fmt: skip
    height, width = (-(-side // c) * c for side, c in zip(scene.shape[:2], core, strict=True))
    pixels = plane(scene, height, width, margin)
    corners = [(row, col) for row in range(0, height, core[0]) for col in range(0, width, core[1])]
    tiles = np.stack([pixels[r : r + core[0] + 2 * margin, c : c + core[1] + 2 * margin] for r, c in corners])
    found = np.concatenate([predictor(tiles[i : i + batch]) for i in range(0, len(tiles), batch)])
    whole = np.empty((found.shape[1], height, width), found.dtype)
    for (row, col), part in zip(corners, found, strict=True):
        whole[:, row : row + core[0], col : col + core[1]] = part
    return whole[:, : scene.shape[0], : scene.shape[1]]


@pytest.fixture(scope="module")
def scene() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (151, 203, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(scene: npt.NDArray[np.uint8]) -> Floats:
    """The scene's logits by one view."""
    return tiled_logits(network(), scene, ONE, "none")


@pytest.mark.parametrize(
    ("decoder", "scales", "flips", "merge"),
    [
        ("bilinear", ONE, "none", "logits"),
        ("transpose", ONE, "none", "logits"),
        ("bilinear", ONE, "d4", "probabilities"),
        ("bilinear", THREE, "none", "logits"),
        ("transpose", THREE, "v", "logits"),
        ("bilinear", ODD, "h", "logits"),
        ("transpose", ODD, "none", "probabilities"),
    ],
)
def test_tiles_equal_the_whole_scene(
    scene: npt.NDArray[np.uint8], decoder: str, scales: tuple[Fraction, ...], flips: Flips, merge: str
) -> None:
    model = network(decoder)
    expected = whole_scene_logits(model, scene, scales, flips, merge)
    found = tiled_logits(model, scene, scales, flips, merge)
    assert found.shape == (4, 151, 203)
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()


@pytest.mark.parametrize(("scales", "flips"), [(ONE, "d4"), (THREE, "none"), (ODD, "h")])
def test_other_tiles_and_batches_give_the_same_bits(
    scene: npt.NDArray[np.uint8], scales: tuple[Fraction, ...], flips: Flips
) -> None:
    model = network()
    one = tiled_logits(model, scene, scales, flips, core=(64, 128))
    other = tiled_logits(model, scene, scales, flips, core=(192, 64), batch=3)
    assert np.abs(one - other).max() <= 1e-6 * one.std()
    assert np.array_equal(one.argmax(0), other.argmax(0))


def test_a_scene_smaller_than_the_halo(scene: npt.NDArray[np.uint8]) -> None:
    small = scene[:13, :37]
    model = network()
    expected = whole_scene_logits(model, small, THREE, "none", "logits")
    assert np.abs(tiled_logits(model, small, THREE, "none") - expected).max() <= 1e-5 * expected.std()


def test_a_halo_too_small_shows_and_none_at_all_still_runs(scene: npt.NDArray[np.uint8]) -> None:
    model = network()
    expected = whole_scene_logits(model, scene, ONE, "none", "logits")
    errors = [
        np.abs(tiled_logits(model, scene, ONE, "none", halo=halo) - expected).max() / expected.std()
        for halo in (0, 8, 16)
    ]
    assert errors[0] > errors[1] > errors[2] > 1e-4
    assert tiled_logits(model, scene, THREE, "none", halo=0).shape == (4, 151, 203)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 60000), (np.int16, 30000), (np.float32, 1)])
def test_other_pixel_types_are_normalised_alike(
    scene: npt.NDArray[np.uint8], plain: Floats, dtype: type, top: float
) -> None:
    values = (scene.astype(np.float64) / 255 * top).astype(dtype)
    scaling = SCALING.model_copy(update={"divisor": float(top)})
    assert tiled_logits(network(), values, ONE, "none", scaling=scaling) == pytest.approx(
        plain, abs=0.01 * float(plain.std())
    )


def test_a_window_of_values_is_clipped_and_mapped(scene: npt.NDArray[np.uint8]) -> None:
    small = scene[:60, :90].astype(np.int16) * 8 - 1000
    window = Scaling(kind="window", center=40, width=400, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))
    unit = (np.clip(small, -160, 240) + 160) / 400
    assert (unit == 0).any()
    assert (unit == 1).any()
    seen = ((unit - window.mean) / window.std).astype(np.float32)
    model = network()
    expected = tiled_logits(model, seen, ONE, "none", scaling=Scaling())
    found = tiled_logits(model, small, ONE, "none", scaling=window)
    assert np.abs(found - expected).max() <= 1e-5 * expected.std()


def test_half_precision_is_near_and_hands_back_float16(scene: npt.NDArray[np.uint8]) -> None:
    model = network("transpose")
    full = tiled_logits(model, scene, ONE, "none")
    near = tiled_logits(model, scene, ONE, "none", precision="bfloat16", output="float16")
    assert near.dtype == np.float16
    assert 0 < np.abs(near - full).mean() < 0.02 * full.std()
    assert (near.argmax(0) == full.argmax(0)).mean() > 0.95


@pytest.mark.parametrize(("classes", "activation"), [(4, "softmax"), (1, "sigmoid"), (1, None)])
def test_what_the_graph_gives_becomes_one_logit_per_class(
    scene: npt.NDArray[np.uint8], plain: Floats, classes: int, activation: str | None
) -> None:
    model = network(classes=classes, activation=activation)
    card = card_of(model, max(2, classes), activation or "logits")
    assert card.local
    assert card.halo == MARGIN
    predictor = predictor_of(
        model, card, core=(64, 64), margin=MARGIN, batch=1, views=views(ONE, "none"), merge="logits",
        precision="float32", halo=None, scaling=SCALING, output="float32",
    )  # fmt: skip
    tile = plane(scene, 64, 64, MARGIN)[None]
    logits = predictor(tile)[0]
    image = ((tile / 255 - SCALING.mean) / SCALING.std).astype(np.float32)
    inside = slice(MARGIN, MARGIN + 64)
    given = to_numpy(model(image))[0, inside, inside].transpose(2, 0, 1)
    if activation == "softmax":
        assert np.exp(logits) == pytest.approx(given, abs=1e-5)
        assert logits - logits[:1] == pytest.approx(plain[:, :64, :64] - plain[:1, :64, :64], abs=1e-4)
    else:
        assert logits.shape == (2, 64, 64)
        assert not logits[0].any()
        expected = given[0] if activation is None else np.log(given[0] / (1 - given[0]))
        assert logits[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("flips", ["none", "h"])
def test_only_true_infinities_leave_as_infinities(flips: Flips) -> None:
    image = keras.Input((None, None, 1))
    weights = [np.array([[[[1.0, -1.0]]]]), np.zeros(2)]
    head = keras.layers.Conv2D(2, 1)
    model = keras.Model(image, head(image))
    head.set_weights(weights)
    card = card_of(model, 2).model_copy(update={"bands": ("grey",)})
    predictor = predictor_of(
        model, card, core=(2, 4), margin=0, batch=1, views=views(ONE, flips), merge="logits",
        precision="float32", halo=None, scaling=Scaling(),
    )  # fmt: skip
    tile = np.array([[1, 7e4, -7e4, np.inf], [np.nan, -np.inf, 3, 65519.0]], np.float32)[None, :, :, None]
    found = predictor(tile)[0, 0]
    assert found[0, 0] == 1
    assert found[1, 2] == 3
    assert (found[0, 1], found[0, 2]) == (60000, -60000)
    assert np.isfinite(found[1, 3])
    assert not np.isfinite([found[0, 3], found[1, 0], found[1, 1]]).any()


def test_a_window_brings_infinities_to_its_ends_but_hides_no_nan() -> None:
    image = keras.Input((None, None, 1))
    head = keras.layers.Conv2D(2, 1)
    model = keras.Model(image, head(image))
    head.set_weights([np.array([[[[1.0, -1.0]]]]), np.zeros(2)])
    card = card_of(model, 2).model_copy(update={"bands": ("density",)})
    predictor = predictor_of(
        model, card, core=(1, 5), margin=0, batch=1, views=views(ONE, "none"), merge="logits",
        precision="float32", halo=None, scaling=Scaling(kind="window", center=40, width=400), output="float32",
    )  # fmt: skip
    tile = np.array([-np.inf, -1000, 40, np.inf, np.nan], np.float32).reshape(1, 1, 5, 1)
    found = predictor(tile)[0, 0, 0]
    assert found[:4] == pytest.approx([0, 0, 0.5, 1])
    assert np.isnan(found[4])


def test_sizes_that_cannot_be_are_refused(scene: npt.NDArray[np.uint8]) -> None:
    model = network()
    card = card_of(model)
    common = {
        "batch": 2, "views": views(ONE, "none"), "merge": "logits", "precision": "float32", "scaling": SCALING,
    }  # fmt: skip
    with pytest.raises(UsageError, match="expected multiples of 8"):
        predictor_of(model, card, core=(60, 64), margin=MARGIN, halo=None, **common)
    with pytest.raises(UsageError, match="margin of 16 pixels does not do"):
        predictor_of(model, card, core=(64, 64), margin=16, halo=None, **common)
    with pytest.raises(UsageError, match="no multiple of the model's stride"):
        predictor_of(model, card, core=(64, 64), margin=MARGIN, halo=100, **common)
    with pytest.raises(UsageError, match="resolved"):
        predictor_of(
            model, card, core=(64, 64), margin=MARGIN, halo=None, **common | {"scaling": Scaling(kind="scene")}
        )
    predictor = predictor_of(model, card, core=(64, 64), margin=MARGIN, halo=None, **common)
    with pytest.raises(UsageError, match="tiles of shape"):
        predictor(np.zeros((3, 64 + 2 * MARGIN, 64 + 2 * MARGIN, 3), np.uint8))
    four = card.model_copy(update={"bands": ("a", "b", "c", "d")})
    with pytest.raises(InputError, match="takes 3 bands, its card says 4"):
        predictor_of(model, four, core=(64, 64), margin=MARGIN, halo=None, **common | {"scaling": Scaling()})


def test_scenes_of_other_pixel_types_share_a_predictor() -> None:
    """As in an archive: one scene in bytes, the next in 16 bits, the next in float32."""
    model = network()
    predictor = predictor_of(
        model, card_of(model), core=(32, 64), margin=MARGIN, views=views(ONE, "none"), scaling=SCALING
    )
    pixels = np.random.default_rng(0).integers(0, 255, (1, *predictor.tile_shape))
    first = predictor(pixels.astype(np.uint8))
    for dtype in (np.uint16, np.float32, np.int16, np.uint8):
        np.testing.assert_array_equal(predictor(pixels.astype(dtype)), first)
