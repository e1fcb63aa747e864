"""The committed sample rasters are what their script draws."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio

FOLDER = Path(__file__).parent.parent / "sample_rasters"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_rasters_generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def regenerated(generate: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample_rasters")
    generate.main(folder)
    return folder


@pytest.mark.parametrize("name", ["settlement", "collar", "tiny"])
def test_the_committed_files_are_what_the_script_draws(name: str, regenerated: Path) -> None:
    for suffix in ("", "_labels"):
        with (
            rasterio.open(FOLDER / f"{name}{suffix}.tif") as kept,
            rasterio.open(regenerated / f"{name}{suffix}.tif") as drawn,
        ):
            assert (kept.crs, kept.transform, kept.nodata, kept.dtypes) == (
                drawn.crs, drawn.transform, drawn.nodata, drawn.dtypes,
            )  # fmt: skip
            old, new = kept.read().astype(int), drawn.read().astype(int)
        assert old.shape == new.shape
        # Another Pillow or processor may round a pixel differently; another drawing differs nearly everywhere.
        assert np.mean(old != new) < 0.001
    polygons = [json.loads((f / f"{name}_labels.geojson").read_text())["features"] for f in (FOLDER, regenerated)]
    assert len(polygons[0]) == pytest.approx(len(polygons[1]), rel=0.01)


def test_they_are_what_the_readme_promises() -> None:
    with rasterio.open(FOLDER / "settlement.tif") as raster:
        assert (raster.height, raster.width, raster.count, raster.dtypes[0]) == (1100, 1500, 3, "uint8")
        assert raster.crs.to_epsg() == 32737
        assert raster.profile["tiled"]
    with rasterio.open(FOLDER / "tiny.tif") as raster:
        assert (raster.height, raster.width) == (97, 61)
    with rasterio.open(FOLDER / "collar.tif") as raster, rasterio.open(FOLDER / "collar_labels.tif") as labels:
        assert (raster.count, raster.dtypes[0], raster.nodata) == (4, "uint16", 0)
        assert 0.15 < np.mean(raster.read_masks(1) == 0) < 0.6
        assert np.array_equal(raster.read_masks(1) == 0, labels.read(1) == 255)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 6e6


@pytest.mark.parametrize(("height", "width", "seed"), [(97, 61, 0), (256, 331, 5), (32, 16, 9)])
def test_a_render_is_repeatable_and_differs_by_seed(generate: ModuleType, height: int, width: int, seed: int) -> None:
    rgb, labels = generate.render(height, width, seed)
    again, same = generate.render(height, width, seed)
    other, _ = generate.render(height, width, seed + 1)
    assert rgb.shape == (height, width, 3)
    assert labels.shape == (height, width)
    assert (rgb.dtype, labels.dtype) == (np.uint8, np.uint8)
    assert labels.max() < len(generate.CLASS_NAMES)
    assert np.array_equal(rgb, again)
    assert np.array_equal(labels, same)
    assert not np.array_equal(rgb, other)


def test_scenes_show_every_class(generate: ModuleType) -> None:
    seen = np.zeros(5, int)
    for seed in range(8):
        seen += np.bincount(generate.render(300, 420, seed)[1].ravel(), minlength=5) > 200
    assert (seen >= 4).all(), dict(zip(generate.CLASS_NAMES, seen.tolist(), strict=True))


def test_label_polygons_lie_on_the_labels() -> None:
    collection = json.loads((FOLDER / "settlement_labels.geojson").read_text())
    with rasterio.open(FOLDER / "settlement_labels.tif") as raster:
        from rasterio.features import rasterize
        from rasterio.warp import transform_geom

        labels = raster.read(1)
        pairs = [
            (transform_geom("EPSG:4326", raster.crs, f["geometry"]), f["properties"]["class_id"])
            for f in collection["features"]
        ]
        burnt = rasterize(pairs, out_shape=labels.shape, transform=raster.transform, fill=0, dtype="uint8")
    assert np.mean(burnt == labels) > 0.97
