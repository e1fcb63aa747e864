"""Scenes are read as rasterio reads them, reflected as NumPy pads, and refused in one line where they must be."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window as Frame

from tileseg.errors import InputError, UsageError
from tileseg.source.label_raster import open_labels
from tileseg.source.picture import overview_rgb
from tileseg.source.raster import RasterScene
from tileseg.source.scene import open_scene, read_plane, reflected
from tileseg.source.statistics import statistics
from tileseg.window import Window, tile

UTM = CRS.from_epsg(32737)
NORTH_UP = Affine(0.5, 0, 534000, 0, -0.5, 9318000)


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Pixels (band, y, x) as a GeoTIFF."""
    mask = options.pop("mask", None)
    palette = options.pop("palette", None)
    colors = options.pop("colors", None)
    descriptions = options.pop("descriptions", None)
    profile = {"driver": "GTiff", "crs": UTM, "transform": NORTH_UP, "dtype": pixels.dtype.name} | options
    shape = {"count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile, **shape) as raster:
        raster.write(pixels)
        if mask is not None:
            raster.write_mask(mask)
        if palette is not None:
            raster.write_colormap(1, palette)
        if colors is not None:
            raster.colorinterp = colors
        if descriptions is not None:
            raster.descriptions = descriptions
    return path


def noise(bands: int, height: int, width: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed).integers(1, 250, (bands, height, width))
    return random.astype(dtype)


def refusal(path: object, **options: Any) -> str:
    """The one line with which a scene is refused."""
    with pytest.raises(InputError) as caught:
        open_scene(path, **({"expected": 3} | options))
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 42
    return message


class TestReflection:
    @given(size=st.integers(1, 40), start=st.integers(-150, 150), count=st.integers(1, 120), limit=st.integers(0, 400))
    def test_it_is_numpys_up_to_the_limit_and_the_edge_pixel_beyond(
        self, size: int, start: int, count: int, limit: int
    ) -> None:
        plane = np.pad(np.arange(size), 400, mode="reflect")
        expected = []
        for position in range(start, start + count):
            if position < -limit:
                expected.append(0)
            elif position >= size + limit:
                expected.append(size - 1)
            else:
                expected.append(int(plane[position + 400]))
        assert reflected(start, count, size, limit).tolist() == expected

    @given(
        shape=st.tuples(st.integers(1, 23), st.integers(1, 31)),
        offset=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
        size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    )
    def test_planes_are_the_padded_scene(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        shape: tuple[int, int],
        offset: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"plane_{shape[0]}x{shape[1]}.tif"
        pixels = noise(2, *shape, seed=shape[0] * 31 + shape[1])
        pixels[:, 0, 0] = 0
        if not path.exists():
            write(path, pixels, nodata=0)
        scene = open_scene(path, expected=2)
        window = Window(*offset, *size)
        found, valid = read_plane(scene, window, 200)
        padded = np.pad(np.moveaxis(pixels, 0, -1), ((200, 200), (200, 200), (0, 0)), mode="reflect")
        expected = padded[window.shift(200, 200).slices]
        assert np.array_equal(found, expected)
        assert np.array_equal(valid, (expected != 0).all(axis=-1))
        assert found.flags.c_contiguous

    def test_only_what_appears_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scene = open_scene(write(tmp_path / "a.tif", noise(3, 700, 900)), expected=3)
        asked: list[Window] = []
        original = RasterScene.read
        monkeypatch.setattr(RasterScene, "read", lambda self, window, fill=None: (asked.append(window), original(self, window, fill))[1])  # noqa: E501  # fmt: skip
        read_plane(scene, Window(-64, 850, 100, 120), 32)
        assert asked == [Window(0, 850, 36, 50)]


class TestPixels:
    @pytest.mark.parametrize(
        ("dtype", "read_as"),
        [("uint8", "uint8"), ("int8", "int8"), ("uint16", "uint16"), ("int16", "int16"), ("float32", "float32"),
         ("float64", "float32"), ("uint32", "float32"), ("int32", "float32")],
    )  # fmt: skip
    @pytest.mark.parametrize("interleave", ["pixel", "band"])
    def test_windows_are_rasterios(self, tmp_path: Path, dtype: str, read_as: str, interleave: str) -> None:
        pixels = noise(4, 133, 211, "uint8").astype(dtype) - (100 if dtype in ("int8", "int16") else 0)
        pixels = pixels.astype(dtype)
        path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=64, blockysize=32, interleave=interleave)
        scene = open_scene(path, expected=3, bands=(4, 1, 1))
        assert (scene.dtype, scene.block, scene.bands) == (read_as, (32, 64), (4, 1, 1))
        for window in tile(scene.grid.extent, 50, 77):
            found, valid = scene.read(window)
            rows, cols = window.slices
            assert found.dtype == read_as
            assert found.flags.c_contiguous
            assert np.array_equal(found, np.moveaxis(pixels[[3, 0, 0]][:, rows, cols], 0, -1).astype(read_as))
            assert valid.all()

    def test_a_window_outside_is_a_mistake(self, tmp_path: Path) -> None:
        scene = open_scene(write(tmp_path / "a.tif", noise(3, 20, 30)), expected=3)
        with pytest.raises(UsageError, match="not inside"):
            scene.read(Window(0, 0, 21, 30))

    @pytest.mark.parametrize(
        "transform",
        [NORTH_UP, Affine(0.5, 0, 10, 0, 0.5, 20), Affine(0.4, 0.3, 10, 0.3, -0.4, 20), Affine.identity()],
        ids=["north-up", "south-up", "rotated", "none"],
    )
    def test_the_grid_is_the_files(self, tmp_path: Path, transform: Affine) -> None:
        crs = None if transform == Affine.identity() else UTM
        scene = open_scene(write(tmp_path / "a.tif", noise(3, 20, 31), transform=transform, crs=crs), expected=3)
        assert (scene.grid.height, scene.grid.width) == (20, 31)
        assert scene.grid.transform == transform
        assert (scene.grid.crs is None) == (crs is None)
        if crs is not None:
            assert scene.grid.crs.to_epsg() == 32737

    def test_many_threads_read_the_same(self, sample_rasters: Path) -> None:
        scene = pickle.loads(pickle.dumps(open_scene(sample_rasters / "settlement.tif", expected=3)))
        with rasterio.open(sample_rasters / "settlement.tif") as raster:
            whole = np.moveaxis(raster.read(), 0, -1)
        windows = tile(scene.grid.extent, 97, 301) * 3
        barrier = threading.Barrier(6)

        def check(part: list[Window]) -> bool:
            barrier.wait()
            return all(np.array_equal(scene.read(window)[0], whole[window.slices]) for window in part)

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(check, [windows[i::6] for i in range(6)]))

    def test_a_file_that_changes_is_noticed(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 20, 30))
        scene = open_scene(path, expected=3)
        assert open_scene(path, expected=3).identity == scene.identity
        shutil.copy(path, tmp_path / "b.tif")
        os.utime(tmp_path / "b.tif", ns=(0, path.stat().st_mtime_ns))
        assert open_scene(tmp_path / "b.tif", expected=3).identity == scene.identity
        write(path, noise(3, 20, 31))
        assert open_scene(path, expected=3).identity != scene.identity
        with pytest.raises(InputError, match="changed"):
            scene.read(Window(0, 0, 2, 2))


