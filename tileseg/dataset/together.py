"""What shows only when the scenes of a dataset are seen together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import shapely

from tileseg.dataset.doubts import percent
from tileseg.dataset.facts import Problem, SceneFacts
from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.spec import DatasetSpec


def check_together(
    spec: DatasetSpec, path: Path, scenes: Sequence[LabelledScene], facts: Sequence[SceneFacts], *, complete: bool
) -> Iterator[Problem]:
    """What shows only when scenes are seen together; classes that are missing, only where all scenes are read."""
    for fact in facts[1:]:
        if fact.dtype != facts[0].dtype:
            yield Problem(
                "error",
                f"{fact.image}: its pixels are {fact.dtype}, those of {facts[0].image} {facts[0].dtype}; expected one "
                "type in a dataset",
            )
    by_split = {split: [f for f in facts if f.split == split] for split in ("train", "validate")}
    if not complete:
        return
    if not by_split["train"]:
        yield Problem("error", f'{path}: has no scenes to train on (split = "train")')
    if not by_split["validate"]:
        yield Problem("warning", f'{path}: has no scenes to validate on (split = "validate")')
    unlabelled = [scene for scene in scenes if not scene.has_labels]
    if unlabelled:
        yield Problem(
            "warning",
            f"{unlabelled[0].scene.path}: has no labels, so that it can be trained on only with --teacher MODEL"
            f"{f' ({len(unlabelled) - 1} more like it)' * (len(unlabelled) > 1)}",
        )
    if len(unlabelled) == len(by_split["train"]):
        return  # no class can be missing
    for i, info in enumerate(spec.classes):
        there = {split: any(fact.counts[i] for fact in found) for split, found in by_split.items()}
        if by_split["train"] and not there["train"]:
            yield Problem("warning", f"{path}: no scene for training has a pixel of {info.name!r}")
        elif by_split["validate"] and not there["validate"]:
            yield Problem("warning", f"{path}: no scene for validation has a pixel of {info.name!r}")
    yield from _leaks(scenes)


def _leaks(scenes: Sequence[LabelledScene]) -> Iterator[Problem]:
    """Scenes for validation that show the same ground, or the same file, as one for training."""
    train = [scene for scene in scenes if scene.split == "train"]
    areas = [_area(scene) for scene in train]
    for scene in scenes:
        if scene.split == "train":
            continue
        area = _area(scene)
        for other, theirs in zip(train, areas, strict=True):
            same_file = scene.scene.storage == other.scene.storage
            overlap = area is not None and theirs is not None and scene.grid.crs == other.grid.crs
            share = area.intersection(theirs).area / area.area if overlap and area is not None else 0.0
            if same_file or share > 0.01:
                what = "is also" if same_file else f"shows {percent(share)} of"
                yield Problem(
                    "warning",
                    f"{scene.scene.path}: {what} {other.scene.path}, which is trained on: scores would be too good",
                )


def _area(scene: LabelledScene) -> shapely.Polygon | None:
    """The ground that a scene shows, in its own coordinates; None where nothing says where it lies."""
    grid = scene.grid
    if grid.crs is None:
        return None
    corners = ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))
    return shapely.Polygon([grid.transform @ corner for corner in corners])
