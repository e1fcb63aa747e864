"""``tileseg model quantize``: a form that is calibrated on some windows and measured on others."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes import CLASSES, smooth_noise, write_scene
from nets import Net
from typer.testing import CliRunner

from tileseg import RunSpec, run
from tileseg.card import Loss, ModelCard, Scaling
from tileseg.cli.model import app
from tileseg.errors import InputError, UsageError
from tileseg.export import quantise as module
from tileseg.export.files import ExportSpec, export
from tileseg.export.int8 import Int8
from tileseg.export.quantise import FILE, QuantiseSpec, quantise
from tileseg.export.windows import Places
from tileseg.mosaic import Mosaic
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card, save_card
from tileseg.nn.packing import pack
from tileseg.window import Window

runner = CliRunner()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = Net()
    fine = net("Relu", net.conv("image", 3, 8))
    coarse = net("Relu", net.conv(net("MaxPool", fine, kernel_shape=[2, 2], strides=[2, 2]), 8, 8))
    y = net.conv(net("Relu", net.conv(net("Concat", net.up(coarse), fine, axis=1), 16, 8)), 8, 3, 1)
    described = Description(
        name="tiny", bands=("red", "green", "blue"), classes=CLASSES, ground_sample_distance=0.5,
        scaling=Scaling(divisor=255, mean=(0.4,), std=(0.2,)),
    )  # fmt: skip
    pack(net.save(tmp_path / "net.onnx", y), tmp_path / "model", described)
    return tmp_path / "model"


def scene(path: Path, height: int, width: int, seed: int) -> Path:
    return write_scene(path, smooth_noise(height, width, 3, seed))


def dataset(folder: Path, *, classes: str = "ground,roof,water", bands: str = "red,green,blue") -> Path:
    """Two scenes with labels by brightness; one is for validation."""
    for name, seed in (("one", 1), ("two", 2)):
        image = smooth_noise(200, 330, 3, seed)
        write_scene(folder / f"{name}.tif", image)
        write_scene(folder / f"{name}_labels.tif", (image[..., :1] // 100).clip(0, 2).astype(np.uint8))
    lines = [f"bands = {json.dumps(bands.split(','))}", "ground_sample_distance = 0.5"]
    lines += [f'[[classes]]\nname = "{name}"' for name in classes.split(",")]
    lines += [
        f'[[scenes]]\nimage = "{name}.tif"\nlabels = "{name}_labels.tif"\nsplit = "{split}"'
        for name, split in (("one", "train"), ("two", "validate"))
    ]
    (folder / "d.toml").write_text("\n".join(lines))
    return folder / "d.toml"


def test_a_dataset_gives_a_form_whose_loss_is_measured_against_its_labels(model: Path, tmp_path: Path) -> None:
    made = runner.invoke(
        app, ["quantize", str(model), "--with", str(dataset(tmp_path)), "--windows", "4"], catch_exceptions=False
    )
    assert made.exit_code == 0
    assert re.search(r"int8 \((percentile|minmax)\) loses", made.stdout)
    card = load_card(model)
    assert [form.file for form in card.forms] == ["model.onnx", FILE]
    form = card.form(FILE)
    assert form.precision == "int8"
    assert form.calibration["scenes"] == ["one"]
    assert form.loss is not None
    tried = form.calibration["points_lost_by_method"]
    assert isinstance(tried, dict)
    assert {"percentile", "minmax"} <= tried.keys()
    assert form.calibration["method"] in tried
    assert "two, against their labels" in form.loss.data
    assert abs(form.loss.iou) < 0.05
    assert form.loss.ece is not None
    assert not list(model.glob(".partial*"))

    # As a run gives them, in windows of other sizes: bit for bit the same, and near to float32.
    logits = []
    for name, precision, window in (("a", "int8", 96), ("b", "int8", 160), ("c", "float32", 160)):
        spec = RunSpec(
            scene=tmp_path / "two.tif",
            model=str(model),
            out=tmp_path / name,
            precision=precision,
            window=window,
        )
        run(spec)
        logits.append(Mosaic(tmp_path / name / "mosaic.zarr").read_logits(Window(0, 0, 200, 330)))
    np.testing.assert_array_equal(logits[0], logits[1])
    differ = float((logits[0].argmax(0) != logits[2].argmax(0)).mean())
    assert 0 < differ < 0.05
    assert form.loss.labels == pytest.approx(differ, abs=0.02)


def test_scenes_without_labels_are_measured_against_float32(model: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for name, seed in (("a", 4), ("b", 5)):
        scene(tmp_path / f"{name}.tif", 300, 270, seed)
    arguments = [
        "quantize", str(model), "--with", str(tmp_path / "[ab].tif"), "--windows", "3", "--calibration", "minmax",
        "--out", str(tmp_path / "copy"), "--json",
    ]  # fmt: skip
    facts = json.loads(runner.invoke(app, arguments, catch_exceptions=False).stdout)
    assert {one["scene"]: one["against"] for one in facts["scenes"]} == {"a": "float32", "b": "float32"}
    assert all(one["iou_float32"] == 1 and 0.9 < one["iou_int8"] < 1 for one in facts["scenes"])
    assert facts["form"]["loss"]["ece"] is None
    assert load_card(tmp_path / "copy").form(FILE).calibration["method"] == "minmax"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before, "the model itself is left alone"
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy"]


def test_what_fails_leaves_the_model_as_it_was(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    monkeypatch.setattr(module, "_loss", lambda *_: 1 / 0)
    for out in (None, tmp_path / "copy"):
        with pytest.raises(ZeroDivisionError):
            quantise(QuantiseSpec(str(model), (str(scene(tmp_path / "s.tif", 300, 270, 1)),), windows=2, out=out))
        assert {path.name: path.read_bytes() for path in model.iterdir()} == before
        assert not [path for path in tmp_path.iterdir() if "copy" in path.name]


def refused(model: Path, *scenes: object, **said: object) -> str:
    with pytest.raises((InputError, UsageError)) as error:
        quantise(QuantiseSpec(str(model), tuple(map(str, scenes)), windows=2, **said))
    assert "\n" not in str(error.value)
    return f"{error.value.exit_code}: {error.value}"


def test_what_does_not_fit_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    own = scene(tmp_path / "own.tif", 130, 270, 1)
    grey = write_scene(tmp_path / "grey.tif", smooth_noise(130, 140, 1))
    assert refused(model, grey).startswith(f"42: {grey}: ")
    (tmp_path / "other").mkdir()
    other = dataset(tmp_path / "other", classes="ground,roof,road")
    assert "classes are ground, roof, road, those of the model tiny ground, roof, water" in refused(model, other)
    bands = dataset(tmp_path / "other", bands="nir,red,green")
    assert "bands are nir, red, green" in refused(model, bands)
    assert refused(model, other, own).startswith(f"2: --with {other}: a dataset stands alone")
    assert refused(model, tmp_path / "none.tif").startswith("2: ")
    assert "1 windows of 64 x 64" in refused(model, scene(tmp_path / "s.tif", 40, 50, 1))
    assert refused(model, own, out=tmp_path).startswith(f"2: --out {tmp_path}: is there already")
    assert "no folder" in refused(model, own, out=tmp_path / "no" / "folder")
    quantise(QuantiseSpec(str(model), (str(own),), windows=2))
    assert "--overwrite replaces it" in refused(model, own)
    quantise(QuantiseSpec(str(model), (str(own),), windows=2, overwrite=True))
    assert [form.file for form in load_card(model).forms] == ["model.onnx", FILE]


def test_a_network_that_is_int8_already_is_refused(model: Path, tmp_path: Path) -> None:
    own = scene(tmp_path / "own.tif", 130, 270, 1)
    quantise(QuantiseSpec(str(model), (str(own),), windows=2))
    card: ModelCard = load_card(model)
    described = Description(name="q", bands=card.bands, classes=card.classes, scaling=card.scaling)
    pack(model / FILE, tmp_path / "packed", described)
    assert load_card(tmp_path / "packed").forms[0].precision == "int8"
    assert "expected a network in float32" in refused(tmp_path / "packed", own)


def tampered(model: Path) -> None:
    file = model / "model.onnx"
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))


def truncated(model: Path) -> None:
    with_digest(model, (model / "model.onnx").read_bytes()[:3000])


def zipped(model: Path) -> None:
    with_digest(model, b"PK\x03\x04" + bytes(500))


def looping(model: Path) -> None:
    graph = onnx.load(model / "model.onnx")
    graph.graph.node.insert(0, onnx.helper.make_node("Loop", ["", ""], ["nothing"], name="again"))
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("body", onnx.helper.make_graph([], "b", [], [])))
    with_digest(model, graph.SerializeToString())


def infinite(model: Path) -> None:
    graph = onnx.load(model / "model.onnx")
    weights = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0] = np.inf
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    with_digest(model, graph.SerializeToString())


def gone(model: Path) -> None:
    (model / "model.onnx").unlink()


def with_digest(model: Path, content: bytes) -> None:
    """A file that the card names rightly, whatever it is."""
    (model / "model.onnx").write_bytes(content)
    card = load_card(model)
    form = card.forms[0].model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    save_card(card.model_copy(update={"forms": (form,)}), model)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (tampered, "not the file that the card was made for"),
        (truncated, "not an ONNX file|cut short|not a valid ONNX model"),
        (zipped, "a zip archive"),
        (looping, r"\(Loop\) runs other graphs"),
        (gone, r"no model\.onnx beside card\.json"),
        (infinite, "infinite|finite|holds"),
    ],
)
def test_a_harmful_or_broken_network_is_refused_in_one_line(
    model: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(model)
    own = scene(tmp_path / "own.tif", 130, 270, 1)
    before = sorted(path.name for path in model.iterdir())
    said = refused(model, own)
    assert said.startswith("42: ")
    assert re.search(words, said), said
    if harm is not infinite:
        with pytest.raises(InputError) as error:
            export(ExportSpec(str(model), "onnx", tmp_path / "x.onnx"))
        assert re.search(words, str(error.value))
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in model.iterdir()) == before
    assert not (tmp_path / "x.onnx").exists()


def test_ranges_are_found_by_the_way_that_loses_least(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that decides by rare values loses half of its answers where ranges leave those out."""
    lost = {"percentile": 0.52, "minmax": 0.02, "entropy": 0.01}
    seen: list[str] = []

    monkeypatch.setattr(module, "compare", lambda first, second, *_: [second])
    monkeypatch.setattr(module, "Labeller", lambda network, side: getattr(network, "method", network))
    monkeypatch.setattr(
        module, "_loss", lambda scenes, *_: Loss(iou=lost[scenes[0]], worst_iou=0.6, labels=0.1, data="none")
    )
    monkeypatch.setattr(module, "choose", lambda *_, **__: Places(64, (), ()))
    made = module.TARGETS["onnx"].open

    def opened(*arguments: Any) -> Any:
        network, quantised = made(*arguments)

        def by(images: Any, method: str) -> Any:
            del images
            seen.append(method)
            named = type("Named", (), {"method": method})()
            return Int8(named, method, {}, lambda path: Path(path).write_bytes(b"form"))

        del quantised
        return network, by

    monkeypatch.setitem(module.TARGETS, "onnx", replace(module.TARGETS["onnx"], open=opened))
    own = scene(tmp_path / "own.tif", 130, 270, 1)
    form = quantise(QuantiseSpec(str(model), (str(own),), windows=2, overwrite=True)).form
    assert seen == ["percentile", "minmax", "entropy"]
    assert form.calibration["method"] == "entropy"
    assert form.calibration["points_lost_by_method"] == {"percentile": 52, "minmax": 2, "entropy": 1}
    lost |= {"minmax": 0.001}
    seen.clear()
    form = quantise(QuantiseSpec(str(model), (str(own),), windows=2, overwrite=True)).form
    assert seen == ["percentile", "minmax"], "the slowest way is left out where another will do"
    assert form.calibration["method"] == "minmax"
