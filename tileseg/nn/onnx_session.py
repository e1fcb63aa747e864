"""ONNX Runtime, on the processor: graphs as functions of arrays."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime

from tileseg.errors import InputError, first_line

if TYPE_CHECKING:
    import onnx


_WHERE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:/\S+:\d+ .*?\)(?: const)? )?")
"""What ONNX Runtime begins its messages with: a number, and the place in its own source."""


class Session:
    """A graph of one image of fixed size, in the host's memory."""

    def __init__(self, model: onnx.ModelProto, threads: int | None = None, *, plain: bool = False) -> None:
        """``plain``: operator by operator as the graph has them. Raises InputError if it cannot be run."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # The pattern is a second arena beside what the first window took: 1.3 times the memory, and no time is saved.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        # Its threads would turn while they wait for work, and take the processors from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        levels = onnxruntime.GraphOptimizationLevel
        # With all, convolutions are joined to the sums after them in another order where a crop stands between, and
        # windows differ by their rounding.
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if plain else levels.ORT_ENABLE_EXTENDED
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it raises a dozen kinds of errors without a common parent
            if is_out_of_memory(error):
                raise
            raise InputError(f"ONNX Runtime does not run it: {reason(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images (n, ...) -> what the graph gives for each, one at a time: a processor gains nothing by more."""
        one_by_one = [self._session.run(None, {self._input: np.ascontiguousarray(one[None])})[0] for one in images]
        return np.concatenate(one_by_one).astype(np.float32, copy=False)


def built_with(provider: str) -> bool:
    """Whether ONNX Runtime, as it is installed, knows an execution provider."""
    return provider in onnxruntime.get_available_providers()


def reason(error: Exception) -> str:
    """The first line of what ONNX Runtime says, in its words for users."""
    return _WHERE.sub("", first_line(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime says that there is no memory left."""
    said = ("bad_alloc", "bad allocation", "Failed to allocate memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
