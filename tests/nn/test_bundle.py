"""Model folders: what is saved comes back; what is altered, unsafe or contradictory is refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tileseg.card import ClassInfo, Form, ModelCard, Scaling
from tileseg.engine.keras import KerasNetwork
from tileseg.engine.proof import prove
from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_bundle, save_bundle
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card, resolve_model, save_card
from tileseg.nn.packing import pack

layers = keras.layers
CLASSES = (ClassInfo(name="ground", color="#c8b99a", background=True), ClassInfo(name="roof", color="#d9544d"))
FORMS = (Form(file="model.keras", sha256="0" * 64),)
FACTS = {"bands": ("red", "green", "blue", "infrared"), "classes": CLASSES, "scaling": Scaling(divisor=10000.0)}


def described(name: str, changes: dict[str, object] | None = None) -> Description:
    return Description(name=name, **FACTS | (changes or {}))


def separable() -> keras.Model:
    """A small network of separable convolutions that is not ours: local."""
    image = keras.Input((None, None, 4))
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(2, 1)(x), name="separable")


def pooled() -> keras.Model:
    """One that looks at the whole window."""
    image = keras.Input((None, None, 4))
    x = layers.Conv2D(8, 3, padding="same")(image)
    context = layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True, name="context")(x))
    return keras.Model(image, layers.Conv2D(2, 1)(layers.Add()([x, context])), name="pooled")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(separable(), tmp_path / "model", described("separable"))
    return tmp_path / "model"


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_foreign_local_model_comes_back_and_tiles_exactly(tmp_path: Path) -> None:
    model = separable()
    card = save_bundle(model, tmp_path, described("separable"))
    again, found = load_bundle(tmp_path)
    assert found == card
    assert (card.stride, card.radius, card.halo, card.local) == (2, 4, 4, True)
    assert card.parameters == model.count_params()
    image = np.random.default_rng(0).normal(size=(1, 32, 48, 4)).astype(np.float32)
    assert np.array_equal(to_numpy(again(image)), to_numpy(model(image)))
    proof = prove(KerasNetwork(again, card))
    assert proof.holds
    assert proof.deviation > 0


def test_a_model_that_looks_at_the_whole_window_says_so(tmp_path: Path) -> None:
    card = save_bundle(pooled(), tmp_path, described("pooled"))
    assert not card.local
    assert card.nonlocal_layers == ("context (GlobalAveragePooling2D)",)
    assert not load_bundle(tmp_path)[1].local
    assert not prove(KerasNetwork(load_bundle(tmp_path)[0], card)).holds


def test_a_layer_that_lies_about_itself_is_caught_by_the_proof() -> None:
    class Conv2D(layers.Conv2D):
        def call(self, inputs: object) -> object:
            return super().call(inputs) + keras.ops.mean(inputs)

    image = keras.Input((None, None, 4))
    model = keras.Model(image, Conv2D(2, 3, padding="same")(image))
    card = ModelCard(
        name="liar", bands=FACTS["bands"], classes=CLASSES, output_channels=2, stride=1, radius=1,
        flops_per_pixel=1, activation_bytes_per_pixel=1, parameters=1, forms=FORMS,
    )  # fmt: skip
    assert not prove(KerasNetwork(model, card)).holds


def test_an_archive_that_is_not_the_cards_is_refused(folder: Path) -> None:
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes() + b"x")
    with pytest.raises(InputError, match="SHA-256") as error:
        load_bundle(folder)
    assert "pack the model again" in one_line(error)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stride", 4, "stride 4 in the card, 2 in the model's graph"),
        ("radius", 3, "radius 3 in the card, 4"),
        ("local", False, "locality False in the card, True"),
        ("bands", ("red",), "bands 1 in the card, 4"),
    ],
)
def test_a_card_that_contradicts_the_graph_is_refused(folder: Path, field: str, value: object, said: str) -> None:
    save_card(load_card(folder).model_copy(update={field: value}), folder)
    with pytest.raises(InputError, match=said) as error:
        load_bundle(folder)
    one_line(error)


def test_lambda_layers_are_refused(tmp_path: Path) -> None:
    image = keras.Input((None, None, 4))
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Lambda(lambda x: x * 2, name="sly")])
    model = keras.Model(image, layers.Conv2D(2, 1)(inner(image)))
    model.save(tmp_path / "sly.keras")
    with pytest.raises(InputError, match="sly is a Lambda") as error:
        pack(tmp_path / "sly.keras", tmp_path / "out", described("sly"))
    one_line(error)
    with pytest.raises(InputError, match="sly is a Lambda"):
        save_bundle(model, tmp_path / "out", described("sly"))
    assert not (tmp_path / "out").exists()


def test_classes_from_elsewhere_are_refused(tmp_path: Path) -> None:
    separable().save(tmp_path / "model.keras")
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = parts["config.json"].replace(b'"module": "keras.layers"', b'"module": "os"', 1)
    with zipfile.ZipFile(tmp_path / "altered.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="comes from os, which is not part of Keras"):
        pack(tmp_path / "altered.keras", tmp_path / "out", described("altered"))


def test_other_formats_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for name in ("old.h5", "old.pkl", "weights.pth"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        with pytest.raises(InputError, match="can run code when opened"):
            resolve_model(tmp_path / name)
        with pytest.raises(InputError, match="can run code when opened"):
            pack(tmp_path / name, tmp_path / "out", described("x"))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    with pytest.raises(InputError, match="SavedModel"):
        resolve_model(tmp_path / "saved")
    (tmp_path / "no.keras").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"not a \.keras archive") as error:
        pack(tmp_path / "no.keras", tmp_path / "out", described("x"))
    one_line(error)
    with pytest.raises(InputError, match="pack it first"):
        resolve_model(tmp_path / "no.keras")
    with pytest.raises(InputError, match="no such model"):
        resolve_model(tmp_path / "missing")


def test_a_name_with_a_typo_is_told_what_was_meant(folder: Path) -> None:
    for typo, meant in (
        ("embeded", "embedded"),
        ("Embedded", "embedded"),
        ("building", "buildings"),
        (folder.with_name("modle"), "model"),
        (f"{folder}l/", "model"),
    ):
        with pytest.raises(InputError, match=f"no such model .did you mean {meant}") as error:
            resolve_model(typo)
        one_line(error)
    with pytest.raises(InputError, match="no such model; expected"):
        resolve_model("something else")


def test_the_name_in_the_embedded_models_card_is_a_name_for_it() -> None:
    assert resolve_model(load_card(resolve_model("embedded")).name) == resolve_model("embedded")


def test_packing_checks_what_is_said_against_the_graph(tmp_path: Path, folder: Path) -> None:
    separable().save(tmp_path / "a.keras")
    with pytest.raises(InputError, match="takes 4 bands, but 3 are named"):
        pack(tmp_path / "a.keras", tmp_path / "b", described("x", {"bands": ("r", "g", "b")}))
    with pytest.raises(InputError, match="2 output channels cannot give 3 classes"):
        pack(tmp_path / "a.keras", tmp_path / "b", described("x", {"classes": (*CLASSES, CLASSES[1])}))
    with pytest.raises(UsageError, match="already holds a model"):
        pack(tmp_path / "a.keras", folder, described("x"))
    assert pack(tmp_path / "a.keras", tmp_path / "b", described("x")) == load_card(tmp_path / "b")


def test_the_embedded_model_is_small_and_sound() -> None:
    folder = resolve_model("embedded")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000, "in all its forms"
    model, card = load_bundle(folder)
    assert (card.stride, card.halo, card.local) == (16, 128, True)
    assert [c.name for c in card.classes] == ["other", "building"]
    assert [info.background for info in card.classes][:2] == [True, False]
    assert prove(KerasNetwork(model, card)).holds
