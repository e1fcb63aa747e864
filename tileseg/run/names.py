"""Names of the files in a run's folder."""

from __future__ import annotations

STATE = ".state"
"""Folder, inside a run's, of what makes it resumable."""

MOSAIC = "mosaic.zarr"
"""Folder, inside a run's, of the mosaic."""

LABELS = "labels.tif"
"""The label COG."""

QUICKLOOK = "quicklook.png"
"""Scene, labels, overlay."""

SUMMARY = "summary.json"
"""File, inside a run's folder, whose presence means done."""
