"""The encoder's weights from a file: every layer arrives, and what does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from tileseg.errors import InputError, UsageError
from tileseg.nn import encoder_weights
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.encoder_weights import load_encoder_weights, settle_norms
from tileseg.nn.fused import fuse
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network

NAMES = [f"block{block}_conv{conv}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for conv in range(1, count + 1)]
MEAN, STD = (123.68, 116.779, 103.939), (58.395, 57.12, 57.375)
"""Of ImageNet's red, green and blue."""


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.applications.VGG16(include_top=False, weights=None)
    rng = np.random.default_rng(1)
    for name in NAMES:
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel, rng.normal(size=bias.shape).astype(np.float32) / 10])
    return model


def write_notop(path: Path, model: keras.Model, *, inside: str = "") -> None:
    """As the file that Keras offers for download is laid out: one group per layer, arrays with TensorFlow's names."""
    with h5py.File(path, "w") as file:
        root = file.create_group(inside) if inside else file
        root.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = root.create_group(layer.name)
            names = [f"{layer.name}_{letter}_1:0" for letter in "Wb"] if layer.weights else []
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array


@pytest.fixture(scope="module")
def sources(vgg16: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    vgg16.save(folder / "vgg16.keras")
    vgg16.save_weights(folder / "vgg16.weights.h5")
    write_notop(folder / "vgg16_notop.h5", vgg16)
    write_notop(folder / "whole.hdf5", vgg16, inside="model_weights")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def full() -> keras.Model:
    """A network of width 1 for three bands, which takes seconds to build; tests empty its encoder."""
    return build_network(NetworkSpec(batch_norm=False), 3, 2)


def emptied(model: keras.Model) -> keras.Model:
    for name in NAMES:
        layer = model.get_layer(name)
        layer.set_weights([np.zeros(w.shape, np.float32) for w in layer.weights])
    return model


@pytest.mark.parametrize("name", ["vgg16.keras", "vgg16.weights.h5", "vgg16_notop.h5", "whole.hdf5"])
def test_every_layer_arrives(name: str, full: keras.Model, vgg16: keras.Model, sources: dict[str, Path]) -> None:
    model = emptied(full)
    assert load_encoder_weights(model, str(sources[name])) == tuple(NAMES)
    for layer in NAMES:
        kernel, bias = model.get_layer(layer).get_weights()
        theirs, their_bias = vgg16.get_layer(layer).get_weights()
        if layer == "block1_conv1":
            theirs = theirs[:, :, ::-1] * np.float32(STD)[:, None]
        assert np.array_equal(kernel, theirs)
        assert np.array_equal(bias, their_bias)
        assert bias.any()


@pytest.fixture(scope="module")
def photo() -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).integers(0, 256, (1, 48, 80, 3)).astype(np.float32)


