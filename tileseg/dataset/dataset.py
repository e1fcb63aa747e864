"""A dataset: its classes and its labelled scenes, ready to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tileseg.card import ClassInfo
from tileseg.dataset.labelled import CACHE, LabelledScene, open_labelled
from tileseg.dataset.spec import DatasetSpec, list_pairs, parse_gsd, read_spec
from tileseg.errors import InputError, UsageError, did_you_mean

_MOST_LISTED = 24
"""Places named in a message."""


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

    @property
    def places(self) -> tuple[str, ...]:
        """Where on Earth the scenes lie, each place once."""
        return tuple(dict.fromkeys(scene.place for scene in self.scenes))

    def of_places(self, names: Sequence[str], option: str) -> tuple[LabelledScene, ...]:
        """All scenes of some places. Raises UsageError, which names the ``option``, where there is no such place."""
        for name in names:
            if name not in self.places:
                raise UsageError(
                    f"{option} {name}: no such place in {self.path}; expected some of "
                    f"{', '.join(self.places[:_MOST_LISTED])}{', ...' * (len(self.places) > _MOST_LISTED)}"
                    f"{did_you_mean(name, self.places)}"
                )
        return tuple(scene for scene in self.scenes if scene.place in names)

    def leaving_out(self, names: Sequence[str]) -> Dataset:
        """The same, with the scenes of some places to validate on and all others to train on, however they are marked.

        Raises UsageError where there is no such place, or nothing else to train on.
        """
        left_out = self.of_places(names, "--leave-out")
        rest = tuple(scene for scene in self.scenes if scene not in left_out)
        left_out = tuple(scene for scene in left_out if scene.has_labels)  # others cannot be scored
        if not rest:
            raise UsageError(f"--leave-out {','.join(names)}: nothing is left of {self.path} to train on")
        return replace(
            self,
            train=tuple(replace(scene, split="train") for scene in rest),
            validate=tuple(replace(scene, split="validate") for scene in left_out),
        )


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
