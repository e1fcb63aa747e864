"""What a run says of how sure it is: probabilities as rasters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.labels import CERTAIN, NODATA, probabilities
from tileseg.mosaic import Mosaic
from tileseg.run.names import MOSAIC, probability_files, written_files
from tileseg.run.report import RunReport

HEIGHT, WIDTH = 301, 403


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = smooth_noise(HEIGHT, WIDTH, 3)
    pixels[:90, :70] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, nodata=0)


def spec(scene: Path, model: Path, out: Path, **options) -> RunSpec:
    return RunSpec.parse(
        {"scene": scene, "model": str(model), "out": out, "block": 128, "workers": 0, "precision": "float32", **options}
    )


@pytest.fixture(scope="module")
def with_probabilities(scene, model, tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return run(spec(scene, model, tmp_path_factory.mktemp("out") / "run", keep="probabilities"))


def classes(*names: str) -> list[ClassInfo]:
    return [ClassInfo(name=name, color="#000000", background=name == "ground") for name in names]


def test_names_of_the_files_are_those_of_the_classes() -> None:
    assert probability_files(classes("ground", "roof", "Häuser & <Höfe>", "ROOF", "../..", "x" * 300)) == {
        1: "probability_roof.tif",
        2: "probability_Häuser_Höfe.tif",
        3: "probability_ROOF_3.tif",
        4: "probability_4.tif",
        5: f"probability_{'x' * 40}.tif",
    }
    assert probability_files(classes("roof_1", "roof", "roof")) == {
        0: "probability_roof_1.tif",
        1: "probability_roof.tif",
        2: "probability_roof_2.tif",
    }
    mine = [*probability_files(classes("a", "b/c")).values(), "labels.tif", "labels.tif.aux.xml", "polygons.fgb"]
    assert written_files([*mine, "scene.tif", "probability.tif", "my_probability_a.tif"]) == mine


def test_probabilities_are_files_for_any_gis(with_probabilities, scene, model, tmp_path) -> None:
    folder = with_probabilities.folder
    logits = Mosaic(run(spec(scene, model, tmp_path / "logits")).folder / MOSAIC)
    expected = probabilities(logits.read_logits(logits.grid.extent))
    with rasterio.open(folder / "labels.tif") as raster:
        labels = raster.read(1)
    assert (labels == NODATA).any()
    for i, name in ((1, "roof"), (2, "water")):
        path = with_probabilities.outputs[f"probability_{name}"]
        assert path == folder / f"probability_{name}.tif"
        with rasterio.open(path) as raster:
            values = raster.read(1)
            found = values * raster.scales[0]
        assert np.array_equal(values == NODATA, labels == NODATA)
        data = labels != NODATA
        assert np.abs(found - expected[i] / CERTAIN)[data].max() <= 0.0020001
        assert (found[data & (labels == i)] >= 1 / 3 - 0.0021).all()
    assert not (folder / "probability_ground.tif").exists()
    assert not list(logits.path.parent.glob("probability_*"))


def test_probability_files_do_not_depend_on_blocks(with_probabilities, scene, model, tmp_path) -> None:
    other = run(spec(scene, model, tmp_path / "run", keep="probabilities", block=192, window=96))
    for name in ("probability_roof.tif", "probability_water.tif"):
        assert (other.folder / name).read_bytes() == (with_probabilities.folder / name).read_bytes()


def test_probability_files_are_outputs_like_others(scene, model, tmp_path) -> None:
    """Made again where they are missing, removed by another run, and never written over anybody's."""
    wish = spec(scene, model, tmp_path / "run", keep="probabilities")
    folder = run(wish).folder
    before = (folder / "probability_roof.tif").read_bytes()
    (folder / "probability_roof.tif").unlink()
    assert run(wish).computed == 0
    assert (folder / "probability_roof.tif").read_bytes() == before
    assert run(wish).finished_before
    run(spec(scene, model, tmp_path / "run", overwrite=True))
    assert not list(folder.glob("probability_*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "probability_roof.tif").touch()
    with pytest.raises(UsageError, match=r"probability_roof\.tif is there, but no run of tileseg wrote it"):
        run(spec(scene, model, other, keep="probabilities"))
