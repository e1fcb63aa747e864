"""ONNX networks made on the spot, operator by operator, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class Net:
    """A graph that is being written; every call adds an operator and gives the name of its output."""

    def __init__(
        self,
        bands: int = 3,
        *,
        opset: int = 17,
        channels_last: bool = False,
        size: tuple[int, int] | None = None,
        seed: int = 7,
    ) -> None:
        rows, cols = size or ("rows", "cols")
        n = 1 if size else "n"
        shape = [n, rows, cols, bands] if channels_last else [n, bands, rows, cols]
        self.image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.opset = opset
        self.rng = np.random.default_rng(seed)

    def __call__(self, kind: str, *inputs: object, outputs: int = 1, **attributes: object) -> str:
        names = [self._named(one) for one in inputs]
        made = [f"{kind.lower()}{len(self.nodes)}{'abcd'[i] if outputs > 1 else ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, name=f"{kind.lower()}_{len(self.nodes)}", **attributes))
        return made[0] if outputs == 1 else made

    def _named(self, one: object) -> str:
        if one is None or isinstance(one, str):
            return one or ""
        self.weights.append(numpy_helper.from_array(np.asarray(one), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def random(self, *shape: int) -> npt.NDArray[np.float32]:
        return (self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    def conv(self, x: str, given: int, made: int, size: int | tuple[int, int] = 3, **attributes: object) -> str:
        rows, cols = (size, size) if isinstance(size, int) else size
        if not {"pads", "auto_pad"} & set(attributes):
            attributes["pads"] = [rows // 2, cols // 2, rows // 2, cols // 2]
        group = attributes.get("group", 1)
        return self("Conv", x, self.random(made, given // group, rows, cols), self.random(made), **attributes)

    def up(self, x: str, factor: float = 2, mode: str = "linear", **attributes: object) -> str:
        return self("Resize", x, None, np.float32([1, 1, factor, factor]), mode=mode, **attributes)

    def norm(self, x: str, channels: int) -> str:
        gamma, beta, mean = (self.random(channels) for _ in range(3))
        return self("BatchNormalization", x, gamma + 1, beta, mean, np.abs(self.random(channels)) + 0.5)

    def model(self, *outputs: str) -> onnx.ModelProto:
        made = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.image], made, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def save(self, path: Path, *outputs: str) -> Path:
        onnx.save(self.model(*outputs), path)
        return path


def save_forms(path: Path) -> Path:
    """A model folder of a small network with normalisation and a skip, in float32 and in int8; its loss is recorded."""
    from fakes import CLASSES

    from tileseg.card import Form, Loss, Scaling
    from tileseg.nn.description import Description
    from tileseg.nn.folder import add_form
    from tileseg.nn.onnx_bundle import load_graph
    from tileseg.nn.onnx_quantise import quantise
    from tileseg.nn.packing import pack
    from tileseg.storage.digest import file_sha256

    net = Net()
    fine = net("Relu", net.norm(net.conv("image", 3, 8), 8))
    coarse = net("Relu", net.norm(net.conv(net("MaxPool", fine, kernel_shape=[2, 2], strides=[2, 2]), 8, 12), 12))
    x = net("Concat", net.up(coarse), fine, axis=1)
    file = net.save(path / "net.onnx", net.conv(net("Relu", net.conv(x, 20, 8)), 8, 3, 1))
    described = Description(name="net", bands=("red", "green", "blue"), classes=CLASSES, scaling=Scaling(divisor=255))
    folder = path / "net"
    card = pack(file, folder, described)
    rng = np.random.default_rng(1)
    windows = [rng.random((64, 80, 3), dtype=np.float32) for _ in range(2)]
    partial = folder / ".partial"
    onnx.save(quantise(load_graph(folder, card), windows, "minmax"), partial)
    loss = Loss(iou=0.001, worst_iou=0.002, labels=0.003, data="no scenes")
    add_form(folder, partial, Form(file="model.int8.onnx", sha256=file_sha256(partial), precision="int8", loss=loss))
    return folder
