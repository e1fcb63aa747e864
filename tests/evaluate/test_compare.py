"""A scene scored in blocks, against whole arrays and GDAL's polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from fakes import smooth_noise
from pyproj import CRS
from scipy import ndimage
from sklearn import metrics

from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.evaluate import blocks
from tileseg.evaluate.compare import score
from tileseg.evaluate.confusion import iou
from tileseg.evaluate.objects import Objects, match
from tileseg.evaluate.scores import Comparison, Options, SceneScores
from tileseg.grid import Grid
from tileseg.polygons.quantity import Quantity
from tileseg.window import Window

CLASSES = (
    ClassInfo(name="ground", color="#c8b48c", background=True),
    ClassInfo(name="roof", color="#d73027"),
    ClassInfo(name="water", color="#4575b4"),
)
HEIGHT, WIDTH = 150, 211


@dataclass(frozen=True)
class Held:
    labels: np.ndarray

    def read(self, window: Window) -> np.ndarray:
        return self.labels[window.slices]


def _labels(seed: int) -> np.ndarray:
    noise = ndimage.uniform_filter(smooth_noise(HEIGHT, WIDTH, 1, seed)[..., 0].astype(float), 5)
    return np.digitize(noise, [115, 135]).astype(np.uint8)


def _grid(transform: Affine | None = None, crs: str | None = None) -> Grid:
    return Grid(HEIGHT, WIDTH, transform or Affine.identity(), None if crs is None else CRS(crs).to_wkt())


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = _labels(1), _labels(1)
    other = _labels(2)
    prediction[:, 70:] = other[:, 70:]
    truth[20:60, 30:95] = 255
    prediction[100:130, 150:] = 255
    return truth, prediction


def _score(sides: tuple[np.ndarray, np.ndarray], options: Options | None = None, **facts) -> SceneScores:
    pair = Comparison("scene", facts.pop("grid", _grid()), Held(sides[0]), Held(sides[1]), **facts)
    return score(pair, CLASSES, options)


def test_pixels_and_what_is_left_out(sides) -> None:
    truth, prediction = sides
    found = _score(sides)
    known = (truth != 255) & (prediction != 255)
    assert np.array_equal(found.matrix, metrics.confusion_matrix(truth[known], prediction[known], labels=range(3)))
    assert found.unknown == (truth == 255).sum()
    assert found.missing == ((prediction == 255) & (truth != 255)).sum() > 0


def test_boundary_iou_as_its_authors_compute_it() -> None:
    """github.com/bowenc0221/boundary-iou: a 3 x 3 erosion repeated, the mask without what is left."""
    truth, prediction = _labels(3), _labels(4)
    # Frames of another class, since there the edge of the picture is a border and here it is none.
    for labels in (truth, prediction):
        labels[:9] = labels[-9:] = labels[:, :9] = labels[:, -9:] = 0
    found = _score((truth, prediction), Options(band=Quantity(4, in_pixels=True)))
    for k in (1, 2):
        bands = [m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=4) for m in (truth == k, prediction == k)]
        assert found.band[k].tolist() == [(bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum()]


def test_nothing_depends_on_blocks_or_threads(sides, monkeypatch) -> None:
    whole = _score(sides, Options(threads=1))
    monkeypatch.setattr(blocks, "BLOCK", 32)
    parts = _score(sides, Options(threads=3))
    assert np.array_equal(whole.matrix, parts.matrix)
    assert np.array_equal(whole.band, parts.band)
    for one, other in zip(whole.pixels, parts.pixels, strict=True):
        assert np.array_equal(one.from_truth.values, other.from_truth.values)
        assert np.array_equal(one.from_prediction.counts, other.from_prediction.counts)
    for k in (1, 2):
        assert sorted(whole.matchings[k].matched) == sorted(parts.matchings[k].matched)
        assert whole.matchings[k].predictions == parts.matchings[k].predictions
    assert (whole.unknown, whole.missing) == (parts.unknown, parts.missing)


def test_traced_polygons_are_those_of_gdal(sides) -> None:
    truth, prediction = (side.copy() for side in sides)
    unknown = (truth == 255) | (prediction == 255)
    found = _score(sides)
    for k in (1, 2):
        shapes = []
        for side in (truth, prediction):
            mask = (side == k) & ~unknown
            traced = rasterio.features.shapes(mask.astype(np.uint8), mask=mask)
            shapes.append(np.array([shapely.geometry.shape(s) for s, _ in traced]))
        expected = match(*shapes)
        assert (found.matchings[k].truths, found.matchings[k].predictions) == (expected.truths, expected.predictions)
        assert sorted(found.matchings[k].matched) == pytest.approx(sorted(expected.matched))
        assert sorted(found.matchings[k].best) == pytest.approx(sorted(expected.best))


def test_polygons_where_nothing_is_known_do_not_count() -> None:
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[10:40, 20:60] = 1
    truth[:, 100:] = 255
    prediction = truth.copy()
    prediction[:, 100:] = 0
    prediction[50:70, 120:160] = 1
    shapes = np.empty(2, object)
    shapes[:] = [shapely.box(20, 10, 60, 40), shapely.box(120, 50, 160, 70)]
    found = _score((truth, prediction), predicted_objects=Objects(shapes, np.array([1, 1])))
    assert found.matchings[1].predictions == 1
    assert found.matchings[1].scores() == (1, 1, 1)


def test_small_polygons_are_left_out(sides) -> None:
    every, large = _score(sides), _score(sides, Options(min_area=Quantity(30, in_pixels=True)))
    assert 0 < large.matchings[1].truths < every.matchings[1].truths


def test_a_class_that_is_nowhere_and_one_that_is_missed() -> None:
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[30:60, 50:90] = 1
    found = _score((truth, np.zeros_like(truth)))
    assert iou(found.matrix)[1] == 0
    assert np.isnan(iou(found.matrix)[2])
    assert np.isnan(found.pixels[1].hausdorff())
    assert found.without_border[1:] == (1, 0)
    assert found.matchings[1].scores()[1] == 0
    assert np.isnan(found.matchings[1].scores()[0])


def test_metres_on_the_ground() -> None:
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[30:60, 50:90] = 1
    prediction = np.roll(truth, 8, axis=1)
    # Web Mercator at 60 degrees north: a metre of the map is half a metre on the ground.
    grid = _grid(Affine(2, 0, 0, 0, -2, 8_399_737), "EPSG:3857")
    found = _score((truth, prediction), grid=grid)
    assert found.pixels[1].hausdorff() == 8
    assert found.metres is not None
    assert found.metres[1].hausdorff() == pytest.approx(8.0, rel=0.01)
    # Degrees: pixels are narrower than high, so distances are measured anew.
    degrees = _grid(Affine(1e-5, 0, 10, 0, -1e-5, 60), "EPSG:4326")
    found = _score((truth, prediction), grid=degrees)
    assert found.metres is not None
    assert found.metres[1].hausdorff() == pytest.approx(8 * 0.558, rel=0.01)


def test_scenes_together_pool_pixels_and_distances(sides) -> None:
    swapped = (sides[1], sides[0])
    both = _score(sides) + _score(swapped)
    assert np.array_equal(both.matrix, both.matrix.T)
    assert both.pixels[1].from_truth.counts.sum() == both.pixels[1].from_prediction.counts.sum()
    assert both.matchings[1].truths == both.matchings[1].predictions


def test_the_worst_window_comes_first(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "TILE", 50)
    truth = np.zeros((150, 200), np.uint8)
    truth[5:45, 5:45] = truth[55:95, 105:145] = truth[105:145, 155:195] = 1
    prediction = truth.copy()
    prediction[55:95, 105:145] = 0
    prediction[105:125, 155:195] = 0
    pair = Comparison("scene", Grid(150, 200, Affine.identity()), Held(truth), Held(prediction))
    found = score(pair, CLASSES)
    assert [w.window for w in found.worst] == [Window(50, 100, 50, 50), Window(100, 150, 50, 50)]
    assert [w.iou for w in found.worst] == [0, 0.5]
    assert [(w.window, w.iou) for w in found.best] == [(Window(0, 0, 50, 50), 1)]


def test_too_wide_a_band_is_refused(sides) -> None:
    with pytest.raises(UsageError, match="--boundary 5000px"):
        _score(sides, Options(band=Quantity(5000, in_pixels=True)))
