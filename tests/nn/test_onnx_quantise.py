"""Static int8 by ONNX Runtime's quantisation: near to float32, local, and the same on every processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from nets import Net
from onnx import numpy_helper

from tileseg.card import ClassInfo, Scaling
from tileseg.engine.onnx import OnnxNetwork
from tileseg.engine.openvino import OpenvinoNetwork
from tileseg.engine.proof import prove
from tileseg.errors import InputError
from tileseg.nn.description import Description
from tileseg.nn.folder import load_card
from tileseg.nn.onnx_bundle import load_graph
from tileseg.nn.onnx_exact import sums_are_whole, with_exact_sums
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.nn.onnx_quantise import quantise
from tileseg.nn.onnx_tidy import tidy
from tileseg.nn.packing import pack

TWO = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))
Floats = npt.NDArray[np.float32]


def unet(net: Net) -> str:
    """Two levels, normalisation, a skip."""
    last = net.image.type.tensor_type.shape.dim[3].dim_value == 3
    image = net("Transpose", "image", perm=[0, 3, 1, 2]) if last else "image"
    fine = net("Relu", net.norm(net.conv(image, 3, 8), 8))
    coarse = net("Relu", net.norm(net.conv(net("MaxPool", fine, kernel_shape=[2, 2], strides=[2, 2]), 8, 12), 12))
    x = net("Concat", net.up(coarse), fine, axis=1)
    y = net.conv(net("Relu", net.conv(x, 20, 8)), 8, 2, 1)
    return net("Transpose", y, perm=[0, 2, 3, 1]) if last else y


def images(count: int, seed: int = 0) -> list[Floats]:
    return [np.random.default_rng([seed, i]).normal(size=(40, 56, 3)).astype(np.float32) for i in range(count)]


def computed(model: onnx.ModelProto, image: Floats, *, plain: bool = False) -> Floats:
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"image": image[None]})[0]


@pytest.mark.parametrize("calibration", ["percentile", "entropy", "minmax"])
def test_int8_is_near_to_float32_and_its_ends_are_not_rounded(calibration: str) -> None:
    net = Net(channels_last=True)
    graph = OnnxGraph(net.model(unet(net)), 3, "m")
    made = quantise(graph, images(3), calibration)
    image = images(1, seed=1)[0]
    expected = computed(graph.model, image)
    assert np.sqrt(np.mean((computed(made, image) - expected) ** 2)) < 0.05 * expected.std()
    fed = {node.output[0]: node for node in made.graph.node}
    whole = [fed[n.input[1]].op_type if n.input[1] in fed else "float" for n in made.graph.node if n.op_type == "Conv"]
    assert whole == ["float", "DequantizeLinear", "DequantizeLinear", "DequantizeLinear"]
    takers = {name: node.op_type for node in made.graph.node for name in node.input}
    assert takers[made.graph.node[-2].output[0]] == "Transpose", "the map is not rounded"
    assert made.SerializeToString(deterministic=True) == quantise(graph, images(3), calibration).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_tiles_in_int8_equal_the_whole_bit_for_bit(tmp_path: Path, channels_last: bool) -> None:
    net = Net(channels_last=channels_last)
    described = Description(name="m", bands=("r", "g", "b"), classes=TWO, scaling=Scaling())
    pack(net.save(tmp_path / "m.onnx", unet(net)), tmp_path / "model", described)
    card = load_card(tmp_path / "model")
    graph = load_graph(tmp_path / "model", card)
    made = OnnxGraph(quantise(graph, images(2), "minmax"), 3, "m")
    assert made.quantised
    assert not graph.quantised
    found = made.analyse()
    assert (found.stride, found.radius, found.local) == (card.stride, card.radius, True)
    for network in (OnnxNetwork, OpenvinoNetwork):
        proof = prove(network(made, card, 1), "int8")
        assert (proof.largest, proof.far) == (0, 0)
        assert proof.holds, "and the whole is what the graph says"


@pytest.mark.parametrize(
    ("harm", "whole"),
    [
        (lambda net, x: net("Relu", net.conv(x, 8, 8)), True),
        (lambda net, x: net.conv(x, 8, 8), False),  # negative values
        (lambda net, x: net("Relu", net.conv(x, 8, 8, group=8)), False),
        (lambda net, x: net("Relu", net("ConvTranspose", x, net.random(8, 8, 1, 1))), False),
    ],
)
def test_what_openvino_would_sum_in_float32_is_known(harm: Callable[[Net, str], str], whole: bool) -> None:
    net = Net()
    inner = harm(net, net("Relu", net.conv("image", 3, 8)))
    made = quantise(OnnxGraph(net.model(net.conv(inner, 8, 2)), 3, "m"), images(2), "minmax")
    assert sums_are_whole(made) == whole


def test_sums_of_the_first_layer_are_exact() -> None:
    net = Net()
    before = net("Mul", net("Sub", "image", np.float32(0.1)), np.float32(1.7))
    model = tidy(net.model(net.conv(before, 3, 6, strides=[2, 1])))
    given = [np.moveaxis(image[None], 3, 1) for image in images(2)]
    made = with_exact_sums(model, ["conv_0"], given)
    image = np.ascontiguousarray(given[0])
    found, near = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"image": image})[0] for m in (made, model)
    )
    assert 0 < np.abs(found - near).max() < 1e-2 * near.std()
    taken = np.float32(1.7) * (image - np.float32(0.1))
    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in made.graph.initializer}
    step = tensors["conv_0_step"]
    padded = np.pad(np.rint(taken / step) * step, ((0, 0), (0, 0), (1, 1), (1, 1)))[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2]
    exact = np.einsum("cyxij,ocij->oyx", windows, tensors["conv_0_1"]) + tensors["conv_0_2"][:, None, None]
    np.testing.assert_array_equal(found[0], exact, "no bit of a float32 sum is lost, in whatever order")


def test_products_of_8_bits_do_not_overflow_on_processors_without_vnni() -> None:
    net = Net()
    one = net.conv("image", 3, 32, 1)
    ones = np.full((32, 32, 3, 3), 0.5, np.float32)
    two = net("Conv", net("Relu", one), ones, pads=[1, 1, 1, 1])
    graph = OnnxGraph(net.model(net.conv(two, 32, 2, 1)), 3, "m")
    made = quantise(graph, images(2), "minmax")
    weights = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert [int(np.abs(numpy_helper.to_array(t)).max()) for t in weights] == [64, 64]
    image = np.moveaxis(3 * images(1)[0], 2, 0)
    plain = computed(made, image, plain=True)
    assert np.abs(computed(made, image) - plain).max() < 0.02 * plain.std()


def test_a_network_of_one_layer_has_nothing_to_quantise() -> None:
    net = Net()
    graph = OnnxGraph(net.model(net("Relu", net.conv("image", 3, 2))), 3, "m")
    with pytest.raises(InputError, match=r"no layer of it in int8 besides the first") as error:
        quantise(graph, images(1), "minmax")
    assert "\n" not in str(error.value)
