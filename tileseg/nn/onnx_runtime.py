"""The one place that imports ONNX Runtime, which sends nothing from here.

Its packages report to their maker what they run and where, and keep a database of it under the user's caches, unless
the environment says otherwise before they are imported.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["onnxruntime"]
