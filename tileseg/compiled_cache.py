"""Numba's cache on disk, where what cannot be read or kept is compiled and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pickle import PickleError
from typing import Any

from numba.core.caching import FunctionCache

_UNUSABLE = (OSError, EOFError, ValueError, LookupError, AttributeError, ImportError, RuntimeError, PickleError)
"""What reading, unpickling and linking machine code raise where the file is damaged, foreign or out of reach."""


class OptionalCache(FunctionCache):
    """As Numba's own, but that no file of it is an error."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Machine code that was kept, or None."""
        return self._attempt(partial(super().load_overload, sig, target_context))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code, where that is possible."""
        self._attempt(partial(super().save_overload, sig, data))

    def _attempt(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except _UNUSABLE:
            self.disable()  # type: ignore[no-untyped-call]
            return None