class TestNoData:
    def test_any_band_of_a_16_bit_image(self, tmp_path: Path) -> None:
        pixels = noise(3, 20, 30, "int16")
        pixels[0, 3, 4] = pixels[2, 7, 8] = -9999
        scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=-9999), expected=3)
        found, valid = scene.read(scene.grid.extent, fill=(1, 2, 3))
        assert np.array_equal(valid, (pixels != -9999).all(axis=0))
        assert found[3, 4].tolist() == found[7, 8].tolist() == [1, 2, 3]
        assert scene.read(scene.grid.extent)[0][7, 8].tolist() == [*pixels[:2, 7, 8], -9999]

    def test_all_bands_of_an_8_bit_image(self, tmp_path: Path) -> None:
        pixels = noise(3, 20, 30)
        pixels[0, 3, 4] = 0
        pixels[:, 7, 8] = 0
        scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=0), expected=3)
        assert np.argwhere(~scene.read(scene.grid.extent)[1]).tolist() == [[7, 8]]

    @pytest.mark.parametrize("nodata", [None, np.nan, -3.4028234663852886e38, 0.1])
    def test_floats_that_are_not_finite_or_equal_the_value(self, tmp_path: Path, nodata: float | None) -> None:
        pixels = noise(3, 20, 30, "float32")
        pixels[0, 1, 1], pixels[1, 2, 2], pixels[2, 3, 3] = np.nan, np.inf, -np.inf
        expected = np.isfinite(pixels).all(axis=0)
        if nodata is not None and np.isfinite(nodata):
            pixels[1, 5, 6] = nodata
            expected[5, 6] = False
        scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=nodata), expected=3)
        found, valid = scene.read(scene.grid.extent, fill=(0.5,))
        assert np.array_equal(valid, expected)
        assert (found[~valid] == 0.5).all()

    def test_a_mask_beside_the_pixels(self, tmp_path: Path) -> None:
        pixels, mask = noise(3, 20, 30), np.random.default_rng(1).random((20, 30)) > 0.3
        scene = open_scene(write(tmp_path / "a.tif", pixels, mask=mask), expected=3)
        assert np.array_equal(scene.read(Window(2, 3, 11, 20))[1], mask[2:13, 3:23])

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_alpha_is_no_band_but_tells_what_is_valid(self, tmp_path: Path, dtype: str) -> None:
        pixels = noise(4, 20, 30, dtype)
        pixels[3] = np.where(np.random.default_rng(1).random((20, 30)) > 0.3, 7, 0)
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        path = write(tmp_path / "a.tif", pixels, colors=colors)
        scene = open_scene(path, expected=3)
        assert scene.bands == (1, 2, 3)
        assert np.array_equal(scene.read(scene.grid.extent)[1], pixels[3] > 0)
        assert "3 bands besides alpha" in refusal(path, expected=4)

    def test_the_slanted_collar(self, sample_rasters: Path) -> None:
        scene = open_scene(sample_rasters / "collar.tif", expected=4)
        with rasterio.open(sample_rasters / "collar_labels.tif") as labels:
            assert np.array_equal(scene.read(scene.grid.extent)[1], labels.read(1) != 255)

    @pytest.mark.parametrize(("bands", "alpha"), [((4, 1, 2), None), ((1, 2, 3), 4), ((4, 4, 4), None)])
    def test_a_band_that_is_chosen_is_data(self, tmp_path: Path, bands: tuple[int, ...], alpha: int | None) -> None:
        pixels = noise(4, 20, 30)
        pixels[3, :, :10] = 0
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        scene = open_scene(write(tmp_path / "a.tif", pixels, colors=colors), expected=3, bands=bands)
        found, valid = scene.read(scene.grid.extent)
        assert np.array_equal(found, np.moveaxis(pixels[[b - 1 for b in bands]], 0, -1))
        assert valid.all() if alpha is None else np.array_equal(valid, pixels[3] > 0)

    def test_a_second_alpha_band_goes_on_hiding(self, tmp_path: Path) -> None:
        pixels = noise(4, 20, 30)
        pixels[2, :, :10], pixels[3, :5] = 0, 0
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.alpha, ColorInterp.alpha]
        path = write(tmp_path / "a.tif", pixels, colors=colors)
        scene = open_scene(path, expected=2, bands=(3, 1))
        assert np.array_equal(scene.read(scene.grid.extent)[1], pixels[3] > 0)
        assert open_scene(path, expected=2).bands == (1, 2)

    def test_much_that_alpha_hides_is_said(self, tmp_path: Path) -> None:
        pixels = noise(4, 64, 128)
        pixels[3, :, :64] = 0
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        path = write(tmp_path / "a.tif", pixels, colors=colors)
        assert "band 4, which it calls alpha, hides about 50 % of it" in open_scene(path, expected=3).notes[-1]
        assert open_scene(path, expected=3, bands=(4, 1, 2)).notes == ()
        pixels[3] = 255
        assert open_scene(write(tmp_path / "b.tif", pixels, colors=colors), expected=3).notes == ()


