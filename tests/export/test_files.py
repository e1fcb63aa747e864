"""``tileseg model export``: every file is opened by its plain runtime, and gives what a run's engine gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes import CLASSES, save_tiny, smooth_noise, write_scene
from nets import Net
from typer.testing import CliRunner

from tileseg.card import Scaling
from tileseg.cli.model import app
from tileseg.engine.protocol import WindowSpec
from tileseg.engine.registry import open_network
from tileseg.errors import InputError, UsageError
from tileseg.export import files
from tileseg.export.files import TARGETS, ExportSpec, export
from tileseg.export.quantise import FILE, QuantiseSpec, quantise
from tileseg.export.scenes import scaled
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card
from tileseg.nn.packing import pack

Floats = npt.NDArray[np.float32]
SIZE = (64, 48)
runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Keras network with its forms in ONNX, and in int8."""
    root = tmp_path_factory.mktemp("exported")
    save_tiny(root / "model")
    write_scene(root / "scene.tif", smooth_noise(300, 270, 3, 1))
    quantise(QuantiseSpec(str(root / "model"), (str(root / "scene.tif"),), windows=2))
    return root / "model"


def pixels() -> npt.NDArray[np.uint8]:
    return smooth_noise(*SIZE, 3, 5)


def by_engine(folder: Path, image: Floats, form: str | None = None) -> Floats:
    card = load_card(folder)
    network = open_network(folder, card, 1, form=form)
    precision = "int8" if form == FILE else "float32"
    return np.asarray(network.engine(WindowSpec(*image.shape[:2], 0, 1, precision))(image[None]))[0]


def softmax(logits: Floats) -> Floats:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def onnxruntime_of(path: Path) -> Callable[[Floats], Floats]:
    import onnxruntime

    return lambda image: onnxruntime.InferenceSession(path).run(None, {"image": image})[0]


def openvino_of(path: Path) -> Callable[[Floats], Floats]:
    import openvino

    # In the precision of the file: by itself, OpenVINO takes bfloat16 where the processor has it.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: compiled(image)[0]


def litert_of(path: Path) -> Callable[[Floats], Floats]:
    from ai_edge_litert.interpreter import Interpreter

    def compute(image: Floats) -> Floats:
        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return compute


def keras_of(path: Path) -> Callable[[Floats], Floats]:
    from tileseg.nn.backend import keras

    model = keras.models.load_model(path)
    return lambda image: np.asarray(model(image, training=False))


def tensorflow_of(path: Path) -> Callable[[Floats], Floats]:
    import tensorflow as tf

    served = tf.saved_model.load(path).signatures["serving_default"]
    return lambda image: next(iter(served(image=tf.constant(image)).values())).numpy()


OPENERS = {
    "keras": keras_of,
    "savedmodel": tensorflow_of,
    "onnx": onnxruntime_of,
    "litert": litert_of,
    "openvino": openvino_of,
}
CASES = [
    (to, "float32", inside, size)
    for to in OPENERS
    for inside, size in ((False, "free"), (True, "64x48"))
    if TARGETS[to].any_size or size != "free"
]


@pytest.mark.parametrize(("to", "precision", "inside", "size"), [*CASES, ("onnx", "float16", False, "64x48")])
def test_the_plain_runtime_gives_what_the_engine_gives(
    folder: Path, tmp_path: Path, to: str, precision: str, inside: bool, size: str
) -> None:
    out = tmp_path / f"file{TARGETS[to].suffix}"
    arguments = ["--with-scaling", "--with-softmax"] if inside else []
    arguments += ["--to", to, "--precision", precision, "--size", size, "--out", str(out)]
    made = runner.invoke(app, ["export", str(folder), *arguments], catch_exceptions=False)
    assert made.exit_code == 0
    assert ("pixel values" if inside else "values scaled") in made.stdout
    assert ("probabilities" if inside else "logits") in made.stdout
    card = load_card(folder)
    image = scaled(pixels(), card.scaling)
    expected = by_engine(folder, image)
    given = pixels().astype(np.float32) if inside else image
    found = OPENERS[to](out)(given[None])[0]
    expected = softmax(expected) if inside else expected
    tolerance = 5e-3 if precision == "float16" else 1e-4
    assert np.abs(found - expected).max() <= tolerance * expected.std()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("to", "layout"), [("onnx", "nchw"), ("openvino", "nhwc")])
def test_int8_is_that_of_the_form(folder: Path, tmp_path: Path, to: str, layout: str) -> None:
    out = tmp_path / f"file{TARGETS[to].suffix}"
    export(ExportSpec(str(folder), to, out, precision="int8", layout=layout, size=SIZE))
    image = scaled(pixels(), load_card(folder).scaling)
    expected = by_engine(folder, image, FILE)
    given = np.ascontiguousarray(image.transpose(2, 0, 1)) if layout == "nchw" else image
    found = OPENERS[to](out)(given[None])[0]
    found = found.transpose(1, 2, 0) if layout == "nchw" else found
    # In whole numbers, but where a value is rounded to the next step.
    assert np.sqrt(np.mean((found - expected) ** 2)) <= 0.02 * expected.std()
    assert (found.argmax(-1) != expected.argmax(-1)).mean() < 0.02


def test_litert_in_int8_finds_its_ranges_on_scenes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.tflite"
    scenes = (str(folder.parent / "scene.tif"),)
    export(ExportSpec(str(folder), "litert", out, precision="int8", size=SIZE, scenes=scenes, scaling=True))
    expected = by_engine(folder, scaled(pixels(), load_card(folder).scaling))
    found = litert_of(out)(pixels().astype(np.float32)[None])[0]
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * expected.std()
    assert out.stat().st_size < 0.6 * 4 * load_card(folder).parameters + 16_384


