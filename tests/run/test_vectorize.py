"""From block-wise labels to files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from fakes import write_scene
from pyproj import CRS

from tileseg.card import ClassInfo
from tileseg.errors import UsageError
from tileseg.formats import FORMATS, vector_paths
from tileseg.grid import Grid
from tileseg.polygons.fragment import load_fragments, save_fragments
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.trace import trace_block
from tileseg.run.vectorize import Classes, ignored_classes, vectorize, write_polygons
from tileseg.spec import VectorOptions
from tileseg.window import Window, tile


@dataclass(frozen=True)
class Labels:
    """Labels in memory."""

    array: npt.NDArray[np.integer]
    grid: Grid
    nodata: int | None = None

    def read_labels(self, window: Window) -> npt.NDArray[np.integer]:
        return self.array[window.slices]

    def read_confidence(self, window: Window) -> npt.NDArray[np.uint16] | None:
        return None

    def read_disagreement(self, window: Window) -> None:
        return None


CARD = (
    ClassInfo(name="ground", color="#000000", background=True),
    ClassInfo(name="Building", color="#ff0000"),
    ClassInfo(name="road", color="#00ff00"),
)


def source(seed: int = 0, shape: tuple[int, int] = (150, 210), dtype: type = np.uint8) -> Labels:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (shape[0] // 6, shape[1] // 7)), np.ones((6, 7))).astype(dtype)
    labels[:20, :30] = 255 if dtype is np.uint8 else -1
    labels[rng.random(labels.shape) < 0.02] = 2
    grid = Grid(*labels.shape, Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000), CRS.from_epsg(32635).to_wkt())
    return Labels(labels, grid, nodata=255 if dtype is np.uint8 else -1)


def test_result_does_not_depend_on_blocks_and_threads(tmp_path: Path) -> None:
    labels = source()
    frames = []
    for i, (block, threads) in enumerate([(256, 1), (50, 1), (50, 4), (17, 3)]):
        outputs = vector_paths(tmp_path / str(i), ["gpkg"])
        report = vectorize(labels, outputs, Classes.of_card(CARD), block=block, threads=threads)
        frame = geopandas.read_file(outputs["gpkg"], layer="polygons")
        assert report.counts == frame["class_name"].value_counts().to_dict()
        assert set(report.seconds) == {"trace", "finish"}
        frames.append(frame.drop(columns="id").assign(at=shapely.to_wkb(frame.geometry.values)).sort_values("at"))
    for frame in frames[1:]:
        assert frame.reset_index(drop=True).equals(frames[0].reset_index(drop=True))
    assert (tmp_path / "1" / "polygons.gpkg").read_bytes() == (tmp_path / "2" / "polygons.gpkg").read_bytes()
    assert sorted(p.name for p in (tmp_path / "3").iterdir()) == ["polygons.gpkg", "polygons.qml"]
    assert set(frames[0]["class_name"]) == {"Building", "road"}


def test_a_format_that_is_none_is_told_by_its_option() -> None:
    with pytest.raises(UsageError, match=r"^--format: 'shp': expected some of geojson"):
        VectorOptions.parse({"formats": "shp"})


def test_polygons_equal_gdal(tmp_path: Path) -> None:
    labels = source(3)
    outputs = vector_paths(tmp_path, ["parquet"])
    vectorize(labels, outputs, Classes.of_raster({}), VectorOptions(connectivity=8), block=64)
    frame = geopandas.read_parquet(outputs["parquet"])
    found = sorted(zip(frame["class"], shapely.to_wkb(shapely.normalize(frame.geometry.values)), strict=True))
    expected = rasterio.features.shapes(
        labels.array, mask=labels.array != 255, connectivity=8, transform=labels.grid.transform
    )
    assert found == sorted((int(v), shapely.to_wkb(shapely.normalize(shapely.geometry.shape(g)))) for g, v in expected)
    assert "mean_probability" not in frame


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_only_wanted_classes(tmp_path: Path, dtype: type) -> None:
    labels = source(4, dtype=dtype)
    outputs = vector_paths(tmp_path, ["geojson"])
    report = vectorize(labels, outputs, Classes.of_raster({2: "road"}, ["Road", "0"]), block=64)
    assert set(report.counts) == {"0", "road"}
    assert geopandas.read_file(outputs["geojson"])["class"].drop_duplicates().sort_values().tolist() == [0, 2]


def test_classes_of_a_card() -> None:
    assert ignored_classes(CARD, None) == {0}
    assert ignored_classes(CARD, ["building", "0"]) == {2}
    assert ignored_classes(CARD, ["ground"]) == {1, 2}
    with pytest.raises(UsageError, match=r"--classes 3: no such class; expected some of ground \(0\), Building \(1\)"):
        ignored_classes(CARD, ["3"])
    with pytest.raises(UsageError, match="--classes tree"):
        Classes.of_raster({}, ["tree"])


def test_options_are_understood_as_text() -> None:
    options = VectorOptions.parse({"formats": "gpkg,fgb", "min_area": "50px", "simplify": "0.5", "classes": "a, 3"})
    assert options.formats == ("gpkg", "fgb")
    assert options.min_area == Quantity(50, in_pixels=True)
    assert options.simplify == Quantity(0.5)
    assert options.classes == ("a", "3")
    for wrong, message in [
        ({"formats": "shp"}, "--format: "), ({"min_area": "big"}, "--min-area: .*'big' is no area"),
        ({"connectivity": 6}, "--connectivity"), ({"minimum": 3}, "--minimum"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            VectorOptions.parse(wrong)


def test_filters_and_simplification_reach_the_file(tmp_path: Path) -> None:
    labels = source(5)
    everything = vector_paths(tmp_path, ["gpkg"], "everything")
    vectorize(labels, everything, Classes.of_raster({}), block=64)
    few = vector_paths(tmp_path, ["gpkg"], "few")
    options = VectorOptions.parse({"min_area": "5", "fill_holes": "2", "simplify": "1"})
    vectorize(labels, few, Classes.of_raster({}), options, block=64)
    before, after = (geopandas.read_file(p["gpkg"], layer="polygons") for p in (everything, few))
    assert after["area_m2"].min() > 2  # filtered first, simplified then
    assert 0 < len(after) <= (before["area_m2"] >= 5).sum()
    assert after.geometry.count_coordinates().sum() < 0.5 * before.geometry.count_coordinates().sum()
    np.testing.assert_allclose(after["area_m2"], after.geometry.area, rtol=2e-3)


def test_regular_outlines_reach_the_file_and_do_not_depend_on_blocks(tmp_path: Path) -> None:
    labels, frames = source(5), []
    for block in (64, 150):
        outputs = vector_paths(tmp_path, ["gpkg"], f"regular{block}")
        options = VectorOptions.parse({"regularize": "road,2,1", "tolerance": "2px", "min_area": "5"})
        vectorize(labels, outputs, Classes.of_raster({1: "road"}), options, block=block)
        frame = geopandas.read_file(outputs["gpkg"], layer="polygons").drop(columns="id")
        frames.append(frame.assign(at=shapely.to_wkb(frame.geometry.values)).sort_values("at", ignore_index=True))
    assert frames[0].equals(frames[1])
    assert frames[0].is_valid.all()
    plain = vector_paths(tmp_path, ["gpkg"], "plain")
    vectorize(labels, plain, Classes.of_raster({}), VectorOptions.parse({"min_area": "5"}), block=64)
    raw = geopandas.read_file(plain["gpkg"], layer="polygons")
    assert len(raw) == len(frames[0])
    assert frames[0].geometry.count_coordinates().sum() < raw.geometry.count_coordinates().sum()
    np.testing.assert_allclose(frames[0]["area_m2"], frames[0].geometry.area, rtol=2e-3)


def test_what_cannot_be_made_regular_is_told_before_anything_is_traced(tmp_path: Path) -> None:
    options = VectorOptions.parse({"regularize": "rood"})
    with pytest.raises(UsageError, match=r"--regularize rood: no such class.*road"):
        vectorize(source(5), vector_paths(tmp_path, ["gpkg"]), Classes.of_raster({1: "road"}), options)
    assert not list(tmp_path.iterdir())
    for wrong, message in [
        ({"regularize": "all", "simplify": "1"}, "--regularize and --simplify: give only one"),
        ({"tolerance": "1"}, "--tolerance: is that of --regularize"),
        ({"regularize": "all", "tolerance": "far"}, "--tolerance: .*'far' is no area or length"),
        ({"regularize": ""}, "--regularize"),
    ]:
        with pytest.raises(UsageError, match=message):
            VectorOptions.parse(wrong)


def test_finish_serves_blocks_that_were_traced_elsewhere(tmp_path: Path) -> None:
    labels = source(6)
    cores = tile(labels.grid.extent, 70, 70)
    for i, core in enumerate(cores):
        part = labels.array[core.slices]
        confidence = np.full(part.shape, 32_768, np.uint16)
        fragments = trace_block(part, confidence, core, labels.grid.extent, ignore={0}, nodata=255)
        save_fragments(tmp_path / f"{i}.fragment", fragments)
    outputs = vector_paths(tmp_path / "out", ["geojson", "gpkg"])
    classes = Classes.of_card(CARD)
    report = write_polygons(
        cores, lambda i: load_fragments(tmp_path / f"{i}.fragment"), labels.grid, classes, VectorOptions(), outputs
    )
    assert report.paths == {**outputs, "polygons_style": tmp_path / "out" / "polygons.qml"}
    frames = [FORMATS[form].read(path) for form, path in outputs.items()]
    one, other = (pd.DataFrame(frame.drop(columns="geometry")) for frame in frames)
    pd.testing.assert_frame_equal(one, other, check_dtype=False)
    assert (frames[0]["mean_probability"] == 0.5).all()
    assert frames[0]["id"].tolist() == list(range(1, sum(report.counts.values()) + 1))
    inside = frames[1][~frames[1]["touches_nodata"]]
    assert 0 < len(inside) < len(frames[1])


def test_scene_of_nodata_gives_an_empty_layer(tmp_path: Path) -> None:
    labels = Labels(np.full((40, 50), 255, np.uint8), source().grid[Window(0, 0, 40, 50)], nodata=255)
    outputs = vector_paths(tmp_path, ["gpkg", "geojson"])
    report = vectorize(labels, outputs, Classes.of_card(CARD), block=16)
    assert report.counts == {}
    assert len(geopandas.read_file(outputs["gpkg"], layer="polygons")) == 0


def test_progress_counts_blocks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    vectorize(
        source(), vector_paths(tmp_path, ["geojsonseq"]), Classes.of_card(CARD), block=64,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 12) for i in range(1, 13)]


@pytest.mark.real_data
def test_real_mask_to_geopackage(real_data: Path, tmp_path: Path) -> None:
    with rasterio.open(real_data / "masks" / "cog_cmap.tif") as dataset:
        window = Window(2000, 1000, 1500, 2500)
        part = dataset.read(1)[window.slices]
        grid = Grid(dataset.height, dataset.width, dataset.transform, dataset.crs.to_wkt())[window]
    outputs = vector_paths(tmp_path, ["gpkg"])
    vectorize(Labels(part, grid, nodata=0), outputs, Classes.of_raster({}))
    frame = geopandas.read_file(outputs["gpkg"], layer="polygons")
    # Web Mercator's planar areas are too large by 1 / cos(latitude)^2, about 1.7 here.
    assert frame["area_m2"].sum() == pytest.approx(frame.to_crs(5070).area.sum(), rel=2e-3)
    assert frame["pixels"].sum() == (part != 0).sum()


@pytest.mark.parametrize(
    ("crs", "place"),
    [("+proj=longlat +R=1737400", (0.01, 0, 10, 0, -0.01, 20)), ("+proj=eqc +R=3396190", (100, 0, 1e6, 0, -100, 1e6))],
)
def test_scenes_of_other_bodies_become_polygons_in_every_format(
    tmp_path: Path, crs: str, place: tuple[float, ...]
) -> None:
    """GeoJSON holds the body's own longitude and latitude, and says so."""
    labels = np.zeros((20, 30), np.uint8)
    labels[4:9, 6:24] = 1
    grid = Grid(20, 30, Affine(*place), CRS.from_user_input(crs).to_wkt())
    core = grid.extent
    fragments = list(trace_block(labels, None, core, core, nodata=0))
    outputs = vector_paths(tmp_path, FORMATS)
    write_polygons([core], lambda _: fragments, grid, Classes({}), VectorOptions(), outputs)
    assert "Not of the Earth" in json.loads(outputs["geojson"].read_text())["description"]
    expected = shapely.box(*(grid.transform @ (6, 9)), *(grid.transform @ (24, 4)))
    for name in ("gpkg", "parquet", "fgb"):
        frame = FORMATS[name].read(outputs[name])
        assert frame.geometry[0].normalize().equals_exact(expected.normalize(), 1e-6)
        assert frame.crs.ellipsoid.semi_major_metre == grid.crs.ellipsoid.semi_major_metre
    (notice,) = VectorOptions().vector_notices(grid)
    assert "not of the Earth" in notice
    assert VectorOptions(formats=("gpkg",)).vector_notices(grid) == []


_WARM = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from numba.core.dispatcher import Dispatcher
from pyproj import CRS
from tileseg.grid import Grid
from tileseg.run.vectorize import Classes, vectorize, warm_up
from tileseg.source.label_raster import open_labels
from tileseg.spec import VectorOptions

def compiled():
    modules = [module for name, module in sys.modules.items() if name.startswith("tileseg.")]
    found = {id(f): f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}
    return {f.py_func.__qualname__ + " of " + f.py_func.__module__: len(f.signatures) for f in found.values()}

warm_up(regular=True)
before = compiled()
options = VectorOptions(regularize=("all",))
vectorize(open_labels(Path(sys.argv[1])), {"geojson": Path(sys.argv[2])}, Classes.of_raster({}), options, block=64)
print({name: count for name, count in compiled().items() if count != before.get(name, 0)})
"""


def test_regular_outlines_are_compiled_where_the_rest_is(tmp_path: Path) -> None:
    """Without waiting in the first run: what ``warm_up`` compiled is all that is called."""
    raster = write_scene(tmp_path / "labels.tif", source(8).array[..., None])
    told = subprocess.run(
        [sys.executable, "-c", _WARM, raster, tmp_path / "polygons.geojson"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == "{}\n"
