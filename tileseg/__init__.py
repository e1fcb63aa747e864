"""Exact, seamless segmentation of rasters of any size."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tileseg.run.report import RunReport
    from tileseg.run.scene import run
    from tileseg.spec import RunSpec

__all__ = ["RunReport", "RunSpec", "run"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `tileseg --help` does not wait for pydantic and the rest.
    if name == "RunSpec":
        from tileseg.spec import RunSpec

        return RunSpec
    if name == "RunReport":
        from tileseg.run.report import RunReport

        return RunReport
    if name == "run":
        return importlib.import_module("tileseg.run")  # which can be called
    raise AttributeError(f"module 'tileseg' has no attribute {name!r}")