@pytest.fixture
def onnx_model(tmp_path: Path) -> Path:
    """One channel, NCHW, a radiologist's window of values; no Keras anywhere."""
    net = Net(bands=1)
    y = net.conv(net("Relu", net.norm(net.conv("image", 1, 4), 4)), 4, 1)
    scaling = Scaling(kind="window", center=40, width=400, mean=(0.3,), std=(0.25,))
    described = Description(name="ct", bands=("ct",), classes=CLASSES[:2], scaling=scaling, dtypes=("int16",))
    pack(net.save(tmp_path / "net.onnx", y), tmp_path / "ct", described)
    return tmp_path / "ct"


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_network_from_elsewhere_keeps_its_window_of_values_and_its_single_logit(
    onnx_model: Path, tmp_path: Path, layout: str
) -> None:
    out = tmp_path / "ct.onnx"
    export(ExportSpec(str(onnx_model), "onnx", out, scaling=True, softmax=True, layout=layout))
    values = np.random.default_rng(0).normal(40, 300, size=(20, 31, 1)).astype(np.float32)
    card = load_card(onnx_model)
    expected = 1 / (1 + np.exp(-by_engine(onnx_model, scaled(values, card.scaling))))
    given = values if layout == "nhwc" else np.ascontiguousarray(values.transpose(2, 0, 1))
    found = onnxruntime_of(out)(given[None])[0]
    np.testing.assert_allclose(found if layout == "nhwc" else found.transpose(1, 2, 0), expected, atol=1e-5)


def refused(model: Path, to: str, out: Path, **said: object) -> str:
    with pytest.raises((InputError, UsageError)) as error:
        export(ExportSpec(str(model), to, out, **said))
    assert "\n" not in str(error.value)
    return f"{error.value.exit_code}: {error.value}"


def test_what_cannot_be_written_is_refused_in_one_line(folder: Path, onnx_model: Path, tmp_path: Path) -> None:
    for to in ("keras", "savedmodel", "litert"):
        out = tmp_path / f"x{TARGETS[to].suffix}"
        said = {"precision": "float32"}
        assert "42: " in refused(onnx_model, to, out, **said)
        assert "made from a Keras model; expected --to onnx or openvino" in refused(onnx_model, to, out)
    assert "expected a name that ends in .onnx" in refused(folder, "onnx", tmp_path / "x.tflite")
    assert "--precision float16: keras is written in float32" in refused(
        folder, "keras", tmp_path / "x.keras", precision="float16"
    )
    assert "tileseg model quantize" in refused(onnx_model, "onnx", tmp_path / "x.onnx", precision="int8")
    assert "multiples of the model's stride 4, such as 64x48" in refused(
        folder, "onnx", tmp_path / "x.onnx", size=(63, 49)
    )
    assert "for images of one size" in refused(folder, "litert", tmp_path / "x.tflite", size="free")
    assert "channels last" in refused(folder, "litert", tmp_path / "x.tflite", layout="nchw")
    assert "--with SCENES" in refused(folder, "litert", tmp_path / "x.tflite", precision="int8")
    assert "is for --to litert" in refused(folder, "onnx", tmp_path / "x.onnx", scenes=("a.tif",))
    assert "no folder" in refused(folder, "onnx", tmp_path / "no" / "x.onnx")
    card = load_card(folder)
    described = {name: getattr(card, name) for name in ("name", "bands", "classes")}
    pack(folder / "model.onnx", tmp_path / "by_scene", Description(**described, scaling=Scaling(kind="scene")))
    assert "by each scene's own" in refused(tmp_path / "by_scene", "onnx", tmp_path / "x.onnx", scaling=True)
    pack(folder / FILE, tmp_path / "int8", Description(**described, scaling=Scaling()))
    assert "expected --precision int8" in refused(tmp_path / "int8", "onnx", tmp_path / "x.onnx")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("x", ".partial"))]
    answer = runner.invoke(app, ["export", str(folder), "--to", "onnx", "--out", "x.onnx", "--size", "64"])
    assert "expected ROWSxCOLUMNS such as 512x512" in str(answer.exception)
    answer = runner.invoke(app, ["export", str(folder), "--to", "onxx", "--out", "x.onnx"])
    assert "did you mean onnx" in str(answer.exception)


def test_a_package_that_is_missing_is_named_with_its_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    assert 'pip install "tileseg[openvino]"' in refused(folder, "openvino", tmp_path / "x.xml")


def test_files_are_whole_or_as_they_were(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.xml", "x.bin"):
        (tmp_path / name).write_text("mine")
        out = tmp_path / "x.xml"
        assert "is there already; --overwrite replaces it" in refused(folder, "openvino", out)

    def fails(job: object, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    broken = {name: getattr(TARGETS["openvino"], name) for name in TARGETS["openvino"].__slots__} | {"write": fails}
    monkeypatch.setitem(TARGETS, "openvino", files.Target(**broken))
    with pytest.raises(OSError, match="No space"):
        export(ExportSpec(str(folder), "openvino", tmp_path / "x.xml", overwrite=True))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.xml": "mine", "x.bin": "mine"}
    monkeypatch.undo()
    facts = runner.invoke(
        app, ["export", str(folder), "--to", "openvino", "-o", str(tmp_path / "x.xml"), "--overwrite", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert json.loads(facts.stdout)["image"].startswith("(n, rows, columns, 3)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.xml"]
    assert (tmp_path / "x.bin").stat().st_size > 1000
