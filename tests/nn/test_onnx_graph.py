"""Stride, radius and locality of ONNX graphs: known numbers, and what changing pixels shows in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from nets import Net

from tileseg.errors import InputError
from tileseg.nn.onnx_crop import cropped
from tileseg.nn.onnx_file import open_onnx
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.nn.onnx_session import Session

Build = Callable[[Net], str]


def graph_of(path: Path, build: Build, **options: object) -> OnnxGraph:
    net = Net(**options)
    return OnnxGraph(open_onnx(net.save(path / "net.onnx", build(net))), 3, "net")


def runtime(graph: OnnxGraph) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """The file as ONNX Runtime alone computes it, from and to (rows, columns, channels)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), options)

    def compute(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        first = graph.band_axis == 1
        given = np.ascontiguousarray(np.moveaxis(image, 2, 0) if first else image)[None]
        found = session.run(None, {"image": given})[0][0]
        return np.moveaxis(found, 0, 2) if found.shape[1:] == image.shape[:2] else found

    return compute


def measured_radius(graph: OnnxGraph, stride: int, reach: int) -> int:
    """How far an aligned period of the output really depends on the input."""
    compute = runtime(graph)
    pad = -(-(reach + 2 * stride) // stride) * stride
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2 * pad + stride, 2 * pad + 2 * stride, 3)).astype(np.float32)
    period = (slice(pad, pad + stride), slice(pad, pad + stride))
    whole, farthest = compute(base)[period], 0
    for axis in (0, 1):
        for distance in range(1, reach + stride + 1):
            for line in (pad - distance, pad + stride - 1 + distance):
                changed = base.copy()
                # Noise, large and of both signs, so that neither ReLU nor pooling hides it in every channel.
                row = np.moveaxis(changed, axis, 0)[line]
                row += rng.normal(size=row.shape) * 50
                if (compute(changed)[period] != whole).any():
                    farthest = max(farthest, distance)
    return farthest


