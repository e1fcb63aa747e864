"""Exact, seamless segmentation of rasters of any size."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tileseg.run.report import RunReport
    from tileseg.run.result import Run, open_run
    from tileseg.run.scene import run
    from tileseg.spec import RunSpec

__all__ = ["Run", "RunReport", "RunSpec", "open_run", "run"]


_HOMES = {
    "Run": "tileseg.run.result",
    "RunReport": "tileseg.run.report",
    "RunSpec": "tileseg.spec",
    "open_run": "tileseg.run.result",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `tileseg --help` does not wait for pydantic and the rest.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "run":
        return importlib.import_module("tileseg.run")  # which can be called
    raise AttributeError(f"module 'tileseg' has no attribute {name!r}")
