"""A dataset: its classes and its labelled scenes, ready to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tileseg.card import ClassInfo
from tileseg.dataset.labelled import CACHE, LabelledScene, open_labelled
from tileseg.dataset.spec import DatasetSpec, list_pairs, parse_gsd, read_spec
from tileseg.errors import InputError


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled scenes with one meaning of classes and bands; picklable."""

    path: Path
    """The TOML."""
    spec: DatasetSpec
    train: tuple[LabelledScene, ...]
    validate: tuple[LabelledScene, ...]
    ground_sample_distance: float | None
    """Metres per pixel of all scenes' grids; None: each has its own."""
    dtype: str
    """NumPy type of all pixels."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes, in the order of their ids."""
        return self.spec.classes

    @property
    def bands(self) -> tuple[str, ...]:
        """What the bands mean."""
        return self.spec.bands

    @property
    def credits(self) -> tuple[str, ...]:
        """Who made the data, and under which licence."""
        return self.spec.credits

    def filled(self, values: Sequence[float]) -> Dataset:
        """The same, with these values (one, or one per band) where images have no data."""
        fill = tuple(values)
        train, validate = (tuple(replace(s, fill=fill) for s in part) for part in (self.train, self.validate))
        return replace(self, train=train, validate=validate)

    @property
    def scenes(self) -> tuple[LabelledScene, ...]:
        """All scenes, those for training first."""
        return (*self.train, *self.validate)


def load_dataset(path: Path, *, gsd: float | Literal["native"] | None = None) -> Dataset:
    """Read ``DATASET.toml`` and open all its scenes; no pixels are read yet.

    ``gsd`` (metres per pixel, or ``native``) overrides what the file says. Raises InputError in one line for the first
    thing that cannot be used; ``tileseg dataset check`` lists all.
    """
    spec = read_spec(path)
    target = parse_gsd(gsd, spec)
    pairs, problems = list_pairs(spec, path.parent)
    if problems:
        raise InputError(problems[0])
    scenes = [open_labelled(pair, spec, target) for pair in pairs]
    if not scenes:
        raise InputError(f"{path}: lists no scenes")
    mixed = next((scene for scene in scenes if scene.dtype != scenes[0].dtype), None)
    if mixed is not None:
        raise InputError(
            f"{mixed.scene.path}: its pixels are {mixed.dtype}, those of {scenes[0].scene.path} {scenes[0].dtype}; "
            "expected one type in a dataset"
        )
    scenes = _with_cache(sorted(scenes, key=lambda scene: scene.split))
    return Dataset(
        path=path,
        spec=spec,
        train=tuple(scene for scene in scenes if scene.split == "train"),
        validate=tuple(scene for scene in scenes if scene.split == "validate"),
        ground_sample_distance=target,
        dtype=scenes[0].dtype,
    )


def _with_cache(scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """Keep tiles of as many scenes as fit; of the others too few would be found again to be worth it."""
    left, marked = CACHE, []
    for scene in scenes:
        fits = scene.bytes <= left
        left -= scene.bytes if fits else 0
        marked.append(replace(scene, cached=fits))
    return marked
