"""Model folders made of ONNX files: what is taken, what is refused, and in which words."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from nets import Net
from onnx import helper, numpy_helper

from tileseg.card import ClassInfo, ModelCard, Scaling
from tileseg.errors import InputError, UsageError
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card, resolve_model, save_card
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_session import Session
from tileseg.nn.packing import pack

TWO = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))


def packed(path: Path, output: str | None = None, **said: object) -> ModelCard:
    described = Description(**{"name": "m", "bands": ("r", "g", "b"), "classes": TWO, "scaling": Scaling()} | said)
    return pack(path, path.parent / "model", described, output)


def plain(net: Net, channels: int = 2) -> str:
    return net.conv(net("Relu", net.conv("image", 3, 4)), 4, channels)


def test_a_file_becomes_a_folder_that_opens_again(tmp_path: Path) -> None:
    net = Net()
    card = packed(net.save(tmp_path / "mine.onnx", plain(net)))
    assert (card.stride, card.radius, card.local, card.output_channels) == (1, 2, True, 2)
    assert card.parameters == 4 * 28 + 2 * 37
    assert load_card(tmp_path / "model") == card
    assert load_graph(tmp_path / "model", card).band_axis == 1
    save_card(card.model_copy(update={"radius": 1}), tmp_path / "model")
    with pytest.raises(InputError, match=r"card\.json: radius 1 in the card, 2 in the model's graph"):
        load_graph(tmp_path / "model", load_card(tmp_path / "model"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_file_for_one_size_is_saved_for_any(tmp_path: Path, channels_last: bool) -> None:
    net = Net(size=(64, 96), channels_last=channels_last)
    x = net("Transpose", "image", perm=[0, 3, 1, 2]) if channels_last else "image"
    small = net("MaxPool", net.conv(x, 3, 6), kernel_shape=[2, 2], strides=[2, 2])
    parts = net("Transpose", net("Reshape", small, np.int64([1, 2, 3, 32, 48])), perm=[0, 2, 1, 3, 4])
    small = net("Reshape", parts, np.int64([1, 6, 32, 48]))
    large = net("Resize", small, None, None, np.int64([1, 6, 64, 96]), mode="linear")
    cut = net(
        "Slice", net("Pad", large, np.int64([0, 0, 1, 0, 0, 0, 0, 0])), np.int64([1]), np.int64([65]), np.int64([2])
    )
    y = net.conv(cut, 6, 2)
    y = net("Transpose", y, perm=[0, 2, 3, 1]) if channels_last else y
    card = packed(net.save(tmp_path / "fixed.onnx", y))
    assert (card.stride, card.local) == (2, True)
    graph = load_graph(tmp_path / "model", card)
    assert graph.own is None
    image = np.random.default_rng(2).normal(size=(1, 64, 96, 3)).astype(np.float32)
    given = image if channels_last else np.ascontiguousarray(np.moveaxis(image, 3, 1))
    expected = onnxruntime.InferenceSession(tmp_path / "fixed.onnx").run(None, {"image": given})[0]
    expected = expected if channels_last else np.moveaxis(expected, 1, 3)
    found = Session(cropped(graph, 64, 96, 4))(image)
    assert np.abs(found - expected[:, 4:-4, 4:-4]).max() <= 1e-5 * expected.std()


def test_a_file_for_one_size_alone_is_refused(tmp_path: Path) -> None:
    net = Net(size=(64, 96))
    tokens = net("Reshape", plain(net), np.int64([1, 2, 64 * 96]))
    y = net("Reshape", net("Add", tokens, net.random(1, 2, 64 * 96)), np.int64([1, 2, 64, 96]))
    with pytest.raises(InputError, match=r"takes images of 64 x 96 alone.*dynamic axes") as error:
        packed(net.save(tmp_path / "vit.onnx", y))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_one_of_several_outputs_is_the_map(tmp_path: Path) -> None:
    net = Net()
    low, high = net.conv("image", 3, 2), net.conv("image", 3, 2, 5)
    path = net.save(tmp_path / "two.onnx", low, high)
    with pytest.raises(InputError, match=rf"2 outputs \({low}, {high}\): say which is the map, --output NAME"):
        packed(path)
    with pytest.raises(InputError, match=rf"no output third: expected one of {low}, {high}"):
        packed(path, "third")
    card = packed(path, high)
    assert (card.radius, card.parameters) == (2, 2 * 75 + 2)


ENDS: dict[str, tuple[Callable[[Net], str], str, str]] = {
    "softmax": (lambda net: net("Softmax", plain(net), axis=1), "softmax", "--activation softmax"),
    "sigmoid": (lambda net: net("Sigmoid", plain(net, 1)), "sigmoid", "--activation sigmoid"),
    "transposed softmax": (
        lambda net: net(
            "Transpose", net("Softmax", net("Transpose", plain(net), perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2]
        ),
        "softmax", "--activation softmax",
    ),
    "by hand": (
        lambda net: net("Div", odds := net("Exp", plain(net)), net("ReduceSum", odds, np.int64([1]))),
        "softmax", "add up to 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_what_a_graph_ends_in_is_compared_with_what_is_said(tmp_path: Path, name: str) -> None:
    build, true, words = ENDS[name]
    net = Net()
    path = net.save(tmp_path / "mine.onnx", build(net))
    with pytest.raises(InputError, match=f"said to give logits, but .*{words}"):
        packed(path)
    assert packed(path, activation=true).activation == true


def test_logits_are_no_probabilities(tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(InputError, match=r"said to give softmax, but .*say --activation logits"):
        packed(net.save(tmp_path / "mine.onnx", plain(net)), activation="softmax")
    net = Net()
    with pytest.raises(InputError, match=r"softmax.*over rows or columns instead of channels"):
        packed(net.save(tmp_path / "rows.onnx", net("Softmax", plain(net), axis=3)), activation="softmax")


def external(net: Net) -> onnx.ModelProto:
    model = net.model(plain(net))
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return model


def external_constant(net: Net) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return net.model(net("Add", plain(net), net("Constant", value=tensor)))


def custom(net: Net) -> onnx.ModelProto:
    x = net("MyOperator", "image", domain="my.company")
    return net.model(x)


def branched(net: Net) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [None] * 4)
    branch = helper.make_graph([helper.make_node("Identity", ["image"], ["c"])], "branch", [], [value])
    condition = net("Constant", value=numpy_helper.from_array(np.array(True)))
    return net.model(net("If", condition, then_branch=branch, else_branch=branch))


def random(net: Net) -> onnx.ModelProto:
    return net.model(net("Add", "image", net("RandomNormalLike", "image")))


def not_numbers(net: Net) -> onnx.ModelProto:
    return net.model(net("Mul", plain(net), np.float32([np.nan])))


def of_rank_3(net: Net) -> onnx.ModelProto:
    net.image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [3, None, None])
    return net.model(net("Relu", "image"))


def of_bytes(net: Net) -> onnx.ModelProto:
    net.image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 3, "h", "w"])
    return net.model(net("Cast", "image", to=1))


def of_two_inputs(net: Net) -> onnx.ModelProto:
    model = net.model(net("Add", plain(net), "other"))
    model.graph.input.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1, 2, None, None]))
    return model


def of_four_bands(net: Net) -> onnx.ModelProto:
    net.image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 4, "h", "w"])
    return net.model(net.conv("image", 4, 2))


def of_five_classes(net: Net) -> onnx.ModelProto:
    return net.model(plain(net, 5))


def newer(net: Net) -> onnx.ModelProto:
    net.opset = 99
    return net.model(plain(net))


REFUSED: dict[str, tuple[Callable[[Net], onnx.ModelProto], str]] = {
    "external data": (external, r"weights are in another file \(tensor w0\).*external_data=False"),
    "external constant": (external_constant, "weights are in another file"),
    "custom operator": (custom, r"operator myoperator_0 \(MyOperator\) is of my\.company, which is no part of ONNX"),
    "branches": (branched, r"\(If\) runs other graphs as the values tell"),
    "random numbers": (random, r"\(RandomNormalLike\) draws random numbers"),
    "NaN": (not_numbers, "holds NaN"),
    "rank": (of_rank_3, r"has the shape \(3, any, any\): expected images"),
    "bytes": (of_bytes, "is of UINT8: expected FLOAT"),
    "two inputs": (of_two_inputs, r"computed from 2 inputs \(image, other\)"),
    "bands": (of_four_bands, r"\(any, 4, any, any\), but 3 bands are named"),
    "classes": (of_five_classes, "5 output channels cannot give 2 classes"),
    "opset": (newer, "ONNX"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(tmp_path: Path, name: str) -> None:
    build, words = REFUSED[name]
    (tmp_path / "mine.onnx").write_bytes(build(Net()).SerializeToString())
    with pytest.raises(InputError, match=words) as error:
        packed(tmp_path / "mine.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("model/*"))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    net = Net()
    content = net.save(path, plain(net)).read_bytes()
    for broken in (content[: len(content) // 2], b"", b"import os\nos.system('true')\n", b"\x00" * 64):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"mine\.onnx: not a(n ONNX file| valid ONNX model)"):
            packed(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", content)
    with pytest.raises(InputError, match="not an ONNX file: a zip archive"):
        packed(path)
    path.unlink()
    with pytest.raises(InputError, match="no such model"):
        resolve_model(path)
    with path.open("wb") as stream:
        stream.truncate(2**31 + 5)  # a hole: takes no room
    with pytest.raises(InputError, match=r"2\.0 GiB: expected less than 2 GiB"):
        packed(path)


def test_a_file_alone_is_no_model_yet(tmp_path: Path) -> None:
    net = Net()
    path = net.save(tmp_path / "mine.onnx", plain(net))
    with pytest.raises(
        InputError, match=r"an ONNX file without a card; pack it first: tileseg model pack .*mine\.onnx"
    ):
        resolve_model(path)
    packed(path)
    with pytest.raises(UsageError, match="already holds a model"):
        packed(path)