class TestBands:
    @pytest.mark.parametrize(
        ("descriptions", "colors"),
        [
            (["B02", "B03", "B04", "B08"], None),
            (["b2", "b3", "b4", "b8"], None),
            (["B2, central wavelength 490 nm", "B3, 560", "B4 (red)", "B8 (nir)"], None),
            (["Blue", "Green", "RED", "NIR"], None),
            (["B", "G", "R", "N"], None),
            ([None] * 4, ["blue", "green", "red", "nir"]),
            ([None, None, None, "near infrared"], ["blue", "green", "red", "undefined"]),
        ],
    )
    @pytest.mark.parametrize("asked", [("red", "green", "blue", "nir"), ("B4", "B3", "B2", "B8"), ("R", "g", "b", "N"),
                                       ("B04", "B03", "B02", "B08")])  # fmt: skip
    def test_usual_names(
        self, tmp_path: Path, descriptions: list[str | None], colors: list[str] | None, asked: tuple[str, ...]
    ) -> None:
        chosen = [ColorInterp[name] for name in colors] if colors else [ColorInterp.undefined] * 4
        path = write(tmp_path / "a.tif", noise(4, 8, 9, "uint16"), descriptions=descriptions, colors=chosen)
        assert open_scene(path, expected=4, bands=asked).bands == (3, 2, 1, 4)
        assert open_scene(path, expected=3, names=("red", "green", "blue")).bands == (3, 2, 1)

    def test_a_name_that_is_not_there(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 8, 9), descriptions=["red", "swir", None])
        message = refusal(path, bands=("red", "nir", 1))
        assert "no band called 'nir'; it has 1 (red), 2 (swir), 3" in message
        assert "names or numbers" in message

    def test_colours_are_found_where_they_are(self, tmp_path: Path) -> None:
        pixels = noise(4, 20, 30, "uint16")
        colors = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        path = write(tmp_path / "a.tif", pixels, colors=colors, descriptions=[None, None, None, "NIR"])
        rgb = open_scene(path, expected=3, names=("red", "green", "blue"))
        assert rgb.bands == (3, 2, 1)
        assert "red, green, blue" in rgb.notes[0]
        assert open_scene(path, expected=2, names=("nir", "red")).bands == (4, 3)
        assert open_scene(path, expected=3, names=("a", "b", "c")).bands == (1, 2, 3)
        assert open_scene(path, expected=3).bands == (1, 2, 3)

    def test_too_few_bands_says_what_to_do(self, tmp_path: Path) -> None:
        message = refusal(write(tmp_path / "a.tif", noise(1, 20, 30)), names=("red", "green", "blue"))
        assert "1 band" in message
        assert "takes 3 (red, green, blue)" in message
        assert "--bands 1,1,1" in message
        assert "--bands" in refusal(write(tmp_path / "b.tif", noise(2, 20, 30)))

    def test_bands_that_are_not_there(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 20, 30))
        assert "no band 4" in refusal(path, bands=(1, 2, 4))
        with pytest.raises(UsageError, match="names 2 bands"):
            open_scene(path, expected=3, bands=(1, 2))

    def test_a_palette_becomes_colours(self, tmp_path: Path) -> None:
        index = np.random.default_rng(0).integers(0, 3, (1, 20, 30)).astype("uint8")
        table = {0: (10, 20, 30, 255), 1: (40, 50, 60, 255), 2: (0, 0, 0, 255)}
        path = write(tmp_path / "a.tif", index, palette=table, nodata=2)
        scene = open_scene(path, expected=3)
        found, valid = scene.read(scene.grid.extent)
        assert np.array_equal(valid, index[0] != 2)
        assert np.array_equal(found, np.array([table[i][:3] for i in range(3)], np.uint8)[index[0]])
        assert "colour table" in scene.notes[0]
        assert "palette" in refusal(path, expected=4)
        assert np.array_equal(open_scene(path, expected=1, bands=(1,)).read(scene.grid.extent)[0][..., 0], index[0])


