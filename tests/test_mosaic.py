import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pyproj import CRS

from tileseg.card import ClassInfo
from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.labels import CERTAIN, NODATA, decide, halve, probabilities
from tileseg.mosaic import Mosaic, create_mosaic
from tileseg.window import Window, tile

UTM = Grid(203, 331, Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), CRS.from_epsg(32637).to_wkt())
CLASSES = [
    ClassInfo(name="ground", color="#000000", background=True),
    ClassInfo(name="flat roof", color="#ff0000"),
    ClassInfo(name="water", color="#0000ff"),
]


def filled(
    path: Path, keep: str, grid: Grid = UTM, block: tuple[int, int] = (96, 64)
) -> tuple[Mosaic, np.ndarray, np.ndarray]:
    """A mosaic of noise, written block by block; its logits and labels, part of them nodata."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, grid.height, grid.width)).astype(np.float16)
    valid = np.ones((grid.height, grid.width), bool)
    valid[: grid.height // 2, : grid.width // 3] = False
    labels, _ = decide(logits, valid)
    logits[:, ~valid] = np.nan
    mosaic = create_mosaic(path, grid, block, CLASSES, keep, {"model": "noise"})
    for core in tile(grid.extent, *block):
        rows, cols = core.slices
        if valid[rows, cols].any():
            mosaic.write_block(core, logits[:, rows, cols], labels[rows, cols])
    mosaic.write_pyramid()
    return Mosaic(path), logits, labels


@pytest.mark.parametrize("keep", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize("block", [(96, 64), (48, 208), (512, 512)])
def test_what_was_written_is_read(tmp_path, keep, block) -> None:
    mosaic, logits, labels = filled(tmp_path / "m.zarr", keep, block=block)
    window = Window(31, 40, 150, 200)
    rows, cols = window.slices
    np.testing.assert_array_equal(mosaic.read_labels(window), labels[rows, cols])
    confidence = mosaic.read_confidence(window)
    if keep == "labels":
        assert confidence is None
        return
    expected = decide(np.nan_to_num(logits[:, rows, cols]), labels[rows, cols] != NODATA)[1]
    assert confidence is not None
    assert np.abs(confidence.astype(int) - expected).max() <= (0 if keep == "logits" else 1)
    if keep == "logits":
        np.testing.assert_array_equal(mosaic.read_logits(window), logits[:, rows, cols])


@pytest.mark.parametrize("block", [(96, 64), (112, 80), (512, 512)])
def test_the_pyramid_is_halved_labels(tmp_path, block) -> None:
    grid = Grid(703, 1031, UTM.transform, UTM.crs_wkt)
    mosaic, _, labels = filled(tmp_path / "m.zarr", "labels", grid, block)
    assert mosaic.levels == (2, 4, 8)
    for level in mosaic.levels:
        labels = halve(labels)
        np.testing.assert_array_equal(mosaic.read_labels(Window(0, 0, *labels.shape), level), labels)


def test_xarray_finds_coordinates_and_crs(tmp_path) -> None:
    import rioxarray  # noqa: F401 - registers .rio

    filled(tmp_path / "m.zarr", "logits")
    data = xr.open_zarr(tmp_path / "m.zarr")
    assert data.logits.dims == ("class", "y", "x")
    assert data.labels.rio.crs.to_epsg() == 32637
    assert data.labels.rio.bounds() == (500_000, 4_000_000 - 203 / 2, 500_000 + 331 / 2, 4_000_000)
    assert float(data.x[0]) == 500_000.25
    assert float(data.y[-1]) == 4_000_000 - 203 / 2 + 0.25
    assert data.labels.attrs["flag_meanings"] == "ground flat_roof water"


def test_rioxarray_keeps_labels_whole_and_their_nodata(tmp_path) -> None:
    import rioxarray  # noqa: F401 - registers .rio

    labels = np.array([[1, 0, 255], [0, 1, 1]], np.uint8)
    grid = Grid(2, 3, Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), CRS.from_epsg(32637).to_wkt())
    create_mosaic(tmp_path / "m.zarr", grid, (64, 64), CLASSES, "labels", {}).write_block(grid.extent, None, labels)
    xr.open_zarr(tmp_path / "m.zarr").labels.rio.to_raster(tmp_path / "copy.tif")
    with rasterio.open(tmp_path / "copy.tif") as file:
        assert (file.nodata, file.dtypes) == (255, ("uint8",))
        assert np.array_equal(file.read(1), labels)


def test_probabilities_are_scaled_for_xarray(tmp_path) -> None:
    _, logits, labels = filled(tmp_path / "m.zarr", "probabilities")
    data = xr.open_zarr(tmp_path / "m.zarr").probabilities.values
    valid = labels != NODATA
    np.testing.assert_allclose(data[:, valid], probabilities(np.nan_to_num(logits))[:, valid] / CERTAIN, atol=1e-7)
    np.testing.assert_allclose(data[:, valid].sum(axis=0), 1, atol=1e-4)


def test_conventions_are_there_for_rotated_grids_and_none(tmp_path) -> None:
    import rioxarray  # noqa: F401 - registers .rio

    rotated = Grid(64, 80, Affine.rotation(30) @ Affine.scale(2, -2), None)
    mosaic, _, _ = filled(tmp_path / "m.zarr", "labels", rotated)
    attributes = xr.open_zarr(tmp_path / "m.zarr").attrs
    assert attributes["spatial:transform"] == list(rotated.transform)[:6]
    corners = [rotated.transform @ at for at in itertools.product((0, 80), (0, 64))]
    assert attributes["spatial:bbox"][0] == min(x for x, _ in corners)
    assert "proj:wkt2" not in attributes
    assert xr.open_zarr(tmp_path / "m.zarr").rio.crs is None
    assert mosaic.grid == rotated


def test_shards_are_one_per_block(tmp_path) -> None:
    filled(tmp_path / "m.zarr", "logits", block=(96, 64))
    files = {
        p.relative_to(tmp_path / "m.zarr/logits/c").as_posix()
        for p in (tmp_path / "m.zarr/logits/c").rglob("*")
        if p.is_file()
    }
    # 3 x 6 blocks; the first row's first block is wholly nodata (rows 0-100, columns 0-109 have none).
    assert files == {f"0/{r}/{c}" for r in range(3) for c in range(6)} - {"0/0/0"}


def test_thresholds_are_applied_when_reading(tmp_path) -> None:
    plain, logits, labels = filled(tmp_path / "m.zarr", "logits")
    eager = Mosaic(plain.path, {1: 0.2})
    window = UTM.extent
    chances = probabilities(np.nan_to_num(logits))
    valid = labels != NODATA
    roofs = eager.read_labels(window) == 1
    np.testing.assert_array_equal(roofs, valid & (chances[1] >= np.ceil(0.2 * CERTAIN)))


def test_leftovers_of_killed_writers_are_removed(tmp_path) -> None:
    mosaic, _, _ = filled(tmp_path / "m.zarr", "logits")
    left = mosaic.path / "logits" / "c" / "0" / "0" / "1.0123abcd.partial"
    left.write_bytes(b"torn")
    mosaic.remove_partial()
    assert not left.exists()
    assert (mosaic.path / "logits" / "c" / "0" / "0" / "1").exists()


def test_other_folders_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="not a mosaic"):
        Mosaic(tmp_path).read_labels(Window(0, 0, 1, 1))
