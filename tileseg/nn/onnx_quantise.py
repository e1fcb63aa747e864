"""Static int8 of ONNX graphs, by ONNX Runtime's own quantisation: integer weights, and ranges found on real images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from tileseg.errors import InputError
from tileseg.nn.onnx_exact import with_exact_sums
from tileseg.nn.onnx_graph import OnnxGraph, optimised
from tileseg.nn.onnx_session import is_out_of_memory, reason
from tileseg.nn.onnx_tidy import tidy

if TYPE_CHECKING:
    import numpy.typing as npt

Calibration = Literal["percentile", "minmax", "entropy"]
"""How the range of a value is found: without its rarest 0.001 %, all of it, or by the least loss of information."""

_METHODS = {
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
    "minmax": quantization.CalibrationMethod.MinMax,
}
_PERCENTILE = 99.999
"""Less cuts off what decides: at 99.99, the embedded network loses half a point of IoU in one place."""
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def quantise(graph: OnnxGraph, images: Sequence[npt.NDArray[np.float32]], calibration: Calibration) -> onnx.ModelProto:
    """The graph in static int8: all layers with weights but the first take and have whole numbers.

    Weights are symmetric int8 per channel, of which 7 bits are used: two products of 8 bits overflow the sums of
    processors without VNNI, which would then give other maps than others do. Values between layers are uint8. The first
    layer sees the image in float32, and the map is not rounded: they cost little, and most would be lost there. That
    the sums of the first layer are the same everywhere is seen to by :mod:`tileseg.nn.onnx_exact`.

    Args:
        graph: In float32, for images of any size.
        images: (rows, columns, bands) each, as the network is given them: what they make of its values gives the
            ranges.
        calibration: How ranges are found.

    Raises:
        InputError: If ONNX Runtime cannot quantise it.
    """
    given = [np.ascontiguousarray(np.moveaxis(image[None], 3, graph.band_axis), np.float32) for image in images]
    model = tidy(optimised(graph.model))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise InputError(f"model {graph.name}: weights {tensor.name} hold infinite numbers, which no int8 can tell")
    model = onnx.shape_inference.infer_shapes(tidy(with_exact_sums(model, _ends(model.graph)[0], given)))
    add_pre_process_metadata(model)
    first, last, outside = _ends(model.graph)
    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        path = Path(folder) / "int8.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantization.quantize_static(
                    model,
                    path,
                    _Images(given),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=[*first, *outside],
                    calibrate_method=_METHODS[calibration],
                    # One image at a time: all values of all images would be kept in memory.
                    extra_options={"CalibStridedMinMax": 1, "CalibPercentile": _PERCENTILE},
                )
        except Exception as error:  # it raises a dozen kinds of errors without a common parent
            if is_out_of_memory(error):
                raise
            raise InputError(f"model {graph.name}: ONNX Runtime cannot quantise it: {reason(error)}") from error
        found = onnx.load(path)
    _leave_unrounded(found.graph, last)
    found = tidy(found)
    if not any(node.op_type == "QuantizeLinear" for node in found.graph.node):
        raise InputError(f"model {graph.name}: ONNX Runtime has no layer of it in int8 besides the first")
    return found


class _Images(quantization.CalibrationDataReader):
    """Images one by one."""

    def __init__(self, images: Sequence[npt.NDArray[np.float32]]) -> None:
        self._images = images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give these next."""
        self._left = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next image (1, ...) by the name of the input, or None."""
        image = next(self._left, None)
        return None if image is None else {"image": image}


def _ends(graph: onnx.GraphProto) -> tuple[list[str], list[str], list[str]]:
    """Names of the first operators with weights, of the last ones, and of those before the first and after the last."""
    weights = {tensor.name for tensor in graph.initializer}

    def reached(nodes: Iterable[onnx.NodeProto], start: str, *, forward: bool) -> tuple[list[str], list[str]]:
        values, ends, passed = {start}, list[str](), list[str]()
        for node in nodes:
            near, far = (node.input, node.output) if forward else (node.output, node.input)
            if not values & set(near):
                continue
            if node.op_type in _WEIGHTED and any(name in weights for name in node.input[1:2]):
                ends.append(node.name)
            else:
                passed.append(node.name)
                values.update(far)
        return ends, passed

    first, before = reached(graph.node, graph.input[0].name, forward=True)
    last, after = reached(reversed(graph.node), graph.output[0].name, forward=False)
    return first, [name for name in last if name not in first], [*before, *after]


def _leave_unrounded(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Take the rounding to 8 bits from what these operators give."""
    nodes = {node.name: node for node in graph.node}
    takers = {name: node for node in graph.node for name in node.input}
    for name in names:
        node = nodes[name]
        rounded = takers.get(node.output[0])
        if rounded is None or rounded.op_type != "QuantizeLinear":
            continue
        widened = takers[rounded.output[0]]
        node.output[0] = widened.output[0]
        graph.node.remove(rounded)
        graph.node.remove(widened)
