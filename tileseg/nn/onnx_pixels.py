"""An ONNX graph that takes a scene's own pixels and scales them: a quarter of the bytes goes to the device."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tileseg.card import Scaling
from tileseg.nn.onnx_crop import IMAGE, MAP
from tileseg.nn.onnx_wrap import Chain

PIXELS, HALF = "tileseg_pixels", "tileseg_half"
"""Names of the input, and of the output where it is in float16."""


def with_pixels(
    model: onnx.ModelProto, scaling: Scaling, dtype: str, *, largest_half: float | None = None
) -> onnx.ModelProto:
    """A graph for a window, as :func:`tileseg.nn.onnx_crop.cropped` makes it, from pixels instead of a scaled image.

    Args:
        model: From (1, rows, columns, bands) in float32.
        scaling: Of pixel values, with numbers; in float32 and in this order, as
            :class:`tileseg.engine.predictor.Predictor` does it.
        dtype: NumPy's name of the pixels' type.
        largest_half: Where given, maps come back as (1, channels, rows, columns) in float16, and finite numbers become
            no larger than this.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    rows, cols, bands = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:])
    before = Chain(PIXELS)
    before.add("Cast", to=onnx.TensorProto.FLOAT)
    before.scale(scaling, 3, bands)
    before.add("Identity")
    before.nodes[-1].output[0] = IMAGE
    after, weights = ([], []) if largest_half is None else _halved(largest_half)
    nodes = [*before.nodes, *graph.node, *after]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.initializer.extend([*before.weights, *weights])
    graph.ClearField("input")
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.input.append(onnx.helper.make_tensor_value_info(PIXELS, kind, [1, rows, cols, bands]))
    if after:
        graph.ClearField("output")
        graph.output.append(onnx.helper.make_tensor_value_info(HALF, onnx.TensorProto.FLOAT16, None))
    return made


def _halved(largest: float) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Operators and constants that make the map float16: what is finite stays so, and what is not, too."""
    names = [f"{HALF}_{part}" for part in ("low", "high", "infinite", "size", "finite", "clipped", "kept", "half")]
    low, high, infinite, size, finite, clipped, kept, half = names
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for value, name in ((-largest, low), (largest, high), (np.inf, infinite))
    ]
    make = onnx.helper.make_node
    nodes = [
        make("Abs", [MAP], [size]),
        make("Less", [size, infinite], [finite]),  # false of what is not a number
        make("Clip", [MAP, low, high], [clipped]),
        make("Where", [finite, clipped, MAP], [kept]),
        make("Cast", [kept], [half], to=onnx.TensorProto.FLOAT16),
        make("Transpose", [half], [HALF], perm=[0, 3, 1, 2]),
    ]
    return nodes, constants
