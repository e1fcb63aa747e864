"""Look at a whole dataset before anything is trained on it: what there is, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely

from tileseg.card import ClassInfo
from tileseg.dataset.doubts import mask_doubt, nodata_doubt, percent
from tileseg.dataset.labelled import LabelledScene, open_image, open_labelled
from tileseg.dataset.raster_truth import RasterTruth
from tileseg.dataset.spec import IGNORE, DatasetSpec, SceneFiles, Split, is_there, list_pairs, parse_gsd, read_spec
from tileseg.dataset.truth import is_placed
from tileseg.dataset.vector_truth import VectorTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.label_raster import LabelRaster
from tileseg.window import tile

Level = Literal["error", "warning"]

_BLOCK = 1024
"""Pixels: side of what is read at once."""
_MOST_UNKNOWN = 0.95
"""Share of pixels without a known class that is worth a word."""
_MOST_SHOWN = 6


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
    split: Split
    image: str
    labels: str
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
    """Of the labels: ``raster``, ``raster on another grid``, or the number of polygons."""
    counts: tuple[int, ...]
    """Pixels of each class, and last those whose class is not known."""
    mean: tuple[float, ...]
    """Of each band, over pixels with data."""
    std: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each class, of the pixels whose class is known; zeros where none is."""
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
    """Of the scenes that can be read."""
    findings: tuple[Problem, ...]
    scenes: tuple[LabelledScene, ...]
    """The same scenes, to be drawn."""

    @property
    def errors(self) -> int:
        """How many findings keep the dataset from being used."""
        return sum(finding.level == "error" for finding in self.findings)

    def shares(self, split: Split) -> tuple[float, ...]:
        """Of each class, of all pixels of a split whose class is known."""
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


def check_dataset(
    path: Path,
    *,
    gsd: float | Literal["native"] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,  # noqa: ARG005
) -> DatasetReport:
    """Read every pixel and label of a dataset once, and list all that is wrong.

    ``progress`` is told how many scenes of how many are done, and the next one's name. Raises InputError only where
    the TOML itself cannot be understood.
    """
    spec = read_spec(path)
    target = parse_gsd(gsd, spec)
    pairs, problems = list_pairs(spec, path.parent)
    findings = [Problem("error", problem) for problem in problems]
    scenes, facts = [], []
    for done, pair in enumerate(pairs):
        progress(done, len(pairs), pair.name)
        scene, told, found = _check_pair(pair, spec, target)
        findings += found
        if scene is not None and told is not None:
            scenes.append(scene)
            facts.append(told)
    progress(len(pairs), len(pairs), "")
    findings += _check_together(spec, path, scenes, facts, complete=not any(f.level == "error" for f in findings))
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
            if not is_there(pair.labels):
                found.append(Problem("error", f"{pair.labels}: is not there; expected the labels of {pair.image.name}"))
        return None, None, found
    findings = [*_georeference(scene, pair, gsd), *_label_values(scene, pair, spec)]
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
        split=scene.split,
        image=str(pair.image),
        labels=str(pair.labels),
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
    return scene, facts, [*findings, *_content(scene, facts, pair, spec)]


def _source(scene: LabelledScene) -> str:
    truth = scene.truth
    if isinstance(truth, VectorTruth):
        return f"{truth.count} polygon{'s' * (truth.count != 1)}"
    return "raster on another grid" if isinstance(truth, WarpedTruth) else "raster"


def _georeference(scene: LabelledScene, pair: SceneFiles, gsd: float | None) -> Iterator[Problem]:
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
    image, truth = scene.scene.grid, scene.truth
    if isinstance(truth, VectorTruth):
        if image.crs is None:
            return pair.image, f"{nothing}; its polygons are taken to be in its own coordinates"
        if truth.system == "named":
            return None
        wrong = "is in degrees by what it says (or, as GeoJSON, does not say), but its numbers are too large for that"
        said = nothing if truth.system == "unnamed" else wrong
        return pair.labels, f"{said}; its polygons are taken to be in the image's coordinates"
    assert isinstance(truth, RasterTruth | WarpedTruth)
    known, told = _knows(image), _knows(truth.raster.grid)
    if known == told:
        return None
    shared = "be on one grid" if isinstance(truth, RasterTruth) else "have the same coordinates"
    return pair.labels if told < known else pair.image, f"{nothing}; image and labels are taken to {shared}"


def _knows(grid: Grid) -> int:
    """How much a file says about where its pixels lie: nothing, where in some coordinates, where on the Earth."""
    return int(is_placed(grid)) + int(grid.crs is not None)


def _label_values(scene: LabelledScene, pair: SceneFiles, spec: DatasetSpec) -> Iterator[Problem]:
    """Every value of a label raster that is no class, not only the first."""
    truth = scene.truth
    if not isinstance(truth, (RasterTruth, WarpedTruth)):
        return
    raster, unknown, total, doubt = truth.raster, dict[int, int](), 0, None
    try:
        for window in tile(raster.grid.extent, _BLOCK, _BLOCK):
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
        yield Problem("error", _tell_unknown(pair, spec, named, palette=palette))
    if doubt is not None:
        yield Problem("warning", doubt)


def _tell_unknown(pair: SceneFiles, spec: DatasetSpec, unknown: dict[str, float], *, palette: bool) -> str:
    """``unknown``: the share of each value that is no class."""
    shown = sorted(unknown, key=lambda value: -unknown[value])
    listed = ", ".join(f"{value} ({percent(unknown[value])})" for value in shown[:_MOST_SHOWN])
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    hint = "say what they mean in label_map, or list them under ignore"
    if pair.labels.suffix.lower() in (".jpg", ".jpeg"):
        hint = "JPEG changes values: labels need PNG or TIFF"
    elif palette:
        hint = f"they are positions in its palette; {hint}"
    elif len(shown) > 30:
        hint = "so many values look like an image or probabilities rather than class ids"
    return f"{pair.labels}: values {listed}{more} are none of the {len(spec.classes)} classes; {hint}"


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


def _content(scene: LabelledScene, facts: SceneFacts, pair: SceneFiles, spec: DatasetSpec) -> Iterator[Problem]:
    known = sum(facts.counts[:-1])
    if not known:
        yield Problem("error", f"{pair.labels}: no pixel has a known class where {pair.image.name} has data")
    elif facts.unknown > _MOST_UNKNOWN:
        yield Problem("warning", f"{pair.labels}: the class of {percent(facts.unknown)} of its pixels is not known")
    if known and max(facts.counts[:-1]) == known:
        only = spec.classes[int(np.argmax(facts.counts[:-1]))].name
        doubt = mask_doubt(scene) if facts.counts[-1] else None
        yield Problem("warning", doubt or f"{pair.labels}: has nothing but {only!r}")
    constant = [spec.bands[i] for i, deviation in enumerate(facts.std) if deviation < 1e-9]
    if constant:
        yield Problem("warning", f"{pair.image}: is the same everywhere in {', '.join(constant)}")
    if scene.rescale.rows.scale > 1.2:
        yield Problem(
            "warning",
            f"{pair.image}: has {facts.ground_sample_distance:.3g} m per pixel and is enlarged "
            f"{scene.rescale.rows.scale:.3g} times: a coarser ground sample distance would lose nothing",
        )


def _check_together(
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
