"""OpenVINO, on the processor: ONNX graphs as functions of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError, first_line
from tileseg.nn.openvino_quiet import openvino

if TYPE_CHECKING:
    import onnx

    from tileseg.plan import Precision

_HINTS: dict[str, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Precision -> that of what is not quantised."""
_core: openvino.Core | None = None


class OpenvinoSession:
    """A graph of one image of fixed size, in the host's memory."""

    def __init__(self, model: onnx.ModelProto, precision: Precision, threads: int | None = None) -> None:
        """Raises InputError if OpenVINO does not take the graph."""
        global _core  # noqa: PLW0603 - it holds the plugins, which take a second to load
        _core = _core or openvino.Core()
        options: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = _core.compile_model(_core.read_model(model.SerializeToString()), "CPU", options)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"OpenVINO does not run it: {_reason(error)}") from error
        self._request = compiled.create_infer_request()

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images (n, ...) -> what the graph gives for each, one at a time: a processor gains nothing by more."""
        one_by_one = []
        for one in images:
            self._request.infer([np.ascontiguousarray(one[None])], share_inputs=True)
            one_by_one.append(np.array(self._request.get_output_tensor().data, np.float32))
        return np.concatenate(one_by_one)


def _reason(error: Exception) -> str:
    """What it says, behind the places in its own source that it names first; of a list, the first item."""
    places = ("Exception from", "Check '")
    told = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(places)]
    listed = [line.removeprefix("-- ") for line in told if line.startswith("-- ")]
    return (listed or told or [first_line(error)])[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether OpenVINO says that there is no memory left."""
    said = ("bad_alloc", "bad allocation", "could not allocate", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in said)
