"""Bands that lie in several files are one scene; bands of quality hide pixels; numbers follow the metadata."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
from affine import Affine
from fakes import smooth_noise

from tileseg.errors import InputError, UsageError
from tileseg.reading import MaskRule
from tileseg.source.protocol import Joining, PixelSource, ReadRequest
from tileseg.source.scene import open_request
from tileseg.source.stack import hidden
from tileseg.spec import RunSpec
from tileseg.storage.place import parse_places
from tileseg.window import Window

HEIGHT, WIDTH = 84, 126
CORNER = Affine(10, 0, 499_980, 0, -10, 4_000_020)
PIXELS = smooth_noise(HEIGHT, WIDTH, 4).astype(np.uint16) * 17 + 900
COLORS = ("red", "green", "blue")
SENTINEL = {"B04": 0, "B03": 1, "B02": 2, "B08": 3}
"""Sentinel-2's names of the bands, and which of PIXELS they are."""


def write(path: Path, plane: npt.NDArray[Any], transform: Affine = CORNER, **more: Any) -> Path:
    """A band (y, x) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = more.pop("measure", None)
    with rasterio.open(
        path, "w", driver="GTiff", dtype=plane.dtype, crs="EPSG:32637", transform=transform, height=plane.shape[-2],
        width=plane.shape[-1], count=1 if plane.ndim == 2 else len(plane), **more,
    ) as file:  # fmt: skip
        file.write(plane[None] if plane.ndim == 2 else plane)
        if scale is not None:
            file.scales, file.offsets = ([value] * file.count for value in scale)
    return path


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each band, as Sentinel-2 calls them."""
    folder = tmp_path_factory.mktemp("bands")
    return {name: write(folder / f"{name}.tif", PIXELS[..., i]) for name, i in SENTINEL.items()}


def opened(named: object, names: tuple[str, ...] = COLORS, bands: Any = None, **joining: Any) -> PixelSource:
    if "mask" in joining:
        joining["mask"] = tuple(map(MaskRule.parse, joining["mask"]))
    wanted = ReadRequest(len(bands or names), bands, names, joining=Joining(**joining))
    return open_request(parse_places(named), wanted)  # type: ignore[arg-type]


def whole(source: PixelSource) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    return source.read(source.grid.extent)


class TestWhichBands:
    def test_by_their_names_in_the_models_order(self, bands: dict[str, Path]) -> None:
        pixels, valid = whole(opened({name: bands[name] for name in ("B08", "B02", "B04", "B03")}))
        assert np.array_equal(pixels, PIXELS[..., :3])
        assert valid.all()

    def test_as_the_user_calls_them(self, bands: dict[str, Path]) -> None:
        source = opened({"nir": bands["B08"], "red": bands["B04"]}, names=("nir", "red"))
        assert np.array_equal(whole(source)[0], PIXELS[..., [3, 0]])
        assert source.bands == (1, 2)

    def test_in_their_order_where_names_say_nothing(self, bands: dict[str, Path]) -> None:
        source = opened({"x": bands["B08"], "y": bands["B02"], "z": bands["B04"]})
        assert np.array_equal(whole(source)[0], PIXELS[..., [3, 2, 0]])

    def test_as_bands_says(self, bands: dict[str, Path]) -> None:
        source = opened(bands, bands=("B08", "B03", "B02"))
        assert np.array_equal(whole(source)[0], PIXELS[..., [3, 1, 2]])

    @pytest.mark.parametrize(
        ("chosen", "options", "match"),
        [
            (("B04", "B08"), {}, "has the bands B04, B08; the model takes 3 .red, green, blue.; say which are which"),
            (("B04", "B08"), {"bands": ("B04", "B03", "B08")}, "has no band called B03; it has B04, B08"),
            (("B04", "B03", "B02"), {"mask": ["SCL:3"]}, "has no band called SCL; it has B04, B03, B02"),
            (("B04", "B03", "B02"), {"bands": (1, 2, 4)}, "has no band 4"),
            (("B04", "B03", "B02"), {"bands": (1, 2)}, "names 2 bands; the model takes 3"),
        ],
    )
    def test_those_that_there_are_not(self, bands: dict[str, Path], chosen: Any, options: Any, match: str) -> None:
        named = parse_places({name: bands[name] for name in chosen})
        options = {**options, "mask": tuple(map(MaskRule.parse, options.pop("mask", ())))}
        numbers = options.pop("bands", None)
        with pytest.raises(UsageError, match=match):
            open_request(named, ReadRequest(3, numbers, COLORS, joining=Joining(**options)))

    def test_a_file_that_is_broken_is_named(self, bands: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "b.tif").write_bytes(b"II*\0")
        with pytest.raises(InputError, match=r"b\.tif"):
            opened({"B04": bands["B04"], "B03": tmp_path / "b.tif", "B02": bands["B02"]})

    def test_it_travels(self, bands: dict[str, Path]) -> None:
        source = opened(bands)
        again = pickle.loads(pickle.dumps(source))
        assert again == source
        assert np.array_equal(whole(again)[0], whole(source)[0])


