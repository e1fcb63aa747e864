"""OpenVINO without its converter of models, which would report to its makers that it was imported, and take longer."""

from __future__ import annotations

from tileseg.imports import spared

with spared("openvino.tools.ovc", always=True):
    import openvino

__all__ = ["openvino"]
