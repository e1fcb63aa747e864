"""Names of the files in a run's folder."""

from __future__ import annotations

STATE = ".state"
"""Folder, inside a run's, of what makes it resumable."""

RECORD = "run.json"
"""In the state folder: which run the folder holds."""

DONE = "done"
"""In the state folder: a record of each finished block."""

IN_PROCESS = "in-process"
"""In the state folder while the process that holds it computes blocks itself."""

FRAGMENTS = "fragments"
"""In the state folder: the polygons of single blocks."""

MOSAIC = "mosaic.zarr"
"""Folder, inside a run's, of the mosaic."""

LABELS = "labels.tif"
"""The label COG."""

QUICKLOOK = "quicklook.png"
"""Scene, labels, overlay."""

SUMMARY = "summary.json"
"""File, inside a run's folder, whose presence means done."""
