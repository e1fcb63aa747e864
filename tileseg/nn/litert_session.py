"""LiteRT, on the processor: graphs as functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tileseg.errors import InputError, first_line
from tileseg.imports import silent


class LitertSession:
    """A graph of one image of fixed size, in the host's memory."""

    def __init__(self, content: bytes, threads: int | None = None, *, plain: bool = False) -> None:
        """``plain``: operator by operator, by LiteRT's own kernels. Raises InputError if it cannot be run."""
        kinds = OpResolverType
        try:
            with silent():  # it says which delegate it takes
                self._interpreter = Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else kinds.AUTO,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise InputError(f"LiteRT does not run it: {first_line(error)}") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images (n, ...) -> what the graph gives for each, one at a time: a processor gains nothing by more."""
        one_by_one = []
        for one in images:
            self._interpreter.set_tensor(self._input, np.ascontiguousarray(one[None], np.float32))
            self._interpreter.invoke()
            one_by_one.append(self._interpreter.get_tensor(self._output))
        return np.concatenate(one_by_one)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether LiteRT says that there is no memory left."""
    said = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in said)
