"""What a look at a whole dataset finds: facts of scenes, and problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tileseg.card import ClassInfo
from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.spec import Split

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, or worth knowing."""

    level: Level
    """``error``: the dataset cannot be used as it is."""
    message: str
    """One line that names the file."""


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """What a labelled scene is like."""

    name: str
    place: str
    """Where on Earth it lies."""
    split: Split
    image: str
    labels: str
    """Empty where nothing is known of the image."""
    size: tuple[int, int]
    """(rows, columns) of the image."""
    bands: tuple[int, ...]
    """Bands of the file that are read."""
    dtype: str
    crs: str | None
    """Name of the coordinate reference system."""
    ground_sample_distance: float | None
    """Metres per pixel of the image."""
    grid: tuple[int, int]
    """(rows, columns) at the dataset's ground sample distance."""
    source: str
    """Where labels come from: ``raster``, ``raster on another grid``, the number of polygons, or ``none``."""
    counts: tuple[int, ...]
    """Pixels of each class, and last those whose class is not known."""
    mean: tuple[float, ...]
    """Mean of each band, over pixels with data."""
    std: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class among the pixels whose class is known; zeros where none is."""
        known = max(1, sum(self.counts[:-1]))
        return tuple(count / known for count in self.counts[:-1])

    @property
    def unknown(self) -> float:
        """Share of the pixels whose class is not known."""
        return self.counts[-1] / max(1, sum(self.counts))


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What ``tileseg dataset check`` says."""

    path: Path
    classes: tuple[ClassInfo, ...]
    bands: tuple[str, ...]
    ground_sample_distance: float | None
    """Metres per pixel to which scenes are resampled; None: each is read as it is."""
    facts: tuple[SceneFacts, ...]
    """Facts of the scenes that can be read."""
    findings: tuple[Problem, ...]
    scenes: tuple[LabelledScene, ...]
    """The same scenes, to be drawn."""

    @property
    def errors(self) -> int:
        """How many findings keep the dataset from being used."""
        return sum(finding.level == "error" for finding in self.findings)

    def shares(self, split: Split) -> tuple[float, ...]:
        """Share of each class among all pixels of a split whose class is known."""
        counts = np.array([f.counts[:-1] for f in self.facts if f.split == split] or [(0,) * len(self.classes)])
        total = counts.sum(axis=0)
        return tuple((total / max(1, total.sum())).tolist())

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        names = [info.name for info in self.classes]
        splits: tuple[Split, ...] = ("train", "validate")
        return {
            "dataset": str(self.path),
            "classes": names,
            "bands": list(self.bands),
            "ground_sample_distance": self.ground_sample_distance,
            "shares": {split: dict(zip(names, self.shares(split), strict=True)) for split in splits},
            "scenes": [
                {
                    **{name: getattr(fact, name) for name in fact.__slots__ if name != "counts"},
                    "pixels": dict(zip([*names, "ignore"], fact.counts, strict=True)),
                }
                for fact in self.facts
            ],
            "problems": [{"level": finding.level, "message": finding.message} for finding in self.findings],
        }
