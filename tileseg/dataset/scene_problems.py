"""What may be wrong with one labelled scene: its place, the values of its labels, what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tileseg.dataset.doubts import mask_doubt, nodata_doubt, percent
from tileseg.dataset.facts import Problem, SceneFacts
from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.raster_truth import RasterTruth
from tileseg.dataset.spec import DatasetSpec, SceneFiles
from tileseg.dataset.truth import is_placed
from tileseg.dataset.vector_truth import VectorTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.label_raster import LabelRaster
from tileseg.window import tile

_SIDE = 1024
"""Pixels: side of what is read at once of a label raster."""

_MOST_UNKNOWN = 0.95
"""Share of pixels without a known class that is worth a word."""

_MOST_SHOWN = 6


def georeference_problems(scene: LabelledScene, pair: SceneFiles, gsd: float | None) -> Iterator[Problem]:
    """What files do not say of their place and pixel size, and what is made of that."""
    if scene.ground_sample_distance is None and gsd is not None:
        yield Problem(
            "warning",
            f"{pair.image}: has no coordinate reference system, so its ground sample distance is not known and it is "
            "read as it is; give pixel_size (metres)",
        )
    found = _doubtful_place(scene, pair)
    if found is not None:
        without, taken = found
        yield Problem("warning", f"{without}: {taken}")


def _doubtful_place(scene: LabelledScene, pair: SceneFiles) -> tuple[Path, str] | None:
    """Which file does not say where it lies, and what is made of that; None where all is said, or nothing."""
    nothing = "has no coordinate reference system"
    if not scene.has_labels:
        return None
    image, truth = scene.scene.grid, scene.truth
    if isinstance(truth, VectorTruth):
        if truth.system == "pixels":
            return None
        if image.crs is None:
            return pair.image, f"{nothing}; its polygons are taken to be in its own coordinates"
        if truth.system == "named":
            return None
        wrong = "is in degrees by what it says (or, as GeoJSON, does not say), but its numbers are too large for that"
        said = nothing if truth.system == "unnamed" else wrong
        return pair.label_file, f"{said}; its polygons are taken to be in the image's coordinates"
    assert isinstance(truth, RasterTruth | WarpedTruth)
    image_knows, labels_know = _knows(image), _knows(truth.raster.grid)
    if image_knows == labels_know:
        return None
    shared = "be on one grid" if isinstance(truth, RasterTruth) else "have the same coordinates"
    return (
        pair.label_file if labels_know < image_knows else pair.image,
        f"{nothing}; image and labels are taken to {shared}",
    )


def _knows(grid: Grid) -> int:
    """How much a file says about where its pixels lie: nothing, where in some coordinates, where on the Earth."""
    return int(is_placed(grid)) + int(grid.crs is not None)


def label_problems(scene: LabelledScene, pair: SceneFiles, spec: DatasetSpec) -> Iterator[Problem]:
    """Every value of a label raster that is no class, not only the first."""
    truth = scene.truth
    if not isinstance(truth, (RasterTruth, WarpedTruth)):
        return
    raster, unknown, total, doubt = truth.raster, dict[int, int](), 0, None
    try:
        for window in tile(raster.grid.extent, _SIDE, _SIDE):
            values = raster.read_labels(window)
            total += values.size
            for value, count in truth.values.unknown(values).items():
                unknown[value] = unknown.get(value, 0) + count
        doubt = None if unknown else nodata_doubt(scene)
    except InputError as error:
        yield Problem("error", str(error))
        return
    if unknown:
        named = {truth.values.shown(value): count / total for value, count in unknown.items()}
        palette = isinstance(raster, LabelRaster) and bool(raster.colors)
        yield Problem("error", _unknown_values(pair, spec, named, palette=palette))
    if doubt is not None:
        yield Problem("warning", doubt)


def _unknown_values(pair: SceneFiles, spec: DatasetSpec, unknown: dict[str, float], *, palette: bool) -> str:
    """``unknown``: the share of each value that is no class."""
    shown = sorted(unknown, key=lambda value: -unknown[value])
    listed = ", ".join(f"{value} ({percent(unknown[value])})" for value in shown[:_MOST_SHOWN])
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    hint = "say what they mean in label_map, or list them under ignore"
    if pair.label_file.suffix.lower() in (".jpg", ".jpeg"):
        hint = "JPEG changes values: labels need PNG or TIFF"
    elif palette:
        hint = f"they are positions in its palette; {hint}"
    elif len(shown) > 30:
        hint = "so many values look like an image or probabilities rather than class ids"
    return f"{pair.label_file}: values {listed}{more} are none of the {len(spec.classes)} classes; {hint}"


def content_problems(scene: LabelledScene, facts: SceneFacts, pair: SceneFiles, spec: DatasetSpec) -> Iterator[Problem]:
    """What pixels and labels show that is odd: nothing known, one class only, constant bands, enlarged pixels."""
    known = sum(facts.counts[:-1])
    if not scene.has_labels:
        pass  # nothing about them can be odd
    elif not known:
        yield Problem("error", f"{pair.label_file}: no pixel has a known class where {pair.image.name} has data")
    elif facts.unknown > _MOST_UNKNOWN:
        yield Problem("warning", f"{pair.label_file}: the class of {percent(facts.unknown)} of its pixels is not known")
    if known and max(facts.counts[:-1]) == known:
        only = spec.classes[int(np.argmax(facts.counts[:-1]))].name
        doubt = mask_doubt(scene) if facts.counts[-1] else None
        yield Problem("warning", doubt or f"{pair.label_file}: has nothing but {only!r}")
    constant = [spec.bands[i] for i, deviation in enumerate(facts.std) if deviation < 1e-9]
    if constant:
        yield Problem("warning", f"{pair.image}: is the same everywhere in {', '.join(constant)}")
    if scene.rescale.rows.scale > 1.2:
        yield Problem(
            "warning",
            f"{pair.image}: has {facts.ground_sample_distance:.3g} m per pixel and is enlarged "
            f"{scene.rescale.rows.scale:.3g} times: a coarser ground sample distance would lose nothing",
        )