def check_tiles(graph: OnnxGraph, stride: int, radius: int) -> None:
    """Whole and cropped windows, and a tile out of the middle, give what the file gives for all of the image."""
    halo = -(-radius // stride) * stride
    core = -(-24 // stride) * stride
    rows, cols = 2 * core + 4 * halo, 3 * core + 4 * halo
    image = np.random.default_rng(1).normal(size=(rows, cols, 3)).astype(np.float32)
    whole = runtime(graph)(image)
    deviation = whole.std()
    for margin in (0, halo, halo + 3):
        part = Session(cropped(graph, rows, cols, margin))(image[None])[0]
        expected = whole[margin : rows - margin, margin : cols - margin]
        assert part.shape == expected.shape
        assert np.abs(part - expected).max() <= 1e-5 * deviation
    row, col = halo + stride, halo + core
    tile = image[row - halo : row + core + halo, col - halo : col + core + halo]
    part = Session(cropped(graph, core + 2 * halo, core + 2 * halo, halo))(tile[None])[0]
    assert np.abs(part - whole[row : row + core, col : col + core]).max() <= 1e-5 * deviation


def down_up(down: Build, mode: str, factor: float = 2, **attributes: object) -> Build:
    return lambda net: net.up(down(net), factor, mode, **attributes)


def pool(net: Net, size: int = 2) -> str:
    return net("MaxPool", "image", kernel_shape=[size, size], strides=[size, size])


def transposed(net: Net, x: str, weights: npt.NDArray[np.float32], stride: int, **attributes: object) -> str:
    return net("ConvTranspose", x, weights, strides=[stride, stride], **attributes)


def sized(net: Net, x: str, like: str, mode: str, **attributes: object) -> str:
    """Enlarge to the size of another value, as PyTorch exports it."""
    sizes = net("Slice", net("Shape", like), np.int64([2]), np.int64([4]))
    first = net("Slice", net("Shape", x), np.int64([0]), np.int64([2]))
    return net("Resize", x, None, None, net("Concat", first, sizes, axis=0), mode=mode, **attributes)


def scaled_sizes(net: Net) -> str:
    """Sizes by arithmetic in float32: cast, multiplied, rounded down, as older exporters write it."""
    small = pool(net)
    shape = net("Shape", small)
    sides = net("Slice", shape, np.int64([2]), np.int64([4]))
    twice = net("Cast", net("Floor", net("Mul", net("Cast", sides, to=1), np.float32([2, 2]))), to=7)
    first = net("Slice", shape, np.int64([0]), np.int64([2]))
    return net("Resize", small, None, None, net("Concat", first, twice, axis=0), mode="nearest")


def shuffled(net: Net) -> str:
    """Channels in another order, through five dimensions."""
    shape = net("Shape", x := net.conv("image", 3, 6, 1))
    rows, cols = (net("Slice", shape, np.int64([a]), np.int64([a + 1])) for a in (2, 3))
    parts = net("Reshape", x, net("Concat", np.int64([1, 2, 3]), rows, cols, axis=0))
    mixed = net("Transpose", parts, perm=[0, 2, 1, 3, 4])
    return net.conv(net("Reshape", mixed, net("Concat", np.int64([1, 6]), rows, cols, axis=0)), 6, 2)


def channels_last_middle(net: Net) -> str:
    x = net("Transpose", net.conv("image", 3, 4), perm=[0, 2, 3, 1])
    x = net("LayerNormalization", x, net.random(4) + 1, net.random(4), axis=-1)
    x = net("Add", net("MatMul", x, net.random(4, 6)), net.random(6))
    x = net("Gelu" if net.opset >= 20 else "Relu", x)
    return net.conv(net("Transpose", x, perm=[0, 3, 1, 2]), 6, 2, 5)


def split(net: Net) -> str:
    one, two = net("Split", net.conv("image", 3, 4), outputs=2, axis=1)
    return net("Concat", net.conv(one, 2, 2, 1), net.conv(two, 2, 2, 7), axis=1)


def focus(net: Net) -> str:
    """Every second pixel, four times, as YOLO begins."""

    def part(row: int, col: int) -> str:
        ends, axes = np.int64([2**31 - 1] * 2), np.int64([2, 3])
        return net("Slice", "image", np.int64([row, col]), ends, axes, np.int64([2, 2]))

    x = net("Concat", *(part(r, c) for c in (0, 1) for r in (0, 1)), axis=1)
    return net("DepthToSpace", net.conv(x, 12, 8), blocksize=2)


def cropped_skip(net: Net) -> str:
    """Convolved without padding, joined to the middle of what was there before."""
    padded = net("Pad", "image", np.int64([0, 0, 2, 2, 0, 0, 2, 2]), np.float32(0))
    inner = net.conv(net.conv(padded, 3, 4, pads=[0] * 4), 4, 4, pads=[0] * 4)
    middle = net("Slice", padded, np.int64([2, 2]), np.int64([-2, -2]), np.int64([2, 3]))
    return net("Concat", inner, middle, axis=1)


def quantised(net: Net) -> str:
    """Static int8, as ONNX Runtime writes it: QuantizeLinear and DequantizeLinear around a convolution."""

    def through(x: str, scale: float) -> str:
        return net(
            "DequantizeLinear", net("QuantizeLinear", x, np.float32(scale), np.int8(3)), np.float32(scale), np.int8(3)
        )

    weights = net.rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    kernel = net("DequantizeLinear", weights, np.float32([0.01] * 5), np.int8([0] * 5), axis=0)
    x = net("Relu", net("Conv", through("image", 0.05), kernel, pads=[1] * 4))
    return net.conv(through(x, 0.1), 5, 2, 1)


def gather(net: Net) -> str:
    return net("Gather", net.conv("image", 3, 4, 5), np.int64([2, 0]), axis=1)


def prelu(net: Net) -> str:
    x = net("PRelu", net.norm(net.conv("image", 3, 4), 4), net.random(4, 1, 1))
    return net("Softmax", net("Clip", x, np.float32(-1), np.float32(6)), axis=1)


LOCAL: dict[str, tuple[Build, int, int]] = {
    "conv": (lambda net: net.conv("image", 3, 2), 1, 1),
    "conv of one axis": (lambda net: net.conv("image", 3, 2, (1, 7)), 1, 3),
    "dilated": (lambda net: net.conv("image", 3, 2, pads=[4] * 4, dilations=[4, 4]), 1, 4),
    "even, same upper": (lambda net: net.conv("image", 3, 2, 4, auto_pad="SAME_UPPER"), 1, 2),
    "even, same lower": (lambda net: net.conv("image", 3, 2, 4, auto_pad="SAME_LOWER"), 1, 2),
    "groups": (lambda net: net.conv("image", 3, 6, 5, group=3), 1, 2),
    "strides, transposed": (
        lambda net: transposed(net, net.conv("image", 3, 4, strides=[2, 2]), net.random(4, 2, 2, 2), 2),
        2, 1,
    ),
    "transposed with output padding": (
        lambda net: transposed(
            net, net.conv("image", 3, 4, strides=[2, 2]), net.random(4, 2, 3, 3), 2,
            pads=[1] * 4, output_padding=[1, 1],
        ),
        2, 2,
    ),
    "transposed, same upper": (
        lambda net: transposed(net, pool(net, 4), net.random(3, 2, 5, 5), 4, auto_pad="SAME_UPPER"),
        4, 4,
    ),
    "strided, same upper, enlarged": (
        lambda net: net.up(net.conv("image", 3, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2]), 2, "nearest"), 2, 1,
    ),
    "average pool": (
        lambda net: net("AveragePool", "image", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0), 1, 1,
    ),
    "max pool of three by two": (
        lambda net: net.up(net("MaxPool", "image", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 2, "nearest"),
        2, 1,
    ),
    "rounded up": (
        lambda net: net.up(
            net("MaxPool", "image", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 2, "nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        ), 2, 1,
    ),
    "nearest, half pixel": (down_up(pool, "nearest"), 2, 0),
    "nearest, asymmetric": (
        down_up(pool, "nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"), 2, 0,
    ),
    "nearest, asymmetric, rounded up": (
        down_up(pool, "nearest", coordinate_transformation_mode="asymmetric", nearest_mode="ceil"), 2, 2,
    ),
    "nearest by 3": (
        down_up(
            lambda net: pool(net, 3), "nearest", 3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
        3, 0,
    ),
    "linear, half pixel": (down_up(pool, "linear"), 2, 2),
    "linear by 4": (
        down_up(lambda net: pool(net, 4), "linear", 4, coordinate_transformation_mode="pytorch_half_pixel"), 4, 4,
    ),
    "linear, asymmetric": (down_up(pool, "linear", coordinate_transformation_mode="asymmetric"), 2, 2),
    "cubic, half pixel": (down_up(pool, "cubic"), 2, 4),
    "halved and doubled": (lambda net: net.up(net.up("image", 0.5), 2), 2, 2),
    "sizes of a skip": (lambda net: sized(net, pool(net), "image", "linear"), 2, 2),
    "sizes by arithmetic": (scaled_sizes, 2, 0),
    "depth and space": (
        lambda net: net("DepthToSpace", net.conv(net("SpaceToDepth", "image", blocksize=4), 48, 32), blocksize=4), 4, 4,
    ),
    "focus": (focus, 2, 2),
    "padded with zeros, cut": (cropped_skip, 1, 2),
    "reflected": (
        lambda net: net.conv(net("Pad", "image", np.int64([0, 0, 3, 3] * 2), mode="reflect"), 3, 2, 7, pads=[0] * 4),
        1, 3,
    ),
    "channels last within": (channels_last_middle, 1, 3),
    "channels shuffled": (shuffled, 1, 1),
    "split and joined": (split, 1, 4),
    "gathered channels": (gather, 1, 2),
    "normalised, clipped, softmax": (prelu, 1, 1),
    "quantised": (quantised, 1, 1),
    "summed over channels": (
        lambda net: net("Mul", "image", net("ReduceMean", net.conv("image", 3, 4, 5), axes=[1], keepdims=1)), 1, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_graph_is_as_wide_as_it_shows_and_its_tiles_equal_the_whole(tmp_path: Path, name: str) -> None:
    build, stride, radius = LOCAL[name]
    graph = graph_of(tmp_path, build)
    facts = graph.analyse()
    assert (facts.stride, facts.local, facts.nonlocal_layers) == (stride, True, ())
    assert facts.radius == radius
    assert measured_radius(graph, stride, radius + 2) == radius
    check_tiles(graph, stride, radius)


NON_LOCAL: dict[str, tuple[Build, str]] = {
    "squeezed": (
        lambda net: net("Mul", "image", net("Sigmoid", net("GlobalAveragePool", "image"))), "GlobalAveragePool",
    ),
    "mean of the window": (
        lambda net: net("Sub", "image", net("ReduceMean", "image", axes=[2, 3], keepdims=1)), "ReduceMean",
    ),
    "instance norm": (
        lambda net: net("InstanceNormalization", "image", net.random(3), net.random(3)), "InstanceNormalization",
    ),
    "group norm": (  # which ONNX Runtime has in parts
        lambda net: net("GroupNormalization", net.conv("image", 3, 4), net.random(4), net.random(4), num_groups=2),
        "Reshape",
    ),
    "layer norm over space": (
        lambda net: net(
            "LayerNormalization", net("AveragePool", "image", kernel_shape=[1, 1]), net.random(1), axis=1
        ),
        "LayerNormalization",
    ),
    "softmax over rows": (lambda net: net("Softmax", "image", axis=2), "Softmax"),
    "align_corners": (down_up(pool, "linear", coordinate_transformation_mode="align_corners"), "Resize"),
    "linear by 3": (down_up(lambda net: pool(net, 3), "linear", 3), "Resize"),
    "nearest by 3, rounded down": (
        down_up(lambda net: pool(net, 3), "nearest", 3, nearest_mode="floor"), "Resize",
    ),
    "by a factor and a half": (lambda net: sized(net, net.up("image", 1.5, "nearest"), "image", "nearest"), "Resize"),
    "dynamic quantisation": (
        lambda net: net("Cast", net("DynamicQuantizeLinear", "image", outputs=3)[0], to=1), "DynamicQuantizeLinear",
    ),
    "coordinates": (
        lambda net: net(
            "Add", "image",
            net("Unsqueeze", net("Cast", net("Range", np.int64(0), net("Squeeze", net("Slice", net("Shape", "image"),
                np.int64([3]), np.int64([4]))), np.int64(1)), to=1), np.int64([0, 1, 2])),
        ),
        "Add",
    ),
    "rows turned round": (
        lambda net: net("Slice", "image", np.int64([-1]), np.int64([-(2**31)]), np.int64([2]), np.int64([-1])), "Slice",
    ),
    "wrapped": (
        lambda net: net.conv(net("Pad", "image", np.int64([0, 0, 1, 1] * 2), mode="wrap"), 3, 2, pads=[0] * 4), "Pad",
    ),
    "batch norm of the batch": (
        lambda net: net(
            "BatchNormalization", "image", *(net.random(3) ** 2 for _ in range(4)), training_mode=1, outputs=3
        )[0],
        "BatchNormalization",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NON_LOCAL)
def test_what_looks_at_the_whole_window_is_named(tmp_path: Path, name: str) -> None:
    build, blamed = NON_LOCAL[name]
    facts = graph_of(tmp_path, build, opset={"wrapped": 19, "group norm": 21}.get(name, 17)).analyse()
    assert not facts.local
    assert [title.split(" (")[1] for title in facts.nonlocal_layers] == [f"{blamed})"]


def test_the_axes_of_an_image_are_found_by_its_bands(tmp_path: Path) -> None:
    def last(net: Net) -> str:
        x = net.conv(net("Transpose", "image", perm=[0, 3, 1, 2]), 3, 4)
        return net("Transpose", x, perm=[0, 2, 3, 1])

    graph = graph_of(tmp_path, last, channels_last=True)
    assert (graph.band_axis, graph.analyse().radius) == (3, 1)
    check_tiles(graph, 1, 1)
    with pytest.raises(InputError, match=r"takes images of \(any, 3, any, any\), but 4 bands are named"):
        OnnxGraph(graph_of(tmp_path, lambda net: net.conv("image", 3, 2)).model, 4, "net")


def test_a_map_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a map with the rows and columns of its input"):
        graph_of(tmp_path, pool).analyse()


def test_static_int8_gives_tiles_the_bits_of_the_whole(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, quantised)
    image = np.random.default_rng(3).normal(size=(1, 64, 80, 3)).astype(np.float32)
    whole = Session(cropped(graph, 64, 80, 0))(image)
    part = Session(cropped(graph, 34, 26, 1))(image[:, 10:44, 20:46])
    np.testing.assert_array_equal(part, whole[:, 11:43, 21:45])
