"""Whole slides: exact regions of any level, coordinates in pixels of the slide, glass without data."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
import tifffile
from fakes import smooth_noise, write_scene

from tileseg.errors import InputError, UsageError
from tileseg.source.protocol import ReadRequest
from tileseg.source.scene import opener_of
from tileseg.source.slide import SlideScene
from tileseg.view.viewed import look_into
from tileseg.window import Window

if TYPE_CHECKING:
    from conftest import Command

MICRONS = 0.5


def write_slide(path: Path, pixels: Any, **more: Any) -> Path:
    """Write a slide in three sizes, 1/1, 1/4 and 1/16: what is left over of the last pixels is cut off."""
    options = {
        "tile": (240, 240), "photometric": "rgb", "compression": "deflate", "metadata": None,
        "resolution": (1e4 / MICRONS, 1e4 / MICRONS), "resolutionunit": "CENTIMETER", **more,
    }  # fmt: skip
    with tifffile.TiffWriter(path) as file:
        for step in (1, 4, 16):
            rows, cols = pixels.shape[0] // step, pixels.shape[1] // step
            blocks = pixels[: rows * step, : cols * step].reshape(rows, step, cols, step, 3)
            file.write(blocks.mean((1, 3)).astype(np.uint8), subfiletype=int(step > 1), **options)
    return path


@pytest.fixture(scope="module")
def stained() -> Any:
    """(y, x, 3): glass, and tissue at the right."""
    pixels = np.full((1003, 2305, 3), 243, np.uint8)
    pixels[200:900, 1500:2200] = smooth_noise(700, 700, 3, 5) * (0.5, 0.2, 0.5) + (60, 20, 80)
    return pixels


@pytest.fixture(scope="module")
def slide(stained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "a.tif", stained)


def opened(path: Path, **more: Any) -> SlideScene:
    scene = opener_of(path).open(path, ReadRequest(3, **more))
    assert isinstance(scene, SlideScene)
    return scene


class TestLevels:
    @pytest.mark.parametrize(
        ("metres", "number"), [(None, 0), (2e-7, 0), (5e-7, 0), (1.9e-6, 0), (2e-6, 1), (7e-6, 1), (8e-6, 2), (1e-3, 2)]
    )
    def test_the_smallest_that_is_fine_enough(self, slide: Path, metres: float | None, number: int) -> None:
        scene = opened(slide, metres=metres)
        assert scene.level.number == number
        assert scene.grid.pixel_metres == pytest.approx((5e-7 * 4**number,) * 2)
        assert scene.grid.transform @ (3, 5) == (3 * 4**number, 5 * 4**number)

    def test_the_slide_itself_has_its_own_pixels(self, slide: Path, stained: Any) -> None:
        pixels, valid = opened(slide).read(Window(190, 1490, 300, 420))
        assert np.array_equal(pixels, stained[190:490, 1490:1910])
        assert valid.all()

    @pytest.mark.parametrize("metres", [5e-7, 2e-6, 8e-6])
    def test_a_window_is_that_of_the_whole(self, slide: Path, metres: float) -> None:
        scene = pickle.loads(pickle.dumps(opened(slide, metres=metres, skips_glass=True)))
        whole, data = scene.read(scene.grid.extent)
        draw = np.random.default_rng(3)
        for _ in range(30):
            row, col = draw.integers(scene.grid.height - 9), draw.integers(scene.grid.width - 11)
            window = Window(int(row), int(col), *(int(n) for n in draw.integers(1, (9, 11))))
            pixels, valid = scene.read(window)
            assert np.array_equal(valid, data[window.slices])
            if valid.any():
                assert np.array_equal(pixels, whole[window.slices])

    def test_rasters_of_the_ground_stay_with_gdal(self, tmp_path: Path, stained: Any) -> None:
        ground = write_scene(tmp_path / "a.tif", stained[:300, :400])
        assert opener_of(ground).name == "rasters that GDAL reads"
        coarse = write_slide(tmp_path / "b.tif", stained, resolution=(72, 72), resolutionunit="INCH")
        assert opener_of(coarse).name == "rasters that GDAL reads"


def write_ome(path: Path, pixels: Any, axes: str = "YXS") -> Path:
    """Write an OME-TIFF whose smaller sizes are in directories of their own below the first."""
    options = {"tile": (240, 256), "photometric": "rgb" if axes == "YXS" else "minisblack", "compression": "deflate"}
    said = {
        "axes": axes,
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 250,
        "PhysicalSizeYUnit": "nm",
    }
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=2, metadata=said, **options)
        for step in (2, 8):
            file.write(
                pixels[..., ::step, ::step] if axes != "YXS" else pixels[::step, ::step], subfiletype=1, **options
            )
    return path


class TestOmeTiff:
    @pytest.mark.parametrize(("metres", "step"), [(None, 1), (5e-7, 2), (2e-6, 8)])
    def test_levels(self, tmp_path: Path, stained: Any, metres: float | None, step: int) -> None:
        scene = opened(write_ome(tmp_path / "a.ome.tif", stained), metres=metres)
        pixels, valid = scene.read(scene.grid.extent)
        assert np.array_equal(pixels, stained[::step, ::step])
        assert valid.all()
        assert scene.grid.pixel_metres == pytest.approx((2.5e-7 * step,) * 2)
        window = Window(3, 5, 90, 70)
        assert np.array_equal(scene.read(window)[0], pixels[window.slices])

    def test_other_kinds_stay_with_gdal(self, tmp_path: Path, stained: Any) -> None:
        path = write_ome(tmp_path / "a.ome.tif", np.moveaxis(stained, 2, 0), "CYX")
        assert opener_of(path).name == "rasters that GDAL reads"

    def test_damage_is_one_line(self, tmp_path: Path, stained: Any) -> None:
        path = write_ome(tmp_path / "a.ome.tif", stained)
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as file:
            start = file.pages[0].dataoffsets[0]
        data[start : start + 40] = bytes(40)
        path.write_bytes(data)
        with pytest.raises(InputError, match="cannot be read"):
            opened(path)


class TestGlass:
    def test_has_no_data_but_its_colours(self, slide: Path, stained: Any) -> None:
        scene = opened(slide, skips_glass=True)
        pixels, valid = scene.read(Window(150, 1400, 800, 850), (1, 2, 3))
        assert np.array_equal(pixels, stained[150:950, 1400:2250])
        assert valid[50:750, 100:800].all()
        assert not valid[:10].any()
        assert 0.2 < valid.mean() < 0.95
        assert "glass, which is skipped" in scene.notes[-1]
        assert opened(slide).read(scene.grid.extent)[1].all()

    def test_none_is_found_where_nothing_is_like_it(self, tmp_path: Path, stained: Any) -> None:
        scene = opened(write_slide(tmp_path / "a.tif", np.full_like(stained, 243)), skips_glass=True)
        assert not scene.skips_glass
        assert scene.notes[-1].startswith("no glass is skipped")

    def test_another_mask_is_another_scene(self, slide: Path) -> None:
        scenes = [opened(slide), opened(slide, skips_glass=True), opened(slide, metres=2e-6)]
        assert len({scene.identity for scene in scenes}) == 3


def outlines(features: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Class and outline of polygons, in an order of their own."""
    found = ((f["properties"]["class"], shapely.geometry.shape(f["geometry"]).normalize().wkt) for f in features)
    return sorted(found)


