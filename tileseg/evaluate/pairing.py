"""Bring two sides onto one grid: files that the user names, or a scene of a dataset and the run made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from affine import Affine

from tileseg.dataset.labelled import LabelledScene
from tileseg.dataset.raster_truth import RasterTruth, Truth
from tileseg.dataset.spec import DatasetSpec, ReadOptions, SceneEntry, SceneFiles
from tileseg.dataset.truth import is_placed, open_truth
from tileseg.dataset.vector_truth import VectorTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError, UsageError
from tileseg.evaluate.confusion import IGNORE
from tileseg.evaluate.delivered import DeliveredObjects
from tileseg.evaluate.meaning import Meaning
from tileseg.evaluate.objects import Objects, ObjectSource
from tileseg.evaluate.scores import Chances, Comparison
from tileseg.evaluate.sides import ALL, Side, bounds
from tileseg.grid import Grid
from tileseg.labels import CERTAIN, Labels
from tileseg.source.rescale import Axis, Rescale
from tileseg.window import Window

if TYPE_CHECKING:
    from pyproj import CRS

    from tileseg.mosaic import Mosaic
    from tileseg.source.protocol import PixelSource

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """The image of a scene, to be looked at."""

    scene: PixelSource
    low: npt.NDArray[np.float64]
    """(3,) value shown as black."""
    high: npt.NDArray[np.float64]
    """(3,) value shown as white."""

    @classmethod
    def of(cls, scene: PixelSource) -> Picture:
        """The first three bands, or the first as grey; other types than 8 bits are stretched over two deviations."""
        shown = cls._shown(len(scene.bands))
        if scene.dtype == "uint8":
            return cls(scene, np.zeros(3), np.full(3, 255.0))
        from tileseg.source.statistics import statistics

        mean, deviation = statistics(scene)
        return cls(scene, (mean - 2 * deviation)[shown], (mean + 2 * deviation)[shown])

    @staticmethod
    def _shown(bands: int) -> list[int]:
        return [0, 1, 2] if bands >= 3 else [0, 0, 0]

    def __call__(self, window: Window) -> npt.NDArray[np.uint8]:
        """(y, x, 3) red, green, blue of a window; light grey where there is no data."""
        pixels, valid = self.scene.read(window)
        values = pixels[..., self._shown(pixels.shape[-1])].astype(np.float64)
        values = np.nan_to_num((values - self.low) * (255 / np.maximum(self.high - self.low, 1e-12)))
        rgb = np.clip(values, 0, 255).astype(np.uint8)
        rgb[~valid] = 224
        return rgb


@dataclass(frozen=True)
class MappedChances:
    """Probabilities of a mosaic, summed over what counts as one class."""

    mosaic: Mosaic
    label: tuple[int, ...]
    """Class that is scored, for each class of the mosaic; IGNORE: none."""
    classes: int

    def __call__(self, window: Window) -> Chances:
        """(class, y, x) in units of 1/65535."""
        found = self.mosaic.read_probabilities(window)
        total = np.zeros((self.classes, *found.shape[1:]), np.uint32)
        for layer, label in zip(found, self.label, strict=True):
            if label != IGNORE:
                total[label] += layer
        return np.minimum(total, CERTAIN).astype(np.uint16)


def reference_grid(truth: Side, prediction: Side, image: PixelSource | None, pixel: float | None) -> Grid:
    """The grid on which two sides are compared: the truth's, else the prediction's, else the image's, else made.

    ``pixel``: metres per pixel where both are polygons. Raises UsageError, InputError.
    """
    if truth.grid is not None:
        if prediction.grid is not None and is_placed(truth.grid) != is_placed(prediction.grid):
            same = (truth.grid.height, truth.grid.width) == (prediction.grid.height, prediction.grid.width)
            if not same:
                raise InputError(
                    f"{prediction.path}: is {_by(prediction.grid)} pixels, {truth.path} is {_by(truth.grid)}, and only "
                    "one of them says where it lies; expected the same size, or both georeferenced"
                )
            return truth.grid if is_placed(truth.grid) else prediction.grid
        return truth.grid
    if prediction.grid is not None:
        return prediction.grid
    if image is not None:
        return image.grid
    if pixel is None:
        raise UsageError(
            "--labels: both are polygons, so there are no pixels to compare: say --image IMAGE (whose pixels are "
            "taken), or --pixel METRES"
        )
    return _grid_around(truth, prediction, pixel)


def _grid_around(truth: Side, prediction: Side, pixel: float) -> Grid:
    """A grid over all polygons, in the truth's coordinates if they are metres, else in UTM."""
    (crs, first), (other_crs, second) = bounds(truth.path), bounds(prediction.path)
    target: CRS | None = crs
    if crs is not None and not crs.is_projected and np.isfinite(first).all():
        from pyproj import CRS

        lon, lat = (first[0] + first[2]) / 2, (first[1] + first[3]) / 2
        zone = int((lon + 180) // 6) % 60 + 1
        target = CRS.from_epsg((32600 if lat >= 0 else 32700) + zone)
    boxes = [_moved(box, its, target) for box, its in ((first, crs), (second, other_crs)) if np.isfinite(box).all()]
    if not boxes:
        raise InputError(f"{truth.path}: has no polygon, nor has {prediction.path}")
    left, bottom = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, top = max(b[2] for b in boxes), max(b[3] for b in boxes)
    height, width = (max(1, math.ceil(size / pixel)) for size in (top - bottom, right - left))
    wkt = None if target is None else target.to_wkt("WKT2_2019")
    return Grid(height, width, Affine(pixel, 0, left, 0, -pixel, top), wkt)


def _moved(box: Box, crs: CRS | None, target: CRS | None) -> Box:
    if crs is None or target is None or crs == target:
        return box
    from pyproj import Transformer

    left, bottom, right, top = Transformer.from_crs(crs, target, always_xy=True).transform_bounds(*box)
    return left, bottom, right, top


def open_image(path: Path, *, trust_vrt: bool) -> PixelSource:
    """An image to look at: its first three bands, or one. Raises InputError."""
    from tileseg.source.scene import open_scene

    try:
        return open_scene(path, expected=3, trust_vrt=trust_vrt)
    except InputError:
        return open_scene(path, expected=1, trust_vrt=trust_vrt)


def pair_files(
    truth: Side, prediction: Side, meaning: Meaning, grid: Grid, image: PixelSource | None
) -> tuple[Comparison, tuple[str, ...]]:
    """Two files on one grid, and what there is to say about it. Raises InputError."""
    notices: list[str] = []
    sides = []
    for side, values in ((truth, meaning.truth), (prediction, meaning.prediction)):
        opened = _open(side, values, meaning, grid)
        if isinstance(opened, WarpedTruth):
            notices.append(f"{side.path}: is on another grid than what it is compared on ({_by(grid)}): warped to it")
        sides.append(opened)
    if truth.grid is not None and prediction.grid is not None and is_placed(truth.grid) != is_placed(prediction.grid):
        notices.append("only one of both says where it lies: compared pixel by pixel")
    shown, picture = image, None
    if shown is None and prediction.scene is not None:
        shown = open_image(prediction.scene, trust_vrt=prediction.trust_vrt)
    if shown is not None:
        if _same(shown.grid, grid):
            picture = Picture.of(shown)
        elif image is not None:
            notices.append(f"{shown.path}: is on another grid ({_by(shown.grid)}), so it is not shown")
    chances = _chances(prediction, meaning, sides[1])
    if chances is None:
        notices.append(f"{prediction.path}: holds no probabilities on this grid, so calibration is not measured")
    notices += _undelivered(prediction)
    truth_objects, predicted_objects = (
        _objects(truth, sides[0], meaning.truth, grid),
        _objects(prediction, sides[1], meaning.prediction, grid),
    )
    name = prediction.path.name
    return Comparison(name, grid, sides[0], sides[1], chances, truth_objects, predicted_objects, picture), tuple(
        notices
    )


@dataclass(frozen=True)
class NoPolygons:
    """The labels of a vector file without polygons."""

    background: int

    def read(self, window: Window) -> Labels:
        """(y, x) uint8: all the same."""
        return np.full((window.height, window.width), self.background, np.uint8)


@dataclass(frozen=True)
class SceneTruth:
    """The labels of a dataset's scene."""

    scene: LabelledScene

    def read(self, window: Window) -> Labels:
        """(y, x) uint8."""
        return self.scene.read_labels(window)


def pair_scene(scene: LabelledScene, prediction: Side, meaning: Meaning) -> tuple[Comparison, tuple[str, ...]]:
    """A scene of a dataset at its own ground sample distance, and the run made of it; and what there is to say.

    Raises InputError.
    """
    opened = _open(prediction, meaning.prediction, meaning, scene.grid)
    pair = Comparison(
        scene.name,
        scene.grid,
        SceneTruth(scene),
        opened,
        _chances(prediction, meaning, opened),
        _drawn_objects(scene.truth),
        _objects(prediction, opened, meaning.prediction, scene.grid),
        Picture.of(scene.scene),
        scene.place,
        scene.drawn,
    )
    return pair, tuple(_undelivered(prediction))


def _open(side: Side, values: Mapping[str, int], meaning: Meaning, grid: Grid) -> Truth:
    """A side's labels on a grid, read as the labels of a dataset are."""
    infos = meaning.classes
    if side.empty:
        return NoPolygons(next((i for i, info in enumerate(infos) if info.background), IGNORE))
    spec = DatasetSpec(classes=infos, scenes=(SceneEntry(image="-", labels=str(side.labels)),))
    if ALL in values:
        label = values[ALL]
        reading = ReadOptions.model_validate({"class": infos[label].name})
    else:
        reading = ReadOptions(label_map=dict(values), attribute=side.attribute, trust_vrt=side.trust_vrt)
    # Called by the name of what it is compared with, for what may be said of them.
    listed = SceneFiles(side.path.name, "validate", Path("the other side"), side.labels, reading)
    whole = Rescale(Axis(grid.height, 1.0), Axis(grid.width, 1.0))
    return open_truth(listed, spec, grid, grid, whole)


def _objects(side: Side, opened: Truth, values: Mapping[str, int], grid: Grid) -> ObjectSource | None:
    """The polygons of a side, where it has any: those that a run delivered, or those of a file."""
    if side.delivered is None:
        return _drawn_objects(opened)
    own = side.delivered.grid
    # Where only one of both says where it lies, they are compared pixel by pixel.
    return DeliveredObjects(side.delivered, values, grid if is_placed(own) == is_placed(grid) else own)


def _undelivered(prediction: Side) -> list[str]:
    """What to say of a run whose polygons cannot be scored as they were delivered."""
    if prediction.mosaic is None:
        return []
    if prediction.delivered is None:
        return [f"{prediction.path}: its polygons are not there, so its labels are traced for the objects' scores"]
    skipped = prediction.delivered.skipped
    if not skipped:
        return []
    return [f"{prediction.path}: no polygons of {', '.join(skipped)} were asked for, so none of these objects is found"]


def _drawn_objects(labels: Truth) -> Objects | None:
    if not isinstance(labels, VectorTruth):
        return None
    areas, ids = labels.areas
    return Objects(areas, ids.astype(np.int64))


def _chances(prediction: Side, meaning: Meaning, opened: Truth) -> MappedChances | None:
    if prediction.mosaic is None or not isinstance(opened, RasterTruth):
        return None
    from tileseg.mosaic import Mosaic

    mosaic = Mosaic(prediction.mosaic)
    if mosaic.keep == "labels":
        return None
    labels = tuple(meaning.prediction[str(i)] for i in range(len(mosaic.classes)))
    return MappedChances(mosaic, labels, len(meaning.classes))


def _same(one: Grid, other: Grid) -> bool:
    if (one.height, one.width) != (other.height, other.width):
        return False
    if not is_placed(one) or not is_placed(other):
        return True
    corners = [(0, 0), (one.width, 0), (0, one.height)]
    shift = ~other.transform @ one.transform
    near = all(max(abs(a - b) for a, b in zip(shift @ corner, corner, strict=True)) < 0.1 for corner in corners)
    return near and (one.crs is None or other.crs is None or one.crs == other.crs)


def _by(grid: Grid) -> str:
    return f"{grid.width} x {grid.height}"