class TestResolutions:
    """A band of 20 m between those of 10 m."""

    @pytest.fixture
    def mixed(self, bands: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
        coarse = PIXELS[::2, ::2, 1]
        return {**bands, "B03": write(tmp_path / "B03.tif", coarse, CORNER @ Affine.scale(2))}

    def test_the_finest_is_the_scenes(self, mixed: dict[str, Path]) -> None:
        source = opened(mixed, resampling="nearest")
        assert source.grid.transform == CORNER
        pixels, valid = whole(source)
        assert valid.all()
        assert np.array_equal(pixels[..., [0, 2]], PIXELS[..., [0, 2]])
        assert np.array_equal(pixels[..., 1], PIXELS[::2, ::2, 1].repeat(2, 0).repeat(2, 1))
        assert any("1 of the 3 files of its bands are resampled onto pixels of 10 (nearest" in n for n in source.notes)

    def test_bilinear_between_the_centres(self, mixed: dict[str, Path]) -> None:
        pixels, _ = whole(opened(mixed))
        low = PIXELS[::2, ::2, 1].astype(float)
        rows = low[:-1] * 0.75 + low[1:] * 0.25
        expected = rows[:, :-1] * 0.75 + rows[:, 1:] * 0.25
        assert np.abs(pixels[1:-1:2, 1:-1:2, 1] - expected).max() <= 0.51

    @pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
    def test_any_window_is_that_of_the_whole(self, mixed: dict[str, Path], resampling: str) -> None:
        source = opened(mixed, resampling=resampling)
        pixels, valid = whole(source)
        rng = np.random.default_rng(2)
        for _ in range(10):
            window = Window(*(int(n) for n in (*rng.integers(0, 50, 2), *rng.integers(1, 34, 2))))
            part, known = source.read(window)
            assert np.array_equal(part, pixels[window.slices])
            assert np.array_equal(known, valid[window.slices])

    def test_the_coarser_if_that_is_asked_for(self, mixed: dict[str, Path]) -> None:
        source = opened(mixed, resolution=20.0)
        assert (source.grid.height, source.grid.width) == (HEIGHT // 2, WIDTH // 2)
        assert np.array_equal(whole(source)[0][..., 1], PIXELS[::2, ::2, 1])

    def test_a_smaller_one_leaves_a_gap(self, bands: dict[str, Path], tmp_path: Path) -> None:
        small = write(tmp_path / "small.tif", PIXELS[10:60, 5:100, 1], CORNER @ Affine.translation(5, 10))
        source = opened({**bands, "B03": small})
        pixels, valid = whole(source)
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[10:60, 5:100] = True
        assert np.array_equal(valid, expected)
        assert np.array_equal(pixels[valid], PIXELS[..., :3][valid])
        assert source.has_gaps
        picture, seen = source.read_thinned(source.grid.extent, (42, 63))
        assert picture.shape == (42, 63, 3)
        assert 0 < seen.mean() < 1


class TestMasks:
    SCL = (np.indices((HEIGHT // 2, WIDTH // 2)).sum(axis=0) // 7 % 12).astype(np.uint8)

    def test_classes_of_a_band_at_another_resolution(self, bands: dict[str, Path], tmp_path: Path) -> None:
        scl = write(tmp_path / "SCL.tif", self.SCL, CORNER @ Affine.scale(2))
        source = opened({**bands, "SCL": scl}, mask=["SCL:3,8-10"])
        pixels, valid = whole(source)
        fine = self.SCL.repeat(2, 0).repeat(2, 1)
        assert np.array_equal(valid, ~np.isin(fine, (3, 8, 9, 10)))
        assert np.array_equal(pixels[valid], PIXELS[..., :3][valid])
        assert source.has_gaps
        assert source.identity != opened({**bands, "SCL": scl}, mask=["SCL:3"]).identity
        part, known = source.read(Window(7, 9, 30, 41), (1, 2, 3))
        assert np.array_equal(known, valid[7:37, 9:50])
        assert (part[~known] == (1, 2, 3)).all()

    def test_bits(self, bands: dict[str, Path], tmp_path: Path) -> None:
        quality = (1 << (np.indices((HEIGHT, WIDTH)).sum(axis=0) % 16)).astype(np.uint16)
        source = opened(
            {**bands, "qa": write(tmp_path / "qa.tif", quality)}, mask=["QA:bit1,bit3-4"]
        )  # Landsat: dilated cloud, cloud, shadow
        assert np.array_equal(whole(source)[1], ~np.isin(quality, (2, 8, 16)))

    def test_a_band_of_the_same_file_and_of_a_folder(self, tmp_path: Path) -> None:
        planes = np.concatenate([np.moveaxis(PIXELS[..., :3], -1, 0), self.SCL.repeat(2, 0).repeat(2, 1)[None]])
        one = write(tmp_path / "s" / "a.tif", planes)
        with rasterio.open(one, "r+") as file:
            file.descriptions = ("red", "green", "blue", "SCL")
        for named in (one, tmp_path / "s"):
            for rule in ("SCL:3,8-10", "4:3,8-10"):
                pixels, valid = whole(opened(named, mask=[rule]))
                assert np.array_equal(valid, ~np.isin(planes[3], (3, 8, 9, 10)))
                assert np.array_equal(pixels[valid], PIXELS[..., :3][valid])

    def test_rules(self) -> None:
        numbers = np.array([[0, 3, 4, 8, 11]])
        assert hidden(numbers, MaskRule.parse("SCL:3,8-10")).tolist() == [[False, True, False, True, False]]
        assert hidden(numbers, MaskRule.parse("QA:bit0,2")).tolist() == [[False, True, False, False, True]]
        assert MaskRule.parse("QA: bits 1-3 ") == MaskRule("QA", (), 0b1110)

    @pytest.mark.parametrize("text", ["SCL", "SCL:", ":3", "SCL:x", "SCL:9-3", "QA:bit77", "SCL:3;4"])
    def test_rules_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"--mask: .*expected BAND:VALUES, such as SCL:3,8-10"):
            RunSpec.parse({"scene": "a.tif", "mask": [text]})


class TestValues:
    def test_offsets_of_two_baselines_are_taken_away(self, tmp_path: Path) -> None:
        """The same ground before and after Sentinel-2's change: 1000 more, and the metadata says so."""
        left, right = PIXELS[:, :60, 0], PIXELS[:, 60:, 0] + 1000
        write(tmp_path / "s" / "a.tif", left, measure=(1e-4, 0.0))
        write(tmp_path / "s" / "b.tif", right, CORNER @ Affine.translation(60, 0), measure=(1e-4, -0.1))
        assert whole(opened(tmp_path / "s", ("red",)))[0].max() == max(left.max(), right.max())
        even = opened(tmp_path / "s", ("red",), values="harmonized")
        assert even.dtype == "uint16"
        assert np.array_equal(whole(even)[0][..., 0], PIXELS[..., 0])
        physical = opened(tmp_path / "s", ("red",), values="physical")
        assert physical.dtype == "float32"
        assert np.allclose(whole(physical)[0][..., 0], PIXELS[..., 0] * 1e-4, atol=1e-6)
        assert len({s.identity for s in (even, physical, opened(tmp_path / "s", ("red",)))}) == 3

    def test_what_would_be_less_than_nothing_is_nothing(self, tmp_path: Path) -> None:
        plane = np.array([[400, 1000, 1001, 65535]], np.uint16)
        path = write(tmp_path / "a.tif", plane, measure=(1e-4, -0.1))
        assert whole(opened(path, ("red",), values="harmonized"))[0].ravel().tolist() == [0, 0, 1, 64535]

    @pytest.mark.parametrize(("baseline", "shift"), [("0209", 0), ("0400", 1000), ("0510", 1000)])
    def test_sentinel_2_says_it_in_its_name(self, tmp_path: Path, baseline: str, shift: int) -> None:
        name = f"S2B_MSIL2A_20220301T080000_N{baseline}_R078_T36MZE_20220301T110000.SAFE"
        path = write(tmp_path / name / "GRANULE" / "B04_10m.tif", PIXELS[..., 0])
        even = opened(path, ("red",), values="harmonized")
        assert np.array_equal(whole(even)[0][..., 0], PIXELS[..., 0].astype(int).clip(shift) - shift)

    def test_a_scale_of_nothing(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", PIXELS[..., 0], measure=(0.0, 1.0))
        with pytest.raises(InputError, match=r"its scale and offset are 0 and 1; .*--values stored"):
            opened(path, ("red",), values="physical")


class TestPatterns:
    @pytest.fixture
    def tiles(self, tmp_path: Path) -> Path:
        """Two tiles that overlap, each with a file for each band; the second has no data in a corner of one band."""
        for tile, left in (("T36_1", 0), ("T36_2", 50)):
            for name, i in SENTINEL.items():
                plane = PIXELS[:, left : left + 76, i].copy()
                if tile == "T36_2" and name == "B03":
                    plane[:9, 60:] = 0
                write(tmp_path / tile / f"{tile}_{name}.tif", plane, CORNER @ Affine.translation(left, 0), nodata=0)
        return tmp_path

    @pytest.mark.parametrize("pattern", ["*/{tile}_{band}.tif", "{folder}/{tile}_{band}.tif", "**/{tile}_{band}.tif"])
    def test_tiles_of_bands_are_one_scene(self, tiles: Path, pattern: str) -> None:
        source = opened(tiles / pattern)
        pixels, valid = whole(source)
        expected = np.ones((HEIGHT, WIDTH), bool)
        expected[:9, 110:] = False
        assert np.array_equal(valid, expected)
        assert np.array_equal(pixels[valid], PIXELS[..., :3][valid])
        assert source.dtype == "uint16"

    def test_without_tiles(self, tiles: Path) -> None:
        pixels, _ = whole(opened(tiles / "T36_1" / "T36_1_{band}.tif"))
        assert np.array_equal(pixels, PIXELS[:, :76, :3])

    def test_a_tile_that_lacks_a_band(self, tiles: Path) -> None:
        (tiles / "T36_2" / "T36_2_B02.tif").unlink()
        with pytest.raises(InputError, match=r"T36_2: has the bands B03, B04, B08; .*--missing nodata"):
            opened(tiles / "*" / "{tile}_{band}.tif")
        _, valid = whole(opened(tiles / "*" / "{tile}_{band}.tif", missing="nodata"))
        assert valid.shape == (HEIGHT, 76)

    def test_nothing_is_called_so(self, tiles: Path) -> None:
        with pytest.raises(InputError, match="no files there that are called so"):
            opened(tiles / "{tile}-{band}.jp2")
        with pytest.raises(UsageError, match="has no band called SCL"):
            opened(tiles / "*" / "{tile}_{band}.tif", mask=["SCL:3"])

    def test_what_its_outputs_are_called(self) -> None:
        for scene, folder in (
            ("data/T36/{tile}_{band}.tif", "T36.tileseg"),
            ({"red": "x/B04.tif", "nir": "x/B08.tif"}, "B04.tileseg"),
            (["a/one.tif", "a/two.tif"], "one.tileseg"),
            ("tiles/*.tif", "tiles.tileseg"),
            ("s3://bucket/tiles/**/*.tif", "tiles.tileseg"),
        ):
            assert str(RunSpec.parse({"scene": scene}).folder) == folder


class TestStac:
    @pytest.fixture
    def items(self, bands: dict[str, Path], tmp_path: Path) -> Path:
        item = pystac.Item("one", None, None, datetime(2024, 5, 6, tzinfo=UTC), {})
        common = {"B04": "red", "B03": "green", "B02": "blue", "B08": "nir"}
        for name, path in bands.items():
            asset = pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=["data"])
            asset.extra_fields["eo:bands"] = [{"name": name, "common_name": common[name]}]
            asset.extra_fields["raster:bands"] = [{"scale": 1e-4, "offset": -0.05}]
            item.add_asset(f"asset-{name.lower()}", asset)
        path = tmp_path / "items.json"
        path.write_text(json.dumps(pystac.ItemCollection([item]).to_dict()))
        return path

    def test_assets_by_their_common_names(self, items: Path) -> None:
        assert np.array_equal(whole(opened(items))[0], PIXELS[..., :3])
        assert np.array_equal(whole(opened(items, ("nir", "red")))[0], PIXELS[..., [3, 0]])
        assert np.array_equal(whole(opened(items, bands=("asset-b08", "B03", "red")))[0], PIXELS[..., [3, 1, 0]])

    def test_with_what_it_says_of_their_numbers(self, items: Path) -> None:
        even = opened(items, values="harmonized")
        assert np.array_equal(whole(even)[0], PIXELS[..., :3] - 500)
        content = json.loads(items.read_text())
        content["features"][0]["properties"]["earthsearch:boa_offset_applied"] = True
        items.write_text(json.dumps(content))
        assert np.array_equal(whole(opened(items, values="harmonized"))[0], PIXELS[..., :3])

    def test_bands_that_it_has_not(self, items: Path) -> None:
        with pytest.raises(UsageError, match="has no band called swir"):
            opened(items, bands=("red", "swir", "nir"))
        with pytest.raises(UsageError, match=r"4 assets for a raster; --asset"):
            opened(items, ("thermal", "radar"))


def test_a_run_of_bands_is_that_of_one_file(tmp_path: Path, model: Path, in_process) -> None:
    pixels = smooth_noise(70, 100, 3)
    for i, name in enumerate(("B04", "B03", "B02")):
        write(tmp_path / f"T1_{name}.tif", pixels[..., i])
    write(tmp_path / "one.tif", np.moveaxis(pixels, -1, 0))
    options = ("--model", model, "--block", 64, "--window", 64, "--precision", "float32")
    bands = [f"--band={color}=T1_{name}.tif" for color, name in zip(COLORS, ("B04", "B03", "B02"), strict=True)]
    labels = []
    for out, scene in (("one", ["one.tif"]), ("bands", bands), ("pattern", ["{tile}_{band}.tif"])):
        done = in_process("run", *scene, *options, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with rasterio.open(tmp_path / out / "labels.tif") as file:
            labels.append(file.read(1))
    assert len(np.unique(labels[0])) > 1
    assert np.array_equal(labels[0], labels[1])
    assert np.array_equal(labels[0], labels[2])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["a.tif", "--band", "red=b.tif"], "so a.tif is one too many"),
        (["--band", "red"], "--band red: expected NAME=FILE"),
        (["--band", "red=a.tif", "--band", "red=b.tif"], "is given twice, as a.tif and b.tif"),
    ],
)
def test_bands_that_make_no_sense(tmp_path: Path, in_process, arguments: list[str], match: str) -> None:
    done = in_process("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert match in done.stderr
