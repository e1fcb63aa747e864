"""Exact, seamless segmentation of rasters of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tileseg.pipeline import RunReport, run
    from tileseg.spec import RunSpec

__all__ = ["RunReport", "RunSpec", "run"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `tileseg --help` does not wait for pydantic and the rest.
    if name == "RunSpec":
        from tileseg.spec import RunSpec

        return RunSpec
    if name in ("RunReport", "run"):
        from tileseg import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'tileseg' has no attribute {name!r}")
