"""Look at a whole dataset before anything is trained on it: what there is, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from tileseg.dataset.facts import DatasetReport, Problem, SceneFacts
from tileseg.dataset.labelled import LabelledScene, open_image, open_labelled
from tileseg.dataset.scene_problems import content_problems, georeference_problems, label_problems
from tileseg.dataset.spec import IGNORE, DatasetSpec, SceneFiles, is_there, list_pairs, parse_gsd, read_spec
from tileseg.dataset.together import check_together
from tileseg.dataset.vector_truth import VectorTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError
from tileseg.window import tile

_BLOCK = 1024
"""Pixels: side of what is read at once."""


def check_dataset(
    path: Path,
    *,
    gsd: float | Literal["native"] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,  # noqa: ARG005
) -> DatasetReport:
    """Read every pixel and label of a dataset once, and list all that is wrong.

    ``progress`` is called with how many scenes of how many are done, and the next one's name. Raises InputError only
    where the TOML itself cannot be understood.
    """
    spec = read_spec(path)
    target = parse_gsd(gsd, spec)
    pairs, problems = list_pairs(spec, path.parent)
    findings = [Problem("error", problem) for problem in problems]
    scenes, facts = [], []
    for done, pair in enumerate(pairs):
        progress(done, len(pairs), pair.name)
        scene, fact, found = _check_pair(pair, spec, target)
        findings += found
        if scene is not None and fact is not None:
            scenes.append(scene)
            facts.append(fact)
    progress(len(pairs), len(pairs), "")
    findings += check_together(spec, path, scenes, facts, complete=not any(f.level == "error" for f in findings))
    return DatasetReport(
        path=path,
        classes=spec.classes,
        bands=spec.bands,
        ground_sample_distance=target,
        facts=tuple(facts),
        findings=tuple(findings),
        scenes=tuple(scenes),
    )


def _check_pair(
    pair: SceneFiles, spec: DatasetSpec, gsd: float | None
) -> tuple[LabelledScene | None, SceneFacts | None, list[Problem]]:
    try:
        scene = replace(open_labelled(pair, spec, gsd), cached=False)
    except InputError as error:
        found = [Problem("error", str(error))]
        # The image and the labels may both be at fault; the labels are opened only after the image.
        try:
            open_image(pair, spec)
        except InputError:
            if pair.labels is not None and not is_there(pair.labels):
                found.append(Problem("error", f"{pair.labels}: is not there; expected the labels of {pair.image.name}"))
        return None, None, found
    findings = [*georeference_problems(scene, pair, gsd), *label_problems(scene, pair, spec)]
    if any(finding.level == "error" for finding in findings):
        return None, None, findings
    try:
        mean, std = _read_image(scene)
        counts = _count(scene, len(spec.classes))
    except InputError as error:
        return None, None, [*findings, Problem("error", str(error))]
    crs = scene.grid.crs
    facts = SceneFacts(
        name=scene.name,
        place=scene.place,
        split=scene.split,
        image=str(pair.image),
        labels="" if pair.labels is None else str(pair.labels),
        size=(scene.scene.grid.height, scene.scene.grid.width),
        bands=scene.scene.bands,
        dtype=scene.dtype,
        crs=None if crs is None else (crs.to_string() if len(crs.to_string()) < 24 else crs.name),
        ground_sample_distance=scene.ground_sample_distance,
        grid=(scene.grid.height, scene.grid.width),
        source=_source(scene),
        counts=counts,
        mean=mean,
        std=std,
    )
    return scene, facts, [*findings, *content_problems(scene, facts, pair, spec)]


def _source(scene: LabelledScene) -> str:
    truth = scene.truth
    if not scene.has_labels:
        return "none"
    if isinstance(truth, VectorTruth):
        return f"{truth.count} polygon{'s' * (truth.count != 1)}"
    return "raster on another grid" if isinstance(truth, WarpedTruth) else "raster"


def _read_image(scene: LabelledScene) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the bands, over all pixels with data. Raises InputError where the file is damaged."""
    image = scene.scene
    count, total, squares = 0, np.zeros(len(image.bands)), np.zeros(len(image.bands))
    for window in tile(image.grid.extent, _BLOCK, _BLOCK):
        pixels, valid = image.read(window)
        values = (pixels.reshape(-1, len(image.bands)) if valid.all() else pixels[valid]).astype(np.float64)
        count += len(values)
        total += values.sum(axis=0)
        squares += np.einsum("ij,ij->j", values, values)
    if not count:
        raise InputError(f"{image.path}: has no valid pixel (all are nodata, masked or not finite)")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def _count(scene: LabelledScene, classes: int) -> tuple[int, ...]:
    counts = np.zeros(256, np.int64)
    for window in scene.windows(_BLOCK):
        counts += np.bincount(scene.read_labels(window).ravel(), minlength=256)
    return (*counts[:classes].tolist(), int(counts[IGNORE]))