class TestRuns:
    def test_polygons_lie_in_pixels_of_the_slide(
        self, slide: Path, model: Path, tmp_path: Path, in_process: Command
    ) -> None:
        out = tmp_path / "out"
        asked = ("--model", model, "--gsd", "2e-6", "--format", "geojson,qupath", "--json", "--precision", "float32")
        done = in_process("run", slide, "--out", out, *asked)
        assert done.returncode == 0, done.stderr
        assert "level 1 of 3 is read" in done.stdout
        assert not isinstance(look_into(out).scene, str)  # tileseg view shows the level that was read
        plain = json.loads((out / "polygons.geojson").read_text())["features"]
        annotations = json.loads((out / "polygons.qupath.geojson").read_text())["features"]
        assert len(annotations) == len(plain) > 3
        for annotation, feature in zip(annotations, plain, strict=True):
            outline = shapely.geometry.shape(annotation["geometry"])
            assert outline.normalize().equals(shapely.geometry.shape(feature["geometry"]).normalize())
            assert outline.within(shapely.box(1450, 150, 2250, 950))
            said, of = annotation["properties"], feature["properties"]
            assert said["objectType"] == "annotation"
            color = {"roof": [0xD7, 0x30, 0x27], "water": [0x45, 0x75, 0xB4]}[of["class_name"]]
            assert said["classification"] == {"name": of["class_name"], "color": color}
            assert said["measurements"]["pixels"] == of["pixels"] == pytest.approx(outline.area / 16)
        ome = json.loads((out / "mosaic.zarr/zarr.json").read_text())["attributes"]["ome"]
        (sizes,) = ome["multiscales"]
        for i, (size, factor) in enumerate(zip(sizes["datasets"], (1, 2, 4, 8, 16), strict=False)):
            assert (out / "mosaic.zarr" / size["path"] / "zarr.json").exists()
            scale, shift = (list(each.values())[1] for each in size["coordinateTransformations"])
            assert scale == pytest.approx([2.0 * factor] * 2), i  # micrometres
            assert shift == pytest.approx([factor - 1.0] * 2)
        assert ome["image-label"]["colors"][1] == {"label-value": 1, "rgba": [0xD7, 0x30, 0x27, 255]}
        said = "coordinates are those of a plane, 'Pixels of a slide, from its upper left corner'"
        assert said in json.loads((out / "polygons.geojson").read_text())["description"]
        pieces = in_process("run", slide, "--out", tmp_path / "pieces", "--block", "64", "--window", "64", *asked)
        assert pieces.returncode == 0, pieces.stderr
        again = json.loads((tmp_path / "pieces/polygons.geojson").read_text())["features"]
        assert outlines(again) == outlines(plain)
        all_of_it = in_process("run", slide, "--out", tmp_path / "all", "--tissue", "none", *asked)
        assert all_of_it.returncode == 0, all_of_it.stderr
        assert json.loads(all_of_it.stdout)["pixels"] != json.loads(done.stdout)["pixels"]

    def test_qupath_gets_pixels_of_other_pictures(self, model: Path, tmp_path: Path, in_process: Command) -> None:
        scene = write_scene(tmp_path / "a.tif", smooth_noise(90, 140, 3))
        done = in_process("run", scene, "--model", model, "--out", tmp_path / "out", "--format", "qupath,gpkg", "--raw")
        assert done.returncode == 0, done.stderr
        features = json.loads((tmp_path / "out/polygons.qupath.geojson").read_text())["features"]
        corners = [shapely.geometry.shape(feature["geometry"]).bounds for feature in features]
        assert np.min(corners) == 0
        assert np.max(corners) == 140
        assert all(value == round(value) for value in np.ravel(corners))


