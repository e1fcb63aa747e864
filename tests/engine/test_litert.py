"""LiteRT files as models: what is derived of them, computed by their own runtime, in windows of any size."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from fakes import CLASSES, save_tiny, smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.card import EXACT_BY, Scaling
from tileseg.engine.litert import LitertNetwork
from tileseg.engine.proof import prove
from tileseg.engine.protocol import WindowSpec
from tileseg.engine.registry import open_network
from tileseg.errors import InputError, UsageError
from tileseg.export.quantise import QuantiseSpec, quantise
from tileseg.mosaic import Mosaic
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card
from tileseg.nn.keras_files import wrapped, write_litert
from tileseg.nn.keras_graph import analyse
from tileseg.nn.litert_file import MARK, schema
from tileseg.nn.packing import pack
from tileseg.window import Window

layers = keras.layers
SIZE = (64, 96)


def described(**said: Any) -> Description:
    bands = ("red", "green", "blue")
    return Description(name="net", bands=bands, classes=CLASSES, scaling=Scaling(divisor=255), **said)


def plain(x: Any) -> Any:
    """Bilinear enlargement, a skip, transposed and separable convolutions, dilation, strides, pools of both kinds."""
    fine = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    coarse = layers.SeparableConv2D(8, 5, strides=2, padding="same")(fine)
    coarse = layers.LeakyReLU()(layers.BatchNormalization()(coarse))
    coarse = layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="swish")(coarse)
    lowest = layers.AveragePooling2D(2)(layers.MaxPooling2D(3, 1, padding="same")(coarse))
    lowest = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(lowest)
    y = layers.Add()([layers.Conv2D(8, 1)(coarse), lowest])
    y = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(y), fine])
    return layers.Conv2D(3, 3, padding="same")(y)


def framed(x: Any) -> Any:
    """Padding and cropping of their own, nearest enlargement, probabilities at the end."""
    y = layers.Cropping2D(((2, 1), (0, 3)))(layers.ZeroPadding2D(((3, 4), (5, 2)))(x))
    y = layers.Conv2D(4, 5, padding="valid", activation="relu6")(y)
    y = layers.UpSampling2D(2)(layers.MaxPooling2D(2)(y))
    return layers.Softmax()(layers.Conv2D(3, 1)(y))


def excited(x: Any) -> Any:
    """A gate from the mean over the whole window."""
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    gate = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    return layers.Conv2D(3, 3, padding="same")(layers.Multiply()([y, gate]))


def model_of(body: Callable[[Any], Any], size: tuple[int | None, int | None] = (None, None)) -> Any:
    keras.utils.set_random_seed(1)
    image = keras.Input((*size, 3))
    return keras.Model(image, body(image))


def converted(model: Any, path: Path, precision: str = "float32") -> Path:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(*SIZE, 3)).astype(np.float32) for _ in range(3)]
    write_litert(wrapped(model, SIZE, None, probabilities=False), path, precision, images)
    return path


@pytest.mark.parametrize(
    ("body", "precision"),
    [(plain, "float32"), (plain, "float16"), (plain, "int8"), (framed, "float32"), (framed, "int8")],
)
def test_a_file_says_what_its_keras_model_says_and_tiles_equal_the_whole(
    tmp_path: Path, body: Callable[[Any], Any], precision: str
) -> None:
    model = model_of(body)
    said = {} if body is plain else {"activation": "softmax"}
    card = pack(converted(model, tmp_path / "n.tflite", precision), tmp_path / "m", described(**said))
    truth = analyse(model)
    assert (card.stride, card.radius, card.local) == (truth.stride, truth.radius, True)
    assert card.forms[0].precision == ("int8" if precision == "int8" else "float32")
    assert card.flops_per_pixel == pytest.approx(truth.flops_per_pixel, rel=0.1)
    network = open_network(tmp_path / "m", card, 1)
    assert isinstance(network, LitertNetwork)
    assert prove(network, card.forms[0].precision).holds
    rows, cols = 12 * card.stride, 20 * card.stride
    image = np.random.default_rng(1).normal(size=(2, rows, cols, 3)).astype(np.float32)
    crop = 2 * card.stride
    found = network.engine(WindowSpec(rows, cols, crop, 2, card.forms[0].precision))(image)
    expected = to_numpy(model(image))[:, crop:-crop, crop:-crop]
    assert found.shape == expected.shape
    allowed = {"float32": 1e-4, "float16": 2e-2, "int8": 0.6}[precision]
    assert np.abs(found - expected).max() <= allowed * expected.std()


def test_what_looks_at_the_whole_window_is_named(tmp_path: Path) -> None:
    card = pack(converted(model_of(excited), tmp_path / "n.tflite"), tmp_path / "m", described())
    assert not card.local
    assert [name.rpartition(" ")[2] for name in card.nonlocal_layers] == ["(MEAN)"]
    out = run(RunSpec(scene=scene(tmp_path), model=str(tmp_path / "m"), out=tmp_path / "out", workers=0))
    assert out.blocks >= 1


def test_dynamic_ranges_are_not_local(tmp_path: Path) -> None:
    import tensorflow as tf

    from tileseg.nn.keras_export import quiet

    def wide(x: Any) -> Any:  # small kernels stay as they are
        y = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
        return layers.Conv2D(3, 3, padding="same")(layers.Conv2D(32, 3, padding="same", activation="relu")(y))

    model, file = model_of(wide, SIZE), tmp_path / "n.tflite"
    with quiet():
        model.export(file, format="litert", verbose=False, optimizations=[tf.lite.Optimize.DEFAULT])
    card = pack(file, tmp_path / "m", described())
    assert not card.local
    assert card.nonlocal_layers
    assert all(name.endswith("(CONV_2D, dynamic range)") for name in card.nonlocal_layers)
    assert card.forms[0].precision == "float32"


def scene(folder: Path, seed: int = 0) -> Path:
    return write_scene(folder / f"scene{seed}.tif", smooth_noise(150, 170, 3, seed))


def test_quantize_to_litert_adds_a_form_that_runs_exactly_and_is_chosen_by_its_loss(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny(folder)
    made = quantise(QuantiseSpec(str(folder), (str(scene(tmp_path)), str(scene(tmp_path, 1))), to="litert", windows=4))
    card = load_card(folder)
    assert [form.file for form in card.forms] == ["model.keras", "model.int8.tflite"]
    assert made.form.precision == "int8"
    assert made.form.calibration["method"] == "minmax"
    assert made.form.calibration[EXACT_BY] == ["litert"]
    assert made.form.loss is not None
    logits = []
    for window in (64, 96):
        out = tmp_path / f"out{window}"
        spec = {"workers": 0, "engine": "litert", "window": window, "precision": "int8"}
        run(RunSpec(scene=scene(tmp_path), model=str(folder), out=out, **spec))
        logits.append(Mosaic(out / "mosaic.zarr").read_logits(Window(0, 0, 150, 170)))
    np.testing.assert_array_equal(logits[0], logits[1])
    with pytest.raises(UsageError, match="litert finds ranges by minmax alone"):
        QuantiseSpec(str(folder), ("x.tif",), to="litert", calibration="entropy")


def test_a_form_of_litert_needs_a_keras_model(tmp_path: Path) -> None:
    pack(converted(model_of(plain), tmp_path / "n.tflite"), tmp_path / "m", described())
    with pytest.raises(InputError, match=r"holds model\.tflite; LiteRT's int8 is made from model\.keras"):
        quantise(QuantiseSpec(str(tmp_path / "m"), (str(scene(tmp_path)),), to="litert", windows=2))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return converted(model_of(plain), tmp_path_factory.mktemp("c") / "n.tflite").read_bytes()


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    known = schema()
    model = known.ModelT.InitFromObj(known.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), MARK)
    return bytes(builder.Output())


def custom(name: bytes) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.CUSTOM
        code.customCode = name

    return change


def loop(model: Any) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.WHILE


def second_graph(model: Any) -> None:
    model.subgraphs.append(model.subgraphs[0])


def no_numbers(model: Any) -> None:
    graph = model.subgraphs[0]
    kernel = next(t for t in graph.tensors if len(t.shape) == 4 and model.buffers[t.buffer].data is not None)
    data = np.array(model.buffers[kernel.buffer].data)
    data[:4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    model.buffers[kernel.buffer].data = data


def whole_image(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].type = schema().TensorType.INT8


def flat_image(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = np.array([1, 64, 288], np.int32)


def astray(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = np.array([10_000, 1, 2], np.int32)


def stateful(model: Any) -> None:
    model.subgraphs[0].tensors[-1].isVariable = True


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (custom(b"FlexErf"), r"operator FlexErf is TensorFlow's own \(flex\); convert .*TFLITE_BUILTINS"),
        (custom(b"MyOwn"), "operator MyOwn is none of LiteRT's"),
        (loop, "operator WHILE runs other graphs"),
        (second_graph, "holds 2 graphs"),
        (no_numbers, "holds NaN: the weights are no numbers"),
        (whole_image, "its input is of INT8: expected FLOAT32"),
        (flat_image, r"its input has the shape \(1, 64, 288\): expected one image"),
        (astray, "names operators or values that it does not hold"),
        (stateful, "is kept from call to call"),
    ],
)
def test_what_is_no_such_network_is_refused_in_one_line(
    tmp_path: Path, content: bytes, harm: Callable[[Any], None], words: str
) -> None:
    refused(tmp_path, changed(content, harm), words)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda whole: b"PK\x03\x04" + whole, "a zip archive"),
        (lambda whole: b"", "does not begin as one"),
        (lambda whole: whole[:200], "cut short or damaged"),
        (lambda whole: whole[:8] + bytes(len(whole) - 8), "cut short or damaged|does not hold"),
        (lambda whole: b"\xff" * 4 + whole[4:], "cut short or damaged"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes, made: Callable[[bytes], bytes], words: str
) -> None:
    refused(tmp_path, made(content), words)


def refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "n.tflite").write_bytes(content)
    with pytest.raises(InputError) as error:
        pack(tmp_path / "n.tflite", tmp_path / "m", described())
    assert re.search(words, str(error.value)), error.value
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("m/*"))


def test_without_its_package_the_remedy_is_told(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    (tmp_path / "n.tflite").write_bytes(content)
    with pytest.raises(UsageError, match=r'need ai_edge_litert: pip install "tileseg\[litert\]"$'):
        pack(tmp_path / "n.tflite", tmp_path / "m", described())


def test_a_network_that_insists_on_its_size_is_refused(tmp_path: Path) -> None:
    def flattened(x: Any) -> Any:
        y = layers.Conv2D(3, 3, padding="same")(x)
        return layers.Reshape((*SIZE, 3))(layers.Permute((2, 1))(layers.Reshape((SIZE[0] * SIZE[1], 3))(y)))

    file = tmp_path / "n.tflite"
    write_litert(model_of(flattened, SIZE), file, "float32")
    with pytest.raises(InputError, match=r"takes images of 64 x 96 alone: operator .*\(RESHAPE\) was made for"):
        pack(file, tmp_path / "m", described())