def encoded(model: keras.Model, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What conv5_3 gives."""
    layer = model.get_layer("block5_conv3_relu" if "block5_conv3_relu" in {x.name for x in model.layers} else NAMES[-1])
    return to_numpy(keras.Model(model.inputs[0], layer.output)(images, training=False))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_encoder_sees_what_vgg16_saw(
    batch_norm: bool,
    full: keras.Model,
    vgg16: keras.Model,
    sources: dict[str, Path],
    photo: npt.NDArray[np.float32],
) -> None:
    expected = encoded(vgg16, keras.applications.vgg16.preprocess_input(photo.copy()))
    model = build_network(NetworkSpec(), 3, 2) if batch_norm else emptied(full)
    load_encoder_weights(model, str(sources["vgg16_notop.h5"]))
    found = encoded(model, (photo - np.float32(MEAN)) / np.float32(STD))
    assert expected.std() > 0
    assert np.abs(found - expected).max() <= 1e-4 * expected.max()


def test_settled_normalisations_normalise_and_change_nothing(
    full: keras.Model, sources: dict[str, Path], photo: npt.NDArray[np.float32]
) -> None:
    images = (np.concatenate([photo, photo[:, ::-1] / 2]) - np.float32(MEAN)) / np.float32(STD)
    plain = emptied(full)
    load_encoder_weights(plain, str(sources["vgg16_notop.h5"]))
    expected = encoded(plain, images)
    for built in (build_network(NetworkSpec(), 3, 2), fuse(build_network(NetworkSpec(), 3, 2))):
        load_encoder_weights(built, str(sources["vgg16_notop.h5"]))
        settle_norms(built, images)
        assert np.abs(encoded(built, images) - expected).max() <= 1e-4 * expected.max()
        layer = built.get_layer("block5_conv3_bn")
        gain, shift, mean, variance = layer.get_weights()
        assert np.allclose(shift, mean)
        assert np.allclose(gain**2, variance + layer.epsilon, rtol=1e-5)
        assert variance.std() > 0
        # While training it normalises by the batch, which is this one: still the same.
        learning = keras.Model(built.inputs[0], built.get_layer("block5_conv3_relu").output)
        assert np.abs(to_numpy(learning(images, training=True)) - expected).max() <= 5e-3 * expected.max()


@pytest.mark.parametrize("bands", [1, 4])
def test_other_bands_share_the_kernels_of_the_colours(
    bands: int, full: keras.Model, sources: dict[str, Path], photo: npt.NDArray[np.float32]
) -> None:
    model = build_network(NetworkSpec(batch_norm=False), bands, 2)
    load_encoder_weights(model, str(sources["vgg16_notop.h5"]))
    colour = emptied(full)
    load_encoder_weights(colour, str(sources["vgg16_notop.h5"]))
    assert np.array_equal(*(m.get_layer("block3_conv2").get_weights()[0] for m in (model, colour)))
    # On grey images all of them see the same.
    grey = (photo[..., :1] - 120) / 58
    expected = encoded(colour, np.repeat(grey, 3, -1))
    assert np.abs(encoded(model, np.repeat(grey, bands, -1)) - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(encoder="unet", width=0.125, decoder_convs=1),
        NetworkSpec(encoder="mobile", width=0.5, decoder_convs=1),
    ],
    ids=["unet", "mobile"],
)
def test_another_network_of_tileseg_lends_its_encoder(spec: NetworkSpec, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    lender = build_network(spec, 4, 5)
    for layer in lender.layers:
        layer.set_weights([w + 0.5 for w in layer.get_weights()])
    lender.save(tmp_path / "lender.keras")
    keras.utils.set_random_seed(2)
    model = build_network(spec.model_copy(update={"attention": True}), 4, 2)
    filled = load_encoder_weights(model, str(tmp_path / "lender.keras"))
    assert set(filled) == {layer.name for layer in lender.layers if layer.name.startswith("block") and layer.weights}
    for name in filled:
        pairs = zip(model.get_layer(name).get_weights(), lender.get_layer(name).get_weights(), strict=True)
        assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)
    fewer = build_network(spec, 3, 2)
    with pytest.raises(InputError, match=r"block1_conv1 has the shapes .*: expected the same encoder"):
        load_encoder_weights(fewer, str(tmp_path / "lender.keras"))


def snapshot(model: keras.Model) -> list[npt.NDArray[np.float32]]:
    return [w.copy() for w in model.get_weights()]


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        (NetworkSpec(width=0.25), InputError, "plain convolutions of width 1"),
        (NetworkSpec(width=0.25, separable=True), InputError, "plain convolutions of width 1"),
        (NetworkSpec(width=0.25, encoder="unet"), UsageError, "expected the encoder vgg16"),
        (NetworkSpec(width=0.25, encoder="mobile"), UsageError, "expected the encoder vgg16"),
    ],
)
def test_networks_that_vgg16_does_not_fit_stay_as_they_are(
    spec: NetworkSpec, error: type[Exception], said: str, sources: dict[str, Path]
) -> None:
    model = build_network(spec, 3, 2)
    before = snapshot(model)
    with pytest.raises(error, match=said) as found:
        load_encoder_weights(model, str(sources["vgg16_notop.h5"]))
    assert "\n" not in str(found.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_files_that_are_no_weights_are_refused(tmp_path: Path, sources: dict[str, Path]) -> None:
    model = build_network(NetworkSpec(width=0.25), 3, 2)
    for name in ("a.h5", "a.weights.h5", "a.keras"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(InputError, match=name) as error:
            load_encoder_weights(model, str(tmp_path / name))
        assert "\n" not in str(error.value)
    (tmp_path / "a.pkl").touch()
    with pytest.raises(InputError, match="expected 'imagenet'"):
        load_encoder_weights(model, str(tmp_path / "a.pkl"))
    with pytest.raises(InputError, match="no such file"):
        load_encoder_weights(model, str(tmp_path / "missing.h5"))
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("block1_conv1")
    with pytest.raises(InputError, match="no layer block1_conv1"):
        load_encoder_weights(model, str(tmp_path / "empty.h5"))
    for link in (h5py.ExternalLink(str(sources["vgg16_notop.h5"]), "block1_conv1"), h5py.SoftLink("/elsewhere")):
        with h5py.File(tmp_path / "linked.h5", "w") as file:
            file["block1_conv1"] = link
        with pytest.raises(InputError, match="block1_conv1 is a link"):
            load_encoder_weights(model, str(tmp_path / "linked.h5"))
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("block1_conv1/kernel", (10**6, 10**6), "f4", chunks=(1000, 1000))
    with pytest.raises(InputError, match="kernel is no array of a convolution"):
        load_encoder_weights(model, str(tmp_path / "large.h5"))


def test_without_a_connection_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: object) -> keras.Model:
        # What Keras raises, word for word but for the address.
        raise Exception("URL fetch failure on ADDRESS: None -- \n[Errno -3] Temporary failure")  # noqa: TRY002

    monkeypatch.setattr(encoder_weights.keras.applications, "VGG16", offline)
    model = build_network(NetworkSpec(width=0.25), 3, 2)
    with pytest.raises(InputError, match=r"Temporary failure\); without a connection, fetch vgg16_.*notop.h5") as error:
        load_encoder_weights(model, "imagenet")
    assert "\n" not in str(error.value)


def test_the_download_is_kerass_own(full: keras.Model, vgg16: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def downloaded(*, include_top: bool, weights: str) -> keras.Model:
        assert (include_top, weights) == (False, "imagenet")
        return vgg16

    monkeypatch.setattr(encoder_weights.keras.applications, "VGG16", downloaded)
    model = emptied(full)
    load_encoder_weights(model, "imagenet")
    assert np.array_equal(model.get_layer(NAMES[5]).get_weights()[0], vgg16.get_layer(NAMES[5]).get_weights()[0])