class TestRefusals:
    def test_damage_is_one_line(self, tmp_path: Path, slide: Path) -> None:
        path = tmp_path / "a.svs"
        for data in (slide.read_bytes()[:5000], b"II*\0" + bytes(200), b"", slide.read_bytes()[:-9000]):
            path.write_bytes(data)
            with pytest.raises(InputError) as caught:
                opened(path)
            assert "\n" not in str(caught.value)

    def test_a_claim_of_more_than_there_is(self, tmp_path: Path, slide: Path) -> None:
        data = bytearray(slide.read_bytes())
        first = int.from_bytes(data[4:8], "little")
        for i in range(int.from_bytes(data[first : first + 2], "little")):
            entry = first + 2 + 12 * i
            if int.from_bytes(data[entry : entry + 2], "little") == 325:  # bytes of each tile
                data[entry + 4 : entry + 8] = (1 << 30).to_bytes(4, "little")
        path = tmp_path / "a.svs"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"claims a part of|is a damaged TIFF"):
            opened(path)

    def test_one_that_changes(self, tmp_path: Path, stained: Any) -> None:
        path = write_slide(tmp_path / "a.tif", stained)
        scene = opened(path)
        write_slide(path, stained[:900])
        with pytest.raises(InputError, match="has changed since"):
            scene.read(Window(0, 0, 10, 20))

    def test_a_package_that_is_missing_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.svs"
        path.write_bytes(b"II*\0")
        monkeypatch.setitem(sys.modules, "openslide", None)
        with pytest.raises(UsageError, match=r'pip install "tileseg\[slides\]"'):
            opened(path)

    @pytest.mark.real_data
    def test_real_ones(self, real_data: Path) -> None:
        for name in ("small.svs", "boxes_0.dcm", "boxes_1.dcm"):
            scene = opened(real_data / "slides" / name)
            assert scene.grid.pixel_metres == pytest.approx((4.99e-7,) * 2)
            assert scene.read(scene.grid.extent)[0].shape == (16, 16, 3)
        with pytest.raises(InputError, match=r"cannot be read at rows 0 to 16.*Bogus marker"):
            opened(real_data / "slides/unreadable.svs")