class TestGeoreference:
    @pytest.fixture
    def gcps(self, tmp_path: Path) -> Path:
        points = [
            GroundControlPoint(row, col, 39.2 + col * 1e-5, -6.1 - row * 1e-5)
            for row in (0, 60) for col in (0, 90)
        ]  # fmt: skip
        pixels = noise(3, 60, 90)
        path = write(tmp_path / "gcps.tif", pixels, crs=None, transform=Affine.identity())
        with rasterio.open(path, "r+") as raster:
            raster.gcps = (points, CRS.from_epsg(4326))
        return path

    def test_control_points_only_are_refused_with_the_remedy(self, gcps: Path) -> None:
        message = refusal(gcps)
        assert "ground control points" in message
        assert "--warp reads it" in message
        assert "gdalwarp -tps" in message

    def test_or_warped_when_asked(self, gcps: Path) -> None:
        scene = open_scene(gcps, expected=3, warp=True)
        assert scene.grid.crs.to_epsg() == 32737
        assert scene.grid.transform.a == pytest.approx(1.1, abs=0.1)
        pixels, valid = pickle.loads(pickle.dumps(scene)).read(scene.grid.extent)
        assert pixels.shape == (scene.grid.height, scene.grid.width, 3)
        assert 0.9 < valid.mean() <= 1
        with rasterio.open(gcps) as raster:
            assert pixels[valid].mean() == pytest.approx(raster.read().mean(), rel=0.05)

    def test_coefficients_with_words_among_them_are_warped_and_damaged_ones_refused(self, tmp_path: Path) -> None:
        """rasterio reads all of them as numbers: a path among them was a traceback."""
        line, sample, one = (" ".join("1" if i == at else "0" for i in range(20)) for at in (2, 1, 0))
        rpcs = {
            "LINE_OFF": "30", "SAMP_OFF": "45", "LAT_OFF": "-6.1", "LONG_OFF": "39.2", "HEIGHT_OFF": "10",
            "LINE_SCALE": "-30", "SAMP_SCALE": "45", "LAT_SCALE": "0.01", "LONG_SCALE": "0.015", "HEIGHT_SCALE": "500",
            "LINE_NUM_COEFF": line, "LINE_DEN_COEFF": one, "SAMP_NUM_COEFF": sample, "SAMP_DEN_COEFF": one,
        }  # fmt: skip

        def scene(name: str, **changes: str) -> Path:
            path = write(tmp_path / name, noise(3, 60, 90), crs=None, transform=Affine.identity())
            items = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in {**rpcs, **changes}.items())
            Path(f"{path}.aux.xml").write_text(f'<PAMDataset><Metadata domain="RPC">{items}</Metadata></PAMDataset>')
            return path

        path = scene("words.tif", RPC_DEM="/data/heights.tif", SATELLITE="")
        assert "--warp reads it" in refusal(path)
        assert open_scene(path, expected=3, warp=True).grid.crs.to_epsg() == 32737
        for name, damage in (("a.tif", "east"), ("b.tif", ""), ("c.tif", "nan")):
            with pytest.raises(InputError, match="RPCs are damaged"):
                open_scene(scene(name, LONG_OFF=damage), expected=3, warp=True)

    def test_a_transform_that_flattens_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 20, 30), transform=Affine(1, 0, 0, 1, 0, 0))
        assert "onto a line" in refusal(path)


class TestFormats:
    @pytest.mark.parametrize(
        ("driver", "name", "lossy", "options"),
        [
            ("GTiff", "a.tif", False, {"BIGTIFF": "YES"}),
            ("COG", "a.tif", False, {}),
            ("PNG", "a.png", False, {}),
            ("JPEG", "a.jpg", True, {"QUALITY": 95}),
            ("JP2OpenJPEG", "a.jp2", False, {"QUALITY": 100, "REVERSIBLE": "YES", "YCC": "NO"}),
            ("BMP", "a.bmp", False, {}),
            ("WEBP", "a.webp", False, {"LOSSLESS": "YES"}),
            ("HFA", "a.img", False, {}),
            ("ENVI", "a.dat", False, {}),
            ("ENVI", "a", False, {"SUFFIX": "ADD"}),
            ("NITF", "a.ntf", False, {}),
            ("GPKG", "a.gpkg", False, {"TILE_FORMAT": "PNG"}),
        ],
    )
    def test_every_driver_that_is_listed_is_read(
        self, tmp_path: Path, driver: str, name: str, lossy: bool, options: dict[str, object]
    ) -> None:
        smooth = np.stack([np.add.outer(np.arange(80) * i, np.arange(110)) % 250 for i in range(3)]).astype("uint8")
        source = write(tmp_path / "source.tif", smooth)
        (tmp_path / "x").mkdir()
        rasterio.shutil.copy(source, tmp_path / "x" / name, driver=driver, **options)
        scene = open_scene(tmp_path / "x" / name, expected=3)
        pixels, valid = scene.read(scene.grid.extent)
        if driver == "GPKG":  # on a tile grid of its own: data with a margin
            assert valid.sum() >= 80 * 110
            return
        assert valid.all()
        error = np.abs(pixels.astype(int) - np.moveaxis(smooth, 0, -1)).max(axis=-1)
        assert error.mean() < 20 if lossy else error.max() == 0


