"""Names of the files in a run's folder: the one place that knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tileseg.card import ClassInfo
from tileseg.formats import FORMATS, STYLE, style_paths, vector_paths

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

PROBABILITY = re.compile(r"probability_.+\.(tif|qml)")
"""The COGs of probabilities, one for each class but background: see :func:`probability_files`. And their styles."""

DISAGREEMENT = "disagreement.tif"
"""The COG of the disagreement of views."""

QUICKLOOK = "quicklook.png"
"""Outlines over the scene, the scene, its labels."""

PROJECT = "scene.qgz"
"""Project of QGIS: scene, labels, polygons."""

SUMMARY = "summary.json"
"""File, inside a run's folder, whose presence means done."""

_CLASS_CHARACTERS = 40
"""Most of a class's name in that of a file."""


def probability_files(classes: Sequence[ClassInfo]) -> dict[int, str]:
    """Class id -> name of the COG of its probability, of all classes but background: that is what these leave.

    ``probability_building.tif``. What is neither letter nor digit becomes ``_``; a name that another class has, or
    nothing is left of, gets the class's id.
    """
    files: dict[int, str] = {}
    taken: set[str] = set()
    for i, info in enumerate(classes):
        if info.background:
            continue
        name = re.sub(r"[^\w-]+", "_", info.name)[:_CLASS_CHARACTERS].strip("_") or str(i)
        while name.casefold() in taken:  # some file systems do not tell capitals from small letters
            name = f"{name}_{i}"
        taken.add(name.casefold())
        files[i] = f"probability_{name}.tif"
    return files


def written_files(names: Iterable[str]) -> list[str]:
    """Those of the names of a folder's files that are files that a run writes, beside its state and its mosaic."""
    vectors = vector_paths(Path(), FORMATS)
    styles = {Path(name).with_suffix(STYLE) for name in (LABELS, DISAGREEMENT)} | {*style_paths(vectors).values()}
    known = {path.name for path in (*vectors.values(), *styles)}
    known |= {SUMMARY, PROJECT, LABELS, f"{LABELS}.aux.xml", DISAGREEMENT, QUICKLOOK}
    return [name for name in names if name in known or PROBABILITY.fullmatch(name)]
