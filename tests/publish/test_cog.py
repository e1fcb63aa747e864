"""The label raster is a valid Cloud-Optimised GeoTIFF that other tools read as it was meant."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rio_cogeo.cogeo import cog_validate

from tileseg.card import ClassInfo
from tileseg.errors import TilesegError
from tileseg.grid import Grid
from tileseg.labels import halve
from tileseg.publish.label_cog import write_label_cog
from tileseg.source.label_raster import open_labels
from tileseg.window import Window, tile

CLASSES = (
    ClassInfo(name="ground", color="#c8b99a", background=True),
    ClassInfo(name="Häuser & <Höfe>", color="#d9544d"),
    ClassInfo(name="water", color="#3f7fbf"),
)
TRANSFORM = Affine(0.3, 0, 534000, 0, -0.3, 9318000)


def blobs(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[0:height, 0:width]
    labels = ((np.sin(rows / 37) + np.cos(cols / 53) + 2) * 0.74).astype(np.uint8)
    labels[rows + cols < 60] = 255
    return labels


def grid_of(labels: np.ndarray, transform: Affine = TRANSFORM, epsg: int | None = 32737) -> Grid:
    return Grid(*labels.shape, transform, None if epsg is None else CRS.from_epsg(epsg).to_wkt("WKT2_2019"))


def publish(path: Path, labels: np.ndarray, grid: Grid, block: int = 320, threads: int = 2) -> Path:
    cores = tile(grid.extent, block, block)
    write_label_cog(path, grid, CLASSES, lambda window: labels[window.slices], cores, threads=threads)
    return path


@pytest.mark.parametrize(("height", "width"), [(1501, 1103), (97, 61), (512, 513), (1, 2000)])
def test_it_is_valid_and_holds_the_labels(tmp_path: Path, height: int, width: int) -> None:
    labels = blobs(height, width)
    grid = grid_of(labels)
    path = publish(tmp_path / "labels.tif", labels, grid)
    valid, errors, warnings = cog_validate(str(path), strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as raster:
        assert np.array_equal(raster.read(1), labels)
        assert raster.nodata == 255
        assert raster.transform == TRANSFORM
        assert raster.crs.to_epsg() == 32737
        assert raster.compression.name == "deflate"
        assert [raster.colormap(1)[i][:3] for i in range(3)] == [(200, 185, 154), (217, 84, 77), (63, 127, 191)]
        levels = raster.overviews(1)
        assert len(levels) == max(0, int(np.ceil(np.log2(max(height, width) / 512))))
    expected = labels
    for i in range(len(levels)):
        expected = halve(expected)
        with rasterio.open(path, overview_level=i) as overview:
            assert np.array_equal(overview.read(1), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.qml", "labels.tif", "labels.tif.aux.xml"]


@pytest.mark.parametrize(
    ("transform", "epsg"),
    [
        (Affine(1e-5, 0, 39.2, 0, -1e-5, -6.1), 4326),
        (Affine(0.4, 0.3, 534000, 0.3, -0.4, 9318000), 3857),
        (Affine(0.5, 0, 10, 0, 0.5, 20), 32737),
        (Affine.identity(), None),
    ],
    ids=["degrees", "rotated", "south-up", "none"],
)
def test_georeference_survives(tmp_path: Path, transform: Affine, epsg: int | None) -> None:
    labels = blobs(120, 90)
    grid = grid_of(labels, transform, epsg)
    with rasterio.open(publish(tmp_path / "labels.tif", labels, grid)) as raster:
        assert np.allclose(tuple(raster.transform), tuple(transform), rtol=1e-12)
        assert (raster.crs.to_epsg() if raster.crs else None) == epsg


def test_names_are_read_back(tmp_path: Path) -> None:
    labels = blobs(120, 90)
    again = open_labels(publish(tmp_path / "labels.tif", labels, grid_of(labels)))
    assert again.names == {0: "ground", 1: "Häuser & <Höfe>", 2: "water"}
    assert again.colors[2] == "#3f7fbf"
    assert again.background == {0}
    assert again.nodata == 255
    assert np.array_equal(again.read_labels(again.grid.extent), labels)


def test_a_legend_lists_the_classes_alone(tmp_path: Path) -> None:
    """What GDAL gives QGIS for it; the file alone, without what lies beside it, has its colours too."""
    labels = blobs(120, 90)
    path = publish(tmp_path / "labels.tif", labels, grid_of(labels))
    wanted = {i: (*bytes.fromhex(info.color[1:]), 255) for i, info in enumerate(CLASSES)}
    with rasterio.open(path) as raster:
        assert raster.colormap(1) == wanted
    Path(f"{path}.aux.xml").unlink()
    with rasterio.open(path) as raster:
        alone = raster.colormap(1)
        assert {i: alone[i] for i in wanted} == wanted
        assert raster.dataset_mask()[labels == 255].max(initial=0) == 0


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="needs gdalinfo (Debian: gdal-bin)")
def test_gdalinfo_shows_categories(tmp_path: Path) -> None:
    labels = blobs(120, 90)
    path = publish(tmp_path / "labels.tif", labels, grid_of(labels))
    text = subprocess.run(["gdalinfo", str(path)], capture_output=True, text=True, check=True).stdout
    assert "LAYOUT=COG" in text
    assert "Häuser & <Höfe>" in text


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = blobs(1501, 1103)
    first = publish(tmp_path / "a.tif", labels, grid_of(labels)).read_bytes()
    second = publish(tmp_path / "b.tif", labels, grid_of(labels), block=1024).read_bytes()
    third = publish(tmp_path / "c.tif", labels, grid_of(labels), threads=1).read_bytes()
    assert first == second == third


def test_pixels_of_no_block_are_nodata(tmp_path: Path) -> None:
    labels = np.ones((700, 900), np.uint8)
    grid = grid_of(labels)
    path = tmp_path / "labels.tif"
    write_label_cog(path, grid, CLASSES, lambda window: labels[window.slices], [Window(320, 320, 100, 200)])
    expected = np.full_like(labels, 255)
    expected[320:420, 320:520] = 1
    with rasterio.open(path) as raster:
        assert np.array_equal(raster.read(1), expected)


def test_each_block_is_read_once_in_order(tmp_path: Path) -> None:
    labels = blobs(700, 900)
    asked: list[Window] = []

    def read(window: Window) -> np.ndarray:
        asked.append(window)
        return labels[window.slices]

    blocks = tile(grid_of(labels).extent, 256, 256)
    write_label_cog(tmp_path / "labels.tif", grid_of(labels), CLASSES, read, iter(blocks))
    assert asked == blocks


def test_an_old_result_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    labels = blobs(700, 900)
    path = publish(tmp_path / "labels.tif", labels, grid_of(labels))
    before = path.read_bytes()

    def broken(window: Window) -> np.ndarray:
        raise TilesegError("stop")

    with pytest.raises(TilesegError, match="stop"):
        write_label_cog(path, grid_of(labels), CLASSES, broken, tile(grid_of(labels).extent, 256, 256))
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.qml", "labels.tif", "labels.tif.aux.xml"]


def test_left_overs_of_a_killed_run_are_no_obstacle(tmp_path: Path) -> None:
    labels = blobs(700, 900)
    scratch = tmp_path / ".labels.tif.partial"
    scratch.mkdir()
    (scratch / "0.tif").write_text("half a file")
    publish(tmp_path / "labels.tif", labels, grid_of(labels))
    assert not scratch.exists()


def test_no_room_is_said_in_one_line(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np; from affine import Affine\n"
        "from tileseg.errors import TilesegError; from tileseg.grid import Grid; from tileseg.window import tile\n"
        "from tileseg.card import ClassInfo; from tileseg.publish.label_cog import write_label_cog\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "labels = np.random.default_rng(0).integers(0, 2, (2000, 1500)).astype('uint8')\n"
        "grid = Grid(2000, 1500, Affine.identity()); kinds = [ClassInfo(name=n, color='#000000') for n in 'ab']\n"
        "blocks = tile(grid.extent, 512, 512)\n"
        "try: write_label_cog(Path(sys.argv[1]), grid, kinds, lambda w: labels[w.slices], blocks)\n"
        "except TilesegError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "labels.tif")], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
def test_a_real_raster_of_64_megapixels(tmp_path: Path, real_data: Path) -> None:
    source = open_labels(real_data / "masks" / "CDL_2016_19_train.tif")
    classes = [ClassInfo(name=f"crop {i}", color=source.colors[i]) for i in range(20)]
    path = tmp_path / "labels.tif"
    write_label_cog(path, source.grid, classes, source.read_labels, tile(source.grid.extent, 1312, 1312))
    assert cog_validate(str(path), strict=True)[0]
    with rasterio.open(path) as raster, rasterio.open(source.path) as original:
        assert np.array_equal(raster.read(1), original.read(1))
