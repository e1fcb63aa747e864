"""Scenes as a network sees them, with labels where there are any: from rasters, or from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.batch.sources import read_sources
from tileseg.card import ModelCard, Scaling
from tileseg.dataset.dataset import load_dataset
from tileseg.dataset.raster_truth import Truth
from tileseg.dataset.spec import IGNORE
from tileseg.errors import InputError, UsageError
from tileseg.labels import Labels
from tileseg.run.prepare import base_scale
from tileseg.source.protocol import PixelSource
from tileseg.source.rescale import Axis, Rescale
from tileseg.source.scene import open_scene, reflected
from tileseg.source.statistics import scaling_for
from tileseg.spec import RunSpec
from tileseg.window import Window, tile


@dataclass(frozen=True, slots=True, eq=False)
class SeenScene:
    """A scene at the ground sample distance of a model, and how its values are scaled."""

    name: str
    """Unique among the scenes."""
    source: PixelSource
    """At its own ground sample distance."""
    rescale: Rescale
    """From its own pixels to those that the network sees."""
    scaling: Scaling
    """How its values become the network's input."""
    truth: Truth | None
    """Labels on the pixels that the network sees; None: there are none."""
    held_out: bool
    """Whether its dataset keeps it for validation."""

    def windows(self, side: int) -> list[Window]:
        """What the network sees of it, cut into windows that are smaller at the right and at the bottom."""
        return tile(Window(0, 0, self.rescale.rows.count, self.rescale.cols.count), side, side)

    def read(self, window: Window, side: int) -> Seen:
        """A window of at most ``side`` pixels as ``side`` x ``side``, continued by reflection.

        Raises InputError where the scene cannot be read.
        """
        if self.rescale.identity:
            pixels, valid = self.source.read(window)
        else:
            pixels, valid = self.rescale.image(*self.source.read(self.rescale.source(window)), window)
        labels = np.full(valid.shape, IGNORE, np.uint8) if self.truth is None else self.truth.read(window).copy()
        if not valid.all():
            pixels = pixels.copy()
            pixels[~valid] = np.asarray(self.scaling.zero).astype(pixels.dtype)
            labels[~valid] = IGNORE
        rows, cols = (reflected(0, side, length, side) for length in valid.shape)
        short = (side - window.height, side - window.width)
        beyond = ((0, short[0]), (0, short[1]))
        return Seen(
            scaled(pixels[rows[:, None], cols], self.scaling),
            np.pad(labels, beyond, constant_values=IGNORE),
            np.pad(valid, beyond, constant_values=False),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A window of a scene."""

    image: npt.NDArray[np.float32]
    """(rows, columns, band), as the network takes it."""
    labels: Labels
    """(rows, columns); IGNORE where the class is not known."""
    valid: npt.NDArray[np.bool_]
    """(rows, columns), True where the scene has data."""


def scaled(pixels: npt.NDArray[Any], scaling: Scaling) -> npt.NDArray[np.float32]:
    """Pixel values (rows, columns, band) as a network takes them: what a run does on the network's device."""
    values = pixels.astype(np.float32)
    if scaling.kind == "window":
        values = np.clip(values, *np.asarray(scaling.limits, np.float32))
    gain = (1 / np.asarray(scaling.unit, np.float64)).astype(np.float32)
    return np.asarray((values - np.asarray(scaling.zero, np.float32)) * gain, np.float32)


def open_scenes(sources: Sequence[str], card: ModelCard, *, trust_vrt: bool = False) -> list[SeenScene]:
    """The scenes that a user named: rasters, folders, patterns and lists, or one dataset.

    Raises InputError or UsageError in one line where a scene does not fit the card.
    """
    datasets = [source for source in sources if Path(source).suffix.lower() == ".toml"]
    if datasets and len(sources) > 1:
        raise UsageError(f"--with {datasets[0]}: a dataset stands alone; list all scenes in it")
    return _of_dataset(Path(datasets[0]), card) if datasets else _rasters(sources, card, trust_vrt=trust_vrt)


def _rasters(sources: Sequence[str], card: ModelCard, *, trust_vrt: bool) -> list[SeenScene]:
    scenes: dict[str, SeenScene] = {}
    for entry in read_sources(sources):
        source = open_scene(entry.scene, expected=len(card.bands), names=card.bands, trust_vrt=trust_vrt)
        spec = RunSpec(scene=entry.scene, trust_vrt=trust_vrt)
        scale = float(base_scale(spec, card, source.grid)[0])
        rescale = Rescale(Axis(source.grid.height, scale), Axis(source.grid.width, scale))
        name = entry.names[0].removesuffix(".tileseg")
        name = entry.names[1].removesuffix(".tileseg") if name in scenes else name
        scenes[name] = SeenScene(name, source, rescale, scaling_for(card, source), None, held_out=False)
    return list(scenes.values())


def _of_dataset(path: Path, card: ModelCard) -> list[SeenScene]:
    dataset = load_dataset(path, gsd=card.ground_sample_distance)
    for what, theirs, ours in (
        ("classes", [info.name for info in dataset.classes], [info.name for info in card.classes]),
        ("bands", list(dataset.bands), list(card.bands)),
    ):
        if [name.casefold() for name in theirs] != [name.casefold() for name in ours]:
            raise InputError(
                f"{path}: its {what} are {', '.join(theirs)}, those of the model {card.name} {', '.join(ours)}; "
                "expected the same in the same order"
            )
    return [
        SeenScene(
            scene.name,
            scene.scene,
            scene.rescale,
            scaling_for(card, scene.scene),
            scene.truth if scene.has_labels else None,
            held_out=scene.split == "validate",
        )
        for scene in dataset.scenes
    ]