class TestRefused:
    def test_what_is_no_raster_file(self, tmp_path: Path) -> None:
        assert "No such file" in refusal(tmp_path / "missing.tif")
        assert "no rasters there" in refusal(tmp_path)
        (tmp_path / "empty.tif").touch()
        assert "0 bytes" in refusal(tmp_path / "empty.tif")
        (tmp_path / "text.tif").write_text("hello")
        assert "not a raster" in refusal(tmp_path / "text.tif")
        os.mkfifo(tmp_path / "pipe.tif")
        assert "not a regular file" in refusal(tmp_path / "pipe.tif")
        for hidden in ("/vsicurl/http://x/a.tif", "/vsis3/bucket/a.tif", "GTIFF_DIR:1:s3://bucket/a.tif"):
            assert "not a path or an address that is read" in refusal(hidden)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_permission_denied(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 20, 30))
        path.chmod(0)
        assert "Permission denied" in refusal(path)

    @pytest.mark.parametrize("name", ["a b.tif", "ü?x#y.tif", "GTIFF_DIR:1:x.tif", "-a.tif", "a,b;c'd.tif"])
    def test_but_no_name_is_too_strange(self, tmp_path: Path, name: str) -> None:
        assert (
            open_scene(write(tmp_path / "x.tif", noise(3, 4, 5)).rename(tmp_path / name), expected=3).dtype == "uint8"
        )

    def test_relative_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "a.tif", noise(3, 4, 5))
        monkeypatch.chdir(tmp_path)
        scene = open_scene("a.tif", expected=3)
        monkeypatch.chdir("/")
        assert scene.read(scene.grid.extent)[0].shape == (4, 5, 3)

    def test_complex_numbers(self, tmp_path: Path) -> None:
        assert "complex" in refusal(write(tmp_path / "a.tif", noise(1, 4, 5, "complex64")), expected=1)

    def test_several_rasters_in_one_file_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "pages.tif"
        pages = [noise(3, 10 + i, 20, seed=i) for i in range(3)]
        write(path, pages[0])
        for page in pages[1:]:
            shape = {"count": 3, "height": page.shape[1], "width": 20, "dtype": "uint8"}
            with rasterio.open(path, "w", driver="GTiff", append_subdataset=True, **shape) as raster:
                raster.write(page)
        message = refusal(path)
        for i, page in enumerate(pages, 1):
            name = f"GTIFF_DIR:{i}:{path}"
            assert name in message
            scene = open_scene(name, expected=3)
            assert np.array_equal(scene.read(scene.grid.extent)[0], np.moveaxis(page, 0, -1))
        assert "cannot be read" in refusal(f"GTIFF_DIR:9:{path}")
        assert "No such file" in refusal("GTIFF_DIR:1:missing.tif")

    def test_truncated(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", noise(3, 500, 600), tiled=True, blockxsize=128, blockysize=128)
        content = path.read_bytes()
        for length in (len(content) * 2 // 3, 3000):
            path.write_bytes(content[:length])
            assert f"the file has {length:,} bytes" in refusal(path)

    def test_an_unreadable_block_in_the_middle_is_named_and_the_rest_is_read(self, tmp_path: Path) -> None:
        pixels = noise(3, 512, 640)
        path = write(tmp_path / "a.tif", pixels, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
        with rasterio.open(path) as raster:
            start = int(raster.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\xff" * 64)
        scene = open_scene(path, expected=3)
        bad = []
        for window in tile(scene.grid.extent, 128, 128):
            try:
                assert np.array_equal(scene.read(window)[0], np.moveaxis(pixels, 0, -1)[window.slices])
            except InputError as error:
                bad.append((window, str(error)))
        assert [window for window, _ in bad] == [Window(128, 256, 128, 128)]
        assert "rows 128-255, columns 256-383" in bad[0][1]

    def test_a_header_that_promises_too_much(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        shape = {"count": 1, "height": 200_000, "width": 200_000, "dtype": "uint8"}
        tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "yes"}
        with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, crs=UTM, transform=NORTH_UP, **shape, **tiles):
            pass
        sparse = open_scene(path, expected=1)  # large, sparse and legitimate
        assert not sparse.read(Window(150_000, 7, 10, 10))[0].any()
        content = path.read_bytes()
        path.write_bytes(content[:600])
        assert refusal(path, expected=1)

    def test_pieces_too_large_for_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tileseg.source.header.LARGEST_BLOCK", 2 << 20)
        pixels = noise(3, 1000, 1100)
        fine = write(tmp_path / "a.tif", pixels, interleave="band", blockysize=1000, compress="deflate")
        assert open_scene(fine, expected=3).block == (1000, 1100)
        path = write(tmp_path / "b.tif", pixels, interleave="pixel", blockysize=1000, compress="deflate")
        message = refusal(path)
        assert "1100 x 1000 pixels x 3 bands, 3 MiB each" in message
        assert "gdal_translate -co TILED=YES" in message


VRT = """<VRTDataset rasterXSize="30" rasterYSize="20">{extra}
  <VRTRasterBand dataType="Byte" band="1"><SimpleSource>
    <SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand>
  </SimpleSource></VRTRasterBand></VRTDataset>"""


class TestVirtualRasters:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "inside"
        (folder / "below").mkdir(parents=True)
        for path in (tmp_path / "outside.tif", folder / "a.tif", folder / "below" / "b.tif"):
            write(path, noise(1, 20, 30))
        return folder

    def vrt(self, path: Path, source: str, extra: str = "") -> Path:
        path.write_text(VRT.format(source=source, extra=extra))
        return path

    @pytest.mark.parametrize("name", ["x.vrt", "hidden.tif"])
    @pytest.mark.parametrize("source", ["a.tif", "below/b.tif"])
    def test_files_beside_it_are_read(self, folder: Path, name: str, source: str) -> None:
        scene = open_scene(self.vrt(folder / name, source), expected=1)
        with rasterio.open(folder / source) as raster:
            assert np.array_equal(scene.read(scene.grid.extent)[0][..., 0], raster.read(1))

    @pytest.mark.parametrize(
        "source",
        ["../outside.tif", "below/../../outside.tif", "/etc/passwd", "/vsicurl/http://example.org/a.tif",
         "/vsimem/a.tif", "http://example.org/a.tif", "&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;", "vrt://a.tif"],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["x.vrt", "hidden.tif"])
    def test_nothing_else_is(self, folder: Path, name: str, source: str) -> None:
        assert "outside its own folder" in refusal(self.vrt(folder / name, source), expected=1)

    def test_links_lead_nowhere_else(self, folder: Path) -> None:
        (folder / "link.tif").symlink_to(folder.parent / "outside.tif")
        assert "outside its own folder" in refusal(self.vrt(folder / "x.vrt", "link.tif"), expected=1)

    def test_absolute_paths_into_the_folder_are_harmless(self, folder: Path) -> None:
        assert open_scene(self.vrt(folder / "x.vrt", str(folder / "a.tif")), expected=1).grid.width == 30

    def test_nested_ones_are_followed(self, folder: Path) -> None:
        self.vrt(folder / "middle.tif", "a.tif")
        assert open_scene(self.vrt(folder / "x.vrt", "middle.tif"), expected=1).grid.width == 30
        self.vrt(folder / "middle.tif", "../outside.tif")
        assert "middle.tif: refers to '../outside.tif'" in refusal(folder / "x.vrt", expected=1)
        self.vrt(folder / "below" / "c.vrt", "../a.tif")
        assert "outside its own folder" in refusal(self.vrt(folder / "x.vrt", "below/c.vrt"), expected=1)

    def test_circles_end(self, folder: Path) -> None:
        self.vrt(folder / "y.vrt", "x.vrt")
        assert "levels deep" in refusal(self.vrt(folder / "x.vrt", "y.vrt"), expected=1)

    @pytest.mark.parametrize(
        ("extra", "complaint"),
        [
            ("<PixelFunctionCode>import os</PixelFunctionCode>", "program code"),
            (
                '<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">../outside.tif</MDI></Metadata>',
                "geolocation array",
            ),
            ("<GDALWarpOptions><SourceDataset>/etc/passwd</SourceDataset></GDALWarpOptions>", "outside its own"),
            ("<", "damaged"),
        ],
    )
    def test_other_ways_out(self, folder: Path, extra: str, complaint: str) -> None:
        assert complaint in refusal(self.vrt(folder / "x.vrt", "a.tif", extra), expected=1)

    def test_entities(self, folder: Path) -> None:
        text = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + VRT.format(source="&e;", extra="")
        (folder / "x.vrt").write_text(text)
        assert "document type" in refusal(folder / "x.vrt", expected=1)

    def test_sources_of_other_formats(self, folder: Path) -> None:
        (folder / "wms.xml").write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
        assert "not a raster that tileseg reads" in refusal(self.vrt(folder / "x.vrt", "wms.xml"), expected=1)
        assert "not there" in refusal(self.vrt(folder / "x.vrt", "missing.tif"), expected=1)

    @pytest.mark.parametrize("suffix", [".ovr", ".msk"])
    def test_files_that_gdal_would_look_for(self, folder: Path, suffix: str) -> None:
        self.vrt(folder / f"a.tif{suffix}", "/etc/passwd")
        assert "remove it" in refusal(folder / "a.tif", expected=1)

    def test_a_source_that_changes_is_noticed(self, folder: Path) -> None:
        path = self.vrt(folder / "x.vrt", "a.tif")
        before = open_scene(path, expected=1).identity
        write(folder / "a.tif", noise(1, 20, 30, seed=1), compress="deflate")
        assert open_scene(path, expected=1).identity != before


class TestStatistics:
    def test_they_are_those_of_the_valid_pixels(self, tmp_path: Path) -> None:
        pixels = noise(2, 700, 300, "int16")
        pixels[1] *= 3
        pixels[:, 100:400, :] = -1
        scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=-1), expected=2)
        mean, std = statistics(scene)
        data = np.concatenate([pixels[:, :100], pixels[:, 400:]], axis=1).reshape(2, -1)
        assert mean == pytest.approx(data.mean(axis=1))
        assert std == pytest.approx(data.std(axis=1))

    def test_a_large_scene_is_sampled_evenly(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows, cols = np.mgrid[0:2048, 0:3072]
        pixels = np.stack([rows // 10, cols // 10]).astype("int16")
        scene = open_scene(write(tmp_path / "a.tif", pixels, tiled=True), expected=2)
        monkeypatch.setattr("tileseg.source.statistics._SAMPLE_WINDOWS", 20)
        mean, std = statistics(scene)
        assert mean == pytest.approx(pixels.reshape(2, -1).mean(axis=1), rel=0.1)
        assert std == pytest.approx(pixels.reshape(2, -1).std(axis=1), rel=0.1)
        assert [v.tolist() for v in statistics(scene)] == [mean.tolist(), std.tolist()]

    def test_a_small_island_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = np.zeros((1, 2048, 2048), "uint8")
        pixels[0, 300:310, 1000:1010] = 7
        scene = open_scene(write(tmp_path / "a.tif", pixels, nodata=0, compress="deflate", tiled=True), expected=1)
        monkeypatch.setattr("tileseg.source.statistics._SAMPLE_WINDOWS", 4)
        assert [v.tolist() for v in statistics(scene)] == [[7.0], [1.0]]

    def test_no_valid_pixel(self, tmp_path: Path) -> None:
        scene = open_scene(write(tmp_path / "a.tif", np.zeros((1, 20, 30), "uint8"), nodata=0), expected=1)
        with pytest.raises(InputError, match="no valid pixel"):
            statistics(scene)


class TestOverview:
    def test_eight_bits_stay_as_they_are(self, sample_rasters: Path) -> None:
        scene = open_scene(sample_rasters / "tiny.tif", expected=3)
        assert np.array_equal(overview_rgb(scene, 200), scene.read(scene.grid.extent)[0])
        large = open_scene(sample_rasters / "settlement.tif", expected=3)
        small = overview_rgb(large, 150)
        assert small.shape == (110, 150, 3)
        whole = large.read(large.grid.extent)[0]
        average = whole.reshape(110, 10, 150, 10, 3).mean(axis=(1, 3))
        assert np.abs(small - average).mean() < 15
        assert small.mean() == pytest.approx(whole.mean(), rel=0.02)

    def test_other_types_are_stretched_and_nodata_is_grey(self, sample_rasters: Path) -> None:
        scene = open_scene(sample_rasters / "collar.tif", expected=4)
        picture = overview_rgb(scene, 1000)
        valid = scene.read(scene.grid.extent)[1]
        assert (picture[~valid] == 224).all()
        assert np.percentile(picture[valid], [3, 97]).tolist() == pytest.approx([0, 255], abs=25)

    def test_a_window_alone_is_looked_at(self, tmp_path: Path) -> None:
        pixels = noise(3, 60, 90)
        scene = open_scene(write(tmp_path / "a.tif", pixels), expected=3)
        window = Window(10, 40, 20, 31)
        assert np.array_equal(overview_rgb(scene, 100, window), np.moveaxis(pixels, 0, -1)[window.slices])
        with pytest.raises(UsageError, match="not inside"):
            overview_rgb(scene, 100, Window(50, 0, 20, 20))

    def test_one_band_is_grey(self, tmp_path: Path) -> None:
        scene = open_scene(write(tmp_path / "a.tif", noise(1, 20, 30)), expected=1)
        picture = overview_rgb(scene, 15)
        assert picture.shape == (10, 15, 3)
        assert (picture[..., 0] == picture[..., 2]).all()


class TestLabels:
    def test_class_ids_with_nodata_colours_and_names(self, sample_rasters: Path) -> None:
        labels = open_labels(sample_rasters / "collar_labels.tif")
        with rasterio.open(sample_rasters / "collar_labels.tif") as raster:
            assert np.array_equal(
                labels.read_labels(Window(5, 7, 100, 50)), raster.read(1, window=Frame(7, 5, 50, 100))
            )
        assert (labels.nodata, labels.dtype) == (255, "uint8")
        assert labels.colors[1] == "#d9544d"
        assert labels.names[1] == "building"
        assert labels.read_confidence(Window(0, 0, 1, 1)) is None
        assert pickle.loads(pickle.dumps(labels)) == labels

    @pytest.mark.parametrize(
        ("dtype", "wider"),
        [("uint8", "int16"), ("int16", "int32"), ("uint16", "int32"), ("int32", "int32"), ("uint32", "int32")],
    )
    def test_a_mask_gets_an_id_that_no_class_can_have(self, tmp_path: Path, dtype: str, wider: str) -> None:
        mask = np.random.default_rng(0).random((20, 30)) > 0.5
        labels = open_labels(write(tmp_path / "a.tif", noise(1, 20, 30, dtype), mask=mask))
        found = labels.read_labels(labels.grid.extent)
        assert found.dtype == wider
        assert np.array_equal(found == labels.nodata, ~mask)
        assert np.array_equal(found[mask], noise(1, 20, 30, dtype)[0][mask])

    @pytest.mark.parametrize("dtype", ["int32", "uint32"])
    def test_large_ids_are_not_rounded(self, tmp_path: Path, dtype: str) -> None:
        ids = np.full((1, 4, 5), 2**30 + 1, dtype)
        assert (open_labels(write(tmp_path / "a.tif", ids)).read_labels(Window(0, 0, 4, 5)) == 2**30 + 1).all()

    def test_unsigned_32_bits_with_the_usual_nodata(self, tmp_path: Path) -> None:
        ids = np.array([[[5, 2**32 - 1, 7]]], "uint32")
        labels = open_labels(write(tmp_path / "a.tif", ids, nodata=2**32 - 1))
        assert labels.read_labels(Window(0, 0, 1, 3)).tolist() == [[5, labels.nodata, 7]]
        assert labels.dtype == "int32"
        ids[0, 0, 0] = 2**31
        labels = open_labels(write(tmp_path / "b.tif", ids, nodata=2**32 - 1))
        with pytest.raises(
            InputError, match=r"2147483648; expected at most 2147483647; .*gdal_translate -a_nodata 2147483648"
        ):
            labels.read_labels(Window(0, 0, 1, 3))

    @pytest.mark.parametrize("dtype", ["int64", "uint64", "uint32", "float32", "float64"])
    def test_other_types_are_read_where_they_hold_class_ids(self, tmp_path: Path, dtype: str) -> None:
        ids = np.array([[[0, 7, 250], [3, 2**24, 1]]]).astype(dtype)
        labels = open_labels(write(tmp_path / "a.tif", ids))
        found = labels.read_labels(Window(0, 0, 2, 3))
        assert found.dtype == "int32"
        assert found.tolist() == [[0, 7, 250], [3, 2**24, 1]]
        labels = open_labels(write(tmp_path / "b.tif", ids, nodata=0))
        assert labels.read_labels(Window(0, 0, 1, 3)).tolist() == [[labels.nodata, 7, 250]]

    @pytest.mark.parametrize(
        ("dtype", "value", "complaint"),
        [("float32", 0.5, "0.5; expected class ids as whole numbers"), ("int64", 2**40, "expected at most 2147483647"),
         ("float64", 1e12, "expected at most"), ("uint64", 2**63, "expected at most")],
    )  # fmt: skip
    def test_other_values_are_refused_with_the_remedy(
        self, tmp_path: Path, dtype: str, value: float, complaint: str
    ) -> None:
        ids = np.array([[[1, 2, value]]]).astype(dtype)
        labels = open_labels(write(tmp_path / "a.tif", ids))
        with pytest.raises(InputError, match=complaint):
            labels.read_labels(Window(0, 0, 1, 3))

    def test_no_number_is_no_class(self, tmp_path: Path) -> None:
        labels = open_labels(write(tmp_path / "a.tif", np.array([[[1, np.nan, 2]]], "float32")))
        assert labels.read_labels(Window(0, 0, 1, 3)).tolist() == [[1, labels.nodata, 2]]

    def test_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="expected one band"):
            open_labels(write(tmp_path / "a.tif", noise(2, 4, 5)))


SURVEY = """
import json, resource, signal, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from tileseg.errors import InputError
from tileseg.source.scene import open_scene
from tileseg.window import tile
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(json.dumps({"begins": path.name}), flush=True)
    signal.alarm(10)
    start, outcome = time.perf_counter(), "pixels"
    try:
        try:
            scene = open_scene(path, expected=3)
        except InputError as error:
            if "takes 3" not in str(error):
                raise
            scene = open_scene(path, expected=1, bands=(1,))
        for window in tile(scene.grid.extent, 1024, 1024):
            pixels, valid = scene.read(window)
            assert pixels.shape == (window.height, window.width, len(scene.bands)), pixels.shape
            assert valid.shape == (window.height, window.width), valid.shape
    except InputError as error:
        outcome = str(error)
    print(json.dumps({"name": path.name, "outcome": outcome}), flush=True)
"""


@pytest.mark.real_data
@pytest.mark.parametrize(("folder", "readable"), [("odd", 17), ("bad", 1)])
def test_every_unusual_raster_gives_pixels_or_one_line(real_data: Path, folder: str, readable: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SURVEY, str(real_data / folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1], done.stderr)
    assert done.stderr == "", "GDAL must not write to the terminal"
    found = {line["name"]: line["outcome"] for line in lines if "name" in line}
    assert len(found) == len(list((real_data / folder).iterdir()))
    assert sum(outcome == "pixels" for outcome in found.values()) >= readable
    assert all("\n" not in outcome and len(outcome) < 700 for outcome in found.values())


@pytest.mark.real_data
def test_real_scenes_are_read_as_rasterio_reads_them(real_data: Path) -> None:
    for name in ("buildings/zanzibar_1_rgb.tif", "landcover/dubai_tile4_rgb.tif"):
        scene = open_scene(real_data / name, expected=3)
        with rasterio.open(real_data / name) as raster:
            whole = np.moveaxis(raster.read(), 0, -1)
        for window in tile(scene.grid.extent, 700, 1100):
            assert np.array_equal(scene.read(window)[0], whole[window.slices])
