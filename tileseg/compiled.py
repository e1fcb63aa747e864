"""Loops as machine code: the one place that knows Numba.

Compiling takes seconds, so the machine code is kept on disk where there is a place for it: in the folder that
``NUMBA_CACHE_DIR`` names, beside the module, or in the user's cache. Without such a place (a read-only installation
and no home, as in containers), or where that place fails (a full disk, files of another user, damaged ones),
everything is compiled anew in each process: slower to start, never an error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pickle import PickleError
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile when first called with arguments of a type, and release the GIL while running."""
    return _compiled(function)


def compiled_with_fma(function: F) -> F:
    """The same, and a product and a sum may be one operation with one rounding."""
    return _compiled(function, fastmath={"contract"})


def inlined(function: F) -> F:
    """Compile into whatever calls it."""
    return cast(F, numba.njit(inline="always")(function))


def _compiled(function: F, **options: Any) -> F:
    dispatcher = numba.njit(nogil=True, **options)(function)
    with suppress(RuntimeError, OSError):  # RuntimeError: Numba found no place that can be written to
        dispatcher._cache = _OptionalCache(function)  # noqa: SLF001 - what dispatcher.enable_caching() does
    return cast(F, dispatcher)


_UNUSABLE = (OSError, EOFError, ValueError, LookupError, AttributeError, ImportError, RuntimeError, PickleError)
"""What reading, unpickling and linking machine code raise where the file is damaged, foreign or out of reach."""


class _OptionalCache(FunctionCache):
    """Numba's cache on disk, where what cannot be read or kept is compiled and forgotten."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        return self._attempt(partial(super().load_overload, sig, target_context))

    def save_overload(self, sig: Any, data: Any) -> None:
        self._attempt(partial(super().save_overload, sig, data))

    def _attempt(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except _UNUSABLE:
            self.disable()
            return None
