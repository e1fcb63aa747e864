"""A run is scored by the polygons that it delivered, whatever their format and the grid that they are compared on."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from fakes import save_tiny, smooth_noise, write_scene
from rasterio.transform import from_origin

from tileseg.errors import InputError
from tileseg.evaluate.evaluate import EvaluateSpec, evaluate_labels
from tileseg.evaluate.objects import match
from tileseg.evaluate.results import Evaluation
from tileseg.run.scene import run
from tileseg.spec import RunSpec

HEIGHT, WIDTH = 90, 140
ORIGIN = (500_000, 4_000_000)
"""Of what write_scene writes: half a metre per pixel."""
FILES = ("polygons.geojson", "polygons.geojsonl", "polygons.gpkg", "polygons.parquet", "polygons.fgb")
LEAST = 40
"""Pixels: the run leaves out what is smaller, so its polygons are not its labels."""


def _houses() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, col in ((4, 8), (30, 20), (50, 70), (12, 100), (70, 118)):
        labels[row : row + 12, col : col + 17] = 1
    return labels


def _write(path: Path, labels: np.ndarray, pixel: float = 0.5) -> Path:
    height, width = labels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", crs="EPSG:32637",
        transform=from_origin(*ORIGIN, pixel, pixel),
    ) as file:  # fmt: skip
        file.write(labels, 1)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that wrote all formats."""
    folder = tmp_path_factory.mktemp("finished")
    save_tiny(folder / "model")
    scene = write_scene(folder / "scene.tif", smooth_noise(HEIGHT, WIDTH, 3))
    run(
        RunSpec.parse(
            {
                "scene": scene, "out": folder / "run", "model": str(folder / "model"), "workers": 0,
                "precision": "float32", "formats": "geojson,geojsonseq,gpkg,parquet,fgb", "min_area": f"{LEAST}px",
            }
        )
    )  # fmt: skip
    return folder / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A run's folder to spoil; large things are linked."""
    out = tmp_path / "run"
    out.mkdir()
    for path in finished.iterdir():
        if path.name != ".state":
            (out / path.name).symlink_to(path)
    return out


def _only(folder: Path, name: str) -> Path:
    for other in FILES:
        if other != name:
            (folder / other).unlink()
    return folder


def _evaluate(prediction: Path, truth: Path, out: Path, **options) -> Evaluation:
    names = ("ground", "roof", "water")
    return evaluate_labels(prediction, truth, EvaluateSpec(out, distances=False, **({"classes": names} | options)))


@pytest.mark.parametrize("name", FILES)
def test_polygons_of_every_format_are_those_that_count(copy: Path, tmp_path: Path, name: str) -> None:
    truth = _write(tmp_path / "truth.tif", _houses())
    found = _evaluate(_only(copy, name), truth, tmp_path / "out").total.matchings
    # As somebody else would: read by GeoPandas, in the scene's coordinates, and compared with what GDAL traces.
    layer = "polygons" if name.endswith("gpkg") else None
    parquet = name.endswith("parquet")
    delivered = geopandas.read_parquet(copy / name) if parquet else geopandas.read_file(copy / name, layer=layer)
    delivered = delivered.to_crs("EPSG:32637")
    assert delivered["pixels"].min() >= LEAST
    place = from_origin(*ORIGIN, 0.5, 0.5)
    traced = rasterio.features.shapes(_houses(), mask=_houses() > 0, transform=place)
    true = np.array([shapely.geometry.shape(shape) for shape, _ in traced])
    expected = match(true, np.asarray(delivered[delivered["class"] == 1].geometry.array))
    assert (found[1].truths, found[1].predictions) == (expected.truths, expected.predictions)
    assert sorted(found[1].best) == pytest.approx(sorted(expected.best), abs=0.02)
    assert found[2].predictions == (delivered["class"] == 2).sum() > 0
    with rasterio.open(copy / "labels.tif") as file:
        labels = file.read(1)
    every = sum(1 for _, value in rasterio.features.shapes(labels, connectivity=4) if value == 2)
    assert every > found[2].predictions, "the run left small ones out"


def test_they_are_found_on_another_grid(copy: Path, tmp_path: Path) -> None:
    """A truth of half the resolution; polygons in degrees."""
    coarse = _write(tmp_path / "coarse.tif", _houses()[::2, ::2], 1.0)
    fine = _evaluate(copy, _write(tmp_path / "truth.tif", _houses()), tmp_path / "fine").total.matchings[2]
    found = _evaluate(_only(copy, "polygons.geojson"), coarse, tmp_path / "out").total.matchings[2]
    assert found.predictions == fine.predictions
    assert found.predicted_outlines.vertices.tolist() == fine.predicted_outlines.vertices.tolist()


def test_without_polygons_labels_are_traced_and_it_is_said(copy: Path, tmp_path: Path) -> None:
    truth = _write(tmp_path / "truth.tif", _houses())
    for name in FILES:
        (copy / name).unlink()
    found = _evaluate(copy, truth, tmp_path / "out")
    assert any("its polygons are not there, so its labels are traced" in notice for notice in found.notices)
    assert found.total.matchings[2].predicted_outlines.vertices.min() >= 4


def test_classes_of_which_no_polygons_were_asked_for_are_told(copy: Path, tmp_path: Path) -> None:
    facts = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").unlink()
    facts["spec"]["classes"] = ["roof"]
    (copy / "summary.json").write_text(json.dumps(facts))
    found = _evaluate(copy, _write(tmp_path / "truth.tif", _houses()), tmp_path / "out")
    assert any("no polygons of water were asked for" in notice for notice in found.notices)


def test_a_damaged_file_is_told_in_one_line(copy: Path, tmp_path: Path) -> None:
    (_only(copy, "polygons.gpkg") / "polygons.gpkg").unlink()
    (copy / "polygons.gpkg").write_bytes(b"no database")
    with pytest.raises(InputError, match=r"polygons\.gpkg: cannot be read") as caught:
        _evaluate(copy, _write(tmp_path / "truth.tif", _houses()), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_run_may_be_the_truth(copy: Path, tmp_path: Path) -> None:
    found = _evaluate(copy, copy, tmp_path / "out", classes=())
    assert found.total.matchings[2].scores() == (1, 1, 1)
