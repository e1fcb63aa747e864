"""COGs of quantities: read by GDAL as what they say they are, with overviews that are means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rio_cogeo.cogeo import cog_validate

from tileseg.grid import Grid
from tileseg.labels import CERTAIN, as_bytes, halve_mean
from tileseg.publish.cog import Layer, write_cogs
from tileseg.publish.measure_cog import Measure
from tileseg.window import tile

GRID = Grid(1103, 701, Affine(0.3, 0, 534000, 0, -0.3, 9318000), CRS.from_epsg(32737).to_wkt("WKT2_2019"))


def noise(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 251, (GRID.height, GRID.width)).astype(np.uint8)
    values[:300, :200] = 255
    return values


def mean_of_four(values: np.ndarray) -> np.ndarray:
    """By masked arrays, in floats."""
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=255)
    four = np.stack([padded[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    mean = np.ma.masked_equal(four, 255).mean(axis=0)
    return np.floor(np.ma.filled(mean + 0.5, 255)).astype(np.uint8)


def test_overviews_are_means_of_what_has_data() -> None:
    assert halve_mean(np.uint8([[10, 255, 250], [11, 12, 255], [255, 255, 255]])).tolist() == [[11, 250], [255, 255]]
    np.testing.assert_array_equal(halve_mean(noise(3)), mean_of_four(noise(3)))


def test_probabilities_as_bytes() -> None:
    chances = np.array([[0, 1, CERTAIN // 2, CERTAIN]], np.uint16)
    assert as_bytes(chances, np.ones((1, 4), bool)).tolist() == [[0, 0, 125, 250]]
    assert as_bytes(chances, np.array([[True, False, True, False]])).tolist() == [[0, 255, 125, 255]]
    every = np.arange(CERTAIN + 1, dtype=np.uint16)[None]
    assert np.abs(as_bytes(every, np.ones(every.shape, bool)) / 250 - every / CERTAIN).max() <= 0.5 / 250 + 1e-12


@pytest.mark.parametrize("block", [256, 640])
def test_several_at_once_are_valid_and_hold_their_values(tmp_path: Path, block: int) -> None:
    layers = {f"p{i}.tif": noise(i) for i in range(3)}
    write_cogs(
        [Layer(tmp_path / name, Measure(f"probability of {name}", 1 / 250)) for name in layers],
        GRID,
        lambda window: [values[window.slices] for values in layers.values()],
        tile(GRID.extent, block, block),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*layers, "p0.qml", "p1.qml", "p2.qml"])
    for name, values in layers.items():
        assert cog_validate(str(tmp_path / name), strict=True) == (True, [], [])
        with rasterio.open(tmp_path / name) as raster:
            assert np.array_equal(raster.read(1), values)
            assert (raster.nodata, raster.scales, raster.offsets) == (255, (0.004,), (0,))
            assert raster.descriptions == (f"probability of {name}",)
            assert raster.transform == GRID.transform
            assert raster.crs.to_epsg() == 32737
            assert len(raster.overviews(1)) == 2
        coarser = mean_of_four(values)
        for level, expected in enumerate((coarser, mean_of_four(coarser))):
            with rasterio.open(tmp_path / name, overview_level=level) as overview:
                assert np.array_equal(overview.read(1), expected)
