"""Static int8 of ONNX graphs, by ONNX Runtime's own quantisation: integer weights, and ranges found on real images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from tileseg.errors import InputError
from tileseg.nn.onnx_graph import OnnxGraph, optimised
from tileseg.nn.onnx_session import is_out_of_memory, reason
from tileseg.nn.onnx_tidy import tidy

if TYPE_CHECKING:
    import numpy.typing as npt

Calibration = Literal["percentile", "entropy", "minmax"]
"""How the range of a value is found: without its rarest 0.001 %, by the least loss of information, or all of it."""

_METHODS = {
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
    "minmax": quantization.CalibrationMethod.MinMax,
}
_PERCENTILE = 99.999
"""Less cuts off what decides: at 99.99, the embedded network loses half a point of IoU in one place."""
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def quantise(graph: OnnxGraph, images: Sequence[npt.NDArray[np.float32]], calibration: Calibration) -> onnx.ModelProto:
    """The graph in static int8: what follows the first layer with weights and comes before the last is in integers.

    Weights are symmetric int8 per channel, of which 7 bits are used: two products of 8 bits overflow the sums of
    processors without VNNI, which would then give other maps than others do. Values between layers are uint8. The first
    layer sees the image and the last one gives the map in float32: they cost little, and most is lost in them.

    Args:
        graph: In float32, for images of any size.
        images: (rows, columns, bands) each, as the network is given them: what they make of its values gives the
            ranges.
        calibration: How ranges are found.

    Raises:
        InputError: If ONNX Runtime cannot quantise it.
    """
    model = onnx.shape_inference.infer_shapes(tidy(optimised(graph.model)))
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        path = Path(folder) / "int8.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantization.quantize_static(
                    model,
                    path,
                    _Images(images, graph.band_axis),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    nodes_to_exclude=_ends(model.graph),
                    calibrate_method=_METHODS[calibration],
                    # One image at a time: all values of all images would be kept in memory.
                    extra_options={"CalibStridedMinMax": 1, "CalibPercentile": _PERCENTILE},
                )
        except Exception as error:  # it raises a dozen kinds of errors without a common parent
            if is_out_of_memory(error):
                raise
            raise InputError(f"model {graph.name}: ONNX Runtime cannot quantise it: {reason(error)}") from error
        found = tidy(onnx.load(path))
    if not any(node.op_type == "QuantizeLinear" for node in found.graph.node):
        raise InputError(f"model {graph.name}: ONNX Runtime has no layer of it in int8 besides its first and its last")
    return found


class _Images(quantization.CalibrationDataReader):
    """Images one by one, in the order of axes of a graph."""

    def __init__(self, images: Sequence[npt.NDArray[np.float32]], band_axis: int) -> None:
        self._images, self._band_axis = images, band_axis
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give these next."""
        self._left = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next image (1, ...) by the name of the input, or None."""
        index = next(self._left, None)
        if index is None:
            return None
        image = np.moveaxis(self._images[index][None], 3, self._band_axis)
        return {"image": np.ascontiguousarray(image, np.float32)}


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Names of the operators up to the first with weights, and of those from the last one on."""
    weights = {tensor.name for tensor in graph.initializer}

    def weighted(node: onnx.NodeProto) -> bool:
        return node.op_type in _WEIGHTED and any(name in weights for name in node.input[1:2])

    found: set[str] = set()
    reached = {graph.input[0].name}
    for node in graph.node:
        if reached & set(node.input):
            found.add(node.name)
            reached.update([] if weighted(node) else node.output)
    reached = {graph.output[0].name}
    for node in reversed(graph.node):
        if reached & set(node.output):
            found.add(node.name)
            reached.update([] if weighted(node) else node.input)
    return sorted(found)
