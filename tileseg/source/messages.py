"""Complaints of GDAL that are not UTF-8.

rasterio decodes messages inside a callback, where an error can be raised to nobody: Python prints a traceback, and a
failure is taken for success, with zeros instead of pixels. Here it is kept, to be raised where GDAL was called from.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

_FAILURE = "rasterio._err.chaining_error_handler"
"""The callback of rasterio that turns failures into errors; others only log."""
_OURS = "rasterio._e"

_local = threading.local()


def take_failure() -> str | None:
    """The failure of this thread that could not be decoded, with its bytes as numbers; asked again: None."""
    found: str | None = getattr(_local, "failure", None)
    _local.failure = None
    return found


def listen() -> None:
    """Have Python's hooks pass by here. Calling it again changes nothing."""
    if getattr(sys.unraisablehook, "__module__", None) != __name__:
        sys.unraisablehook = _unraisable(sys.unraisablehook)
    if getattr(sys.excepthook, "__module__", None) != __name__:
        sys.excepthook = _uncaught(sys.excepthook)


def _unraisable(before: Any) -> Any:
    def hook(found: Any) -> None:
        name = str(found.object)
        if not (isinstance(found.exc_value, UnicodeDecodeError) and _OURS in name):
            before(found)
        elif _FAILURE in name:
            _local.failure = found.exc_value.object.decode("utf-8", "backslashreplace")

    return hook


def _uncaught(before: Any) -> Any:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Cython prints the error first, from where there is no Python frame; then it calls the other hook.
        if not (kind is UnicodeDecodeError and trace is None):
            before(kind, error, trace)

    return hook
