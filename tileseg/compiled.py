"""Loops as machine code: the one place that knows Numba.

Numba is imported when the first of them is called: that takes most of a second, in which a run rather waits for its
network. Compiling takes seconds, so the machine code is kept on disk where there is a place for it: in the folder that
``NUMBA_CACHE_DIR`` names, beside the module, or in the user's cache. Without such a place (a read-only installation
and no home, as in containers), or where that place fails (a full disk, files of another user, damaged ones),
everything is compiled anew in each process: slower to start, never an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial, update_wrapper
from types import CodeType
from typing import Any, TypeVar, cast

from tileseg.imports import spared

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile when first called with arguments of a type, and release the GIL while running."""
    return cast(F, _Loop(function, _dispatcher))


def compiled_with_fma(function: F) -> F:
    """The same, and a product and a sum may be one operation with one rounding."""
    return cast(F, _Loop(function, partial(_dispatcher, fastmath={"contract"})))


def inlined(function: F) -> F:
    """Compile into whatever calls it."""
    return cast(F, _Loop(function, _inlined))


class _Loop:
    """A function that Numba gets when it is first called, and with it those that it calls itself."""

    def __init__(self, function: Callable[..., Any], handed_over: Callable[[Callable[..., Any]], Any]) -> None:
        update_wrapper(self, function)
        self._function, self._handed_over = function, handed_over
        self._made: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the machine code."""
        return (self._made or self.dispatcher())(*arguments, **named)

    def dispatcher(self) -> Any:
        """Numba's own object, which takes this one's place in its module; so do those of the loops that it calls."""
        with _HANDING_OVER:
            if self._made is None:
                function, space = self._function, self._function.__globals__
                for name in _names(function.__code__):
                    if isinstance(space.get(name), _Loop) and space[name] is not self:
                        space[name] = space[name].dispatcher()
                self._made = self._handed_over(function)
                if space.get(function.__name__) is self:
                    space[function.__name__] = self._made
            return self._made


_HANDING_OVER = threading.RLock()


def _names(code: CodeType) -> set[str]:
    """Names of other things that a function's code has, and those of functions and comprehensions in it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _numba() -> Any:
    import numba

    with spared("scipy.linalg"):  # for products of matrices, of which no loop has any
        import numba.np.arraymath
    return numba


def _inlined(function: Callable[..., Any]) -> Any:
    return _numba().njit(inline="always")(function)


def _dispatcher(function: Callable[..., Any], **options: Any) -> Any:
    from tileseg.compiled_cache import OptionalCache

    dispatcher = _numba().njit(nogil=True, **options)(function)
    with suppress(RuntimeError, OSError):  # RuntimeError: Numba found no place that can be written to
        dispatcher._cache = OptionalCache(function)  # noqa: SLF001 - what dispatcher.enable_caching() does
    return dispatcher
