"""Many files on one grid give what one file of all their pixels gives, in any window."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.merge
import rasterio.shutil
from affine import Affine
from fakes import smooth_noise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tileseg.errors import InputError, UsageError
from tileseg.source.protocol import Joining, PixelSource, ReadRequest
from tileseg.source.raster import open_raster
from tileseg.source.scene import opener_of
from tileseg.source.tiles import ManyFiles
from tileseg.storage.place import parse_places
from tileseg.window import Window

CORNER = Affine(0.5, 0, 500_000.3, 0, -0.5, 4_000_000.7)
HEIGHT, WIDTH = 130, 187
CUTS = ((0, 40), (40, 41), (41, 130)), ((0, 96), (96, 187))
"""Rows and columns of tiles, one of them a single pixel high."""


def write(
    path: Path, pixels: npt.NDArray[Any], transform: Affine = CORNER, crs: str | None = "EPSG:32637", **more: Any
) -> Path:
    """(y, x, band) pixels as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"height": pixels.shape[0], "width": pixels.shape[1], "count": pixels.shape[2]}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=pixels.dtype, crs=crs, transform=transform, **shape, **more
    ) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def cut(folder: Path, pixels: npt.NDArray[Any], transform: Affine = CORNER, **more: Any) -> Path:
    """A folder of abutting tiles."""
    for top, bottom in CUTS[0]:
        for left, right in CUTS[1]:
            part = pixels[top:bottom, left:right]
            write(folder / f"t_{top:03d}_{left:03d}.tif", part, transform @ Affine.translation(left, top), **more)
    return folder


def many(named: object, **joining: Any) -> PixelSource:
    place = parse_places(named)  # type: ignore[arg-type]
    return opener_of(place).open(place, ReadRequest(3, joining=Joining(**joining)))


def whole(source: PixelSource) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return source.read(source.grid.extent)


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    return smooth_noise(HEIGHT, WIDTH, 3)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory, pixels: npt.NDArray[np.uint8]) -> Path:
    return cut(tmp_path_factory.mktemp("scene") / "tiles", pixels)


class TestAbutting:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
    @given(data=st.data())
    def test_any_window_is_that_of_the_whole(self, tiles: Path, pixels: npt.NDArray[np.uint8], data) -> None:
        top, left = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
        window = Window(top, left, data.draw(st.integers(1, HEIGHT - top)), data.draw(st.integers(1, WIDTH - left)))
        found, valid = many(tiles).read(window)
        assert np.array_equal(found, pixels[window.slices])
        assert valid.all()
        assert found.flags.c_contiguous

    def test_however_they_are_named(self, tiles: Path, pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
        names = sorted(tiles.iterdir())
        listed = tmp_path / "list.txt"
        listed.write_text("# tiles\n\n" + "".join(f"{os.path.relpath(name, tmp_path)}\n" for name in names))
        for named in (tiles, str(tiles / "t_*.tif"), f"{tiles.parent}/**/*.tif", listed, names):
            source = many(named)
            assert np.array_equal(whole(source)[0], pixels), named
            assert source.identity == many(tiles).identity

    def test_its_grid_is_that_of_the_whole(self, tiles: Path, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        one = many(write(tmp_path / "one.tif", pixels))
        assert many(tiles).grid == one.grid
        assert (many(tiles).dtype, many(tiles).bands, many(tiles).has_gaps) == ("uint8", (1, 2, 3), False)

    def test_rotated_and_south_up(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        for i, turned in enumerate((Affine.rotation(30), Affine.scale(1, -1))):
            source = many(cut(tmp_path / f"{i}", pixels, CORNER @ turned))
            assert np.array_equal(whole(source)[0], pixels)
            assert source.grid.transform.almost_equals(CORNER @ turned)

    def test_it_travels_small_and_comes_back_equal(self, tiles: Path) -> None:
        source = many(tiles)
        sent = pickle.dumps(source)
        assert len(sent) < 2000
        assert pickle.loads(sent) == source
        assert np.array_equal(whole(pickle.loads(sent))[0], whole(source)[0])

    def test_a_small_picture_of_it(self, tmp_path: Path) -> None:
        slope = np.stack(np.broadcast_arrays(*np.ogrid[0:HEIGHT, 0:WIDTH], 7), axis=-1).astype(np.uint8)
        picture, valid = many(cut(tmp_path / "tiles", slope)).read_thinned(Window(3, 5, 120, 180), (40, 60))
        assert picture.shape == (40, 60, 3)
        assert valid.all()
        assert np.abs(picture.astype(int) - slope[4:123:3, 6:185:3]).max() <= 2  # GDAL may take other rows

    def test_a_window_outside_is_a_mistake(self, tiles: Path) -> None:
        with pytest.raises(UsageError):
            many(tiles).read(Window(0, 0, HEIGHT + 1, 3))


class TestOverlapping:
    @pytest.fixture
    def two(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> list[Path]:
        """Both see columns 30 to 59; the first has nothing in rows 10 to 19."""
        first, second = pixels[:50, :60].copy(), 255 - pixels[:50, 30:100]
        first[10:20] = 0
        names = [
            write(tmp_path / "a.tif", first, nodata=0),
            write(tmp_path / "b.tif", second, CORNER @ Affine.translation(30, 0)),
        ]
        os.utime(names[0], (2_000_000_000, 2_000_000_000))
        return names

    @pytest.mark.parametrize(("on_top", "top"), [("first", 0), ("last", 1), ("newest", 0)])
    def test_one_is_on_top_and_the_other_fills_its_gaps(self, two: list[Path], on_top: str, top: int) -> None:
        alone = [many(name) for name in two]
        source = many(two, on_top=on_top)
        expected = np.zeros((50, 100, 3), np.uint8)
        has_data = np.zeros((50, 100), bool)
        for index in (1 - top, top):
            found, valid = whole(alone[index])
            here = np.s_[:, :60] if index == 0 else np.s_[:, 30:]
            expected[here][valid] = found[valid]
            has_data[here] |= valid
        found, valid = whole(source)
        assert np.array_equal(valid, has_data)
        assert np.array_equal(found[valid], expected[valid])
        assert source.has_gaps

    def test_what_nobody_has_is_filled_and_not_valid(self, two: list[Path]) -> None:
        found, valid = many(two).read(Window(12, 4, 3, 5), (7, 8, 9))
        assert not valid.any()
        assert (found == (7, 8, 9)).all()

    def test_the_order_of_a_list_counts(self, two: list[Path]) -> None:
        forth, back = many(two), many(two[::-1])
        assert forth.identity != back.identity
        assert np.array_equal(whole(back)[0], whole(many(two, on_top="last"))[0])


class TestOracle:
    """What GDAL makes of the same files."""

    def test_a_virtual_raster_that_is_translated(self, tiles: Path, tmp_path: Path) -> None:
        """``gdalbuildvrt`` and ``gdal_translate`` to one file: equal pixels on an equal grid."""
        names = sorted(tiles.iterdir())
        sources = []
        for name in names:
            with rasterio.open(name) as file:
                col, row = ~CORNER @ (file.transform.c, file.transform.f)
                size = f'xSize="{file.width}" ySize="{file.height}"'
                sources.append((name, f'xOff="{round(col)}" yOff="{round(row)}" {size}', f'xOff="0" yOff="0" {size}'))
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}">'
            + "".join(
                f'<SimpleSource><SourceFilename relativeToVRT="0">{name}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand>"
                f"<SrcRect {own}/><DstRect {place}/></SimpleSource>"
                for name, place, own in sources
            )
            + "</VRTRasterBand>"
            for band in (1, 2, 3)
        )
        place = ", ".join(str(value) for value in CORNER.to_gdal())
        (tmp_path / "m.vrt").write_text(
            f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}"><SRS>EPSG:32637</SRS>'
            f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
        )
        rasterio.shutil.copy(tmp_path / "m.vrt", tmp_path / "one.tif", driver="GTiff")
        with rasterio.open(tmp_path / "one.tif") as file:
            one, source = file.read(), many(tiles)
            assert source.grid.transform == file.transform
        assert np.array_equal(np.moveaxis(one, 0, -1), whole(source)[0])

    @pytest.mark.parametrize("on_top", ["first", "last"])
    def test_a_merge_with_overlaps_and_gaps(self, tmp_path: Path, on_top: str) -> None:
        rng = np.random.default_rng(3)
        names = []
        for i in range(9):
            part = smooth_noise(*(int(n) for n in rng.integers(20, 60, 2)), 3, seed=i)
            part[part.sum(axis=2) < 250] = 0
            col, row = (int(n) for n in rng.integers(0, 90, 2))
            names.append(write(tmp_path / "s" / f"{i}.tif", part, CORNER @ Affine.translation(col, row), nodata=0))
        merged, transform = rasterio.merge.merge(names, method=on_top)
        source = many(tmp_path / "s", on_top=on_top)
        assert source.grid.transform.almost_equals(transform)
        found, valid = whole(source)
        assert 0.2 < valid.mean() < 1
        # In 8 bits a pixel without data is 0 in all bands; GDAL's merge goes band by band.
        expected = np.moveaxis(merged, 0, -1)
        assert np.array_equal(valid, expected.any(axis=2))
        assert np.array_equal(found[valid], expected[valid])


class TestTypes:
    def test_a_type_that_holds_both(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        right = pixels[:, 90:].astype(np.uint16) * 40
        write(tmp_path / "s" / "a.tif", pixels[:, :90])
        write(tmp_path / "s" / "b.tif", right, CORNER @ Affine.translation(90, 0))
        source = many(tmp_path / "s")
        assert source.dtype == "uint16"
        assert any("several types" in note for note in source.notes)
        found, _ = whole(source)
        assert np.array_equal(found, np.concatenate([pixels[:, :90], right], axis=1))
        assert source.read(Window(0, 0, 5, 5))[0].dtype == np.uint16


class TestMissing:
    @pytest.fixture
    def broken(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
        folder = cut(tmp_path / "tiles", pixels)
        (folder / "t_000_096.tif").write_bytes((folder / "t_000_096.tif").read_bytes()[:200])
        return folder

    def test_it_is_named(self, broken: Path) -> None:
        with pytest.raises(InputError, match=r"tiles: .*t_000_096\.tif: .*; --missing nodata goes on without"):
            many(broken)

    def test_it_counts_as_without_data(self, broken: Path, pixels: npt.NDArray[np.uint8]) -> None:
        source = many(broken, missing="nodata")
        found, valid = whole(source)
        expected = np.ones((HEIGHT, WIDTH), bool)
        expected[:40, 96:] = False
        assert np.array_equal(valid, expected)
        assert np.array_equal(found[valid], pixels[valid])
        assert any("t_000_096.tif" in note for note in source.notes)

    def test_one_of_a_list_that_is_not_there(self, tiles: Path) -> None:
        names = [*sorted(tiles.iterdir()), tiles / "gone.tif"]
        with pytest.raises(InputError, match=r"gone\.tif: .*No such file"):
            many(names)
        assert whole(many(names, missing="nodata"))[1].all()

    def test_all_of_them(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"2 files"):
            many([tmp_path / "a.tif", tmp_path / "b.tif"], missing="nodata")


class TestChanges:
    def test_a_file_that_changed_is_another_scene(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        folder = cut(tmp_path / "tiles", pixels)
        before = many(folder)
        sent = pickle.dumps(before)
        os.utime(folder / "t_041_000.tif", (1, 1))
        assert many(folder).identity != before.identity
        with pytest.raises(InputError, match="changed since the run began"):
            pickle.loads(sent)
        with pytest.raises(InputError, match="changed since the run began"):
            before.read(before.grid.extent)

    def test_one_more_or_less_is_another_scene(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        folder = cut(tmp_path / "tiles", pixels)
        before = many(folder)
        (folder / "t_041_000.tif").unlink()
        assert many(folder).identity != before.identity

    def test_a_folder_that_was_moved_is_the_same(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        folder = cut(tmp_path / "tiles", pixels)
        before = many(folder)
        assert many(folder.rename(tmp_path / "moved")).identity == before.identity


class TestRefusals:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no rasters there"):
            many(tmp_path)

    def test_pictures_that_lie_nowhere(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        for name in "ab":
            write(tmp_path / f"{name}.tif", pixels, Affine.identity(), crs=None)
        with pytest.raises(InputError, match=r"does not say where it lies .*2 of 2.*tileseg batch"):
            many(tmp_path)

    def test_one_without_a_system(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        write(tmp_path / "a.tif", pixels)
        write(tmp_path / "b.tif", pixels, crs=None)
        with pytest.raises(InputError, match=r"b\.tif has no coordinate reference system.*1 of 2"):
            many(tmp_path)

    def test_too_few_bands(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        write(tmp_path / "a.tif", pixels)
        write(tmp_path / "a_labels.tif", pixels[..., :1])
        with pytest.raises(InputError, match=r"a_labels\.tif: has 1 band"):
            many(tmp_path)

    def test_so_far_apart_that_they_are_no_tiles(self, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        write(tmp_path / "a.tif", pixels)
        write(tmp_path / "b.tif", pixels, CORNER @ Affine.translation(2e6, 1e6))
        with pytest.raises(InputError, match=r"would be a scene of .* pixels of 0\.5; .*tileseg batch"):
            many(tmp_path)
        write(tmp_path / "b.tif", pixels, CORNER @ Affine.translation(2e3, 1e3))
        assert any("are they tiles of one image" in note for note in many(tmp_path).notes)


def test_it_is_what_opens_a_folder(tiles: Path) -> None:
    assert isinstance(many(tiles), ManyFiles)
    assert many(tiles).path == str(tiles)


@pytest.mark.parametrize("named", ["tiles", "tiles/*.tif"])
def test_a_run_of_a_folder_is_that_of_the_whole_and_goes_on(
    tmp_path: Path, pixels: npt.NDArray[np.uint8], model: Path, in_process, named: str
) -> None:
    cut(tmp_path / "tiles", pixels)
    write(tmp_path / "one.tif", pixels)
    options = ("--model", model, "--block", 64, "--window", 64, "--precision", "float32", "--format", "gpkg,geojson")
    for scene, out in ((named, None), ("one.tif", "one.tileseg")):
        done = in_process("run", scene, *options, *(("--out", out) if out else ()), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, other = tmp_path / "one.tileseg", tmp_path / "tiles.tileseg"
    files = [p.relative_to(one) for p in one.rglob("*") if p.is_file() and ".state" not in p.parts]
    differing = {str(f) for f in files if (one / f).read_bytes() != (other / f).read_bytes()}
    assert differing <= {"quicklook.png", "scene.qgz", "summary.json", "polygons.gpkg"}  # which have names and times
    again = in_process("run", named, *options, cwd=tmp_path)
    assert "finished before" in again.stdout + again.stderr or "nothing" in again.stdout + again.stderr
    (tmp_path / "tiles" / "t_041_000.tif").touch()
    changed = in_process("run", named, *options, cwd=tmp_path)
    assert changed.returncode == 2
    assert "made of the scene as it was before it changed" in changed.stderr


class TestKeptHeaders:
    """Of many files headers are kept, and read again where anything about a file is new."""

    @pytest.fixture
    def several(
        self, tmp_path: Path, pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Path, list[str]]:
        """A folder, and which of its files are opened from now on."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("tileseg.source.tile_headers._MANY", 6)
        opened: list[str] = []

        def noted(place: Any, wanted: ReadRequest) -> Any:
            opened.append(Path(str(place)).name)
            return open_raster(place, wanted)

        monkeypatch.setattr("tileseg.source.tile_headers.open_raster", noted)
        return cut(tmp_path / "tiles", pixels, nodata=0), opened

    def test_they_are_read_once(self, several: tuple[Path, list[str]]) -> None:
        folder, opened = several
        first = many(folder)
        assert len(opened) == 6
        opened.clear()
        again = many(folder)
        assert opened == []
        assert again == first
        assert [file.source for file in again.layers[0].base.files] == [
            file.source for file in first.layers[0].base.files
        ]
        assert np.array_equal(whole(again)[0], whole(first)[0])

    def test_what_makes_one_stale(self, several: tuple[Path, list[str]], pixels: npt.NDArray[np.uint8]) -> None:
        folder, opened = several
        before = many(folder)
        os.utime(folder / "t_041_000.tif", (1, 1))
        (folder / "t_000_000.tif.aux.xml").write_text("<PAMDataset/>")
        (folder / "t_040_096.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
        opened.clear()
        assert many(folder).identity != before.identity
        assert sorted(opened) == ["t_000_000.tif", "t_040_096.tif", "t_041_000.tif"]

    def test_another_question_is_asked_anew(self, several: tuple[Path, list[str]]) -> None:
        folder, opened = several
        many(folder)
        opened.clear()
        opener_of(folder).open(folder, ReadRequest(1, bands=(2,)))
        assert len(opened) == 6

    def test_a_file_that_breaks(self, several: tuple[Path, list[str]]) -> None:
        folder, _ = several
        many(folder)
        (folder / "t_041_000.tif").write_bytes(b"")
        with pytest.raises(InputError, match=r"t_041_000\.tif: is empty"):
            many(folder)

    def test_rubbish_in_its_place_and_a_cache_that_cannot_be_written(
        self, several: tuple[Path, list[str]], tmp_path: Path
    ) -> None:
        folder, _ = several
        before = many(folder)
        (kept,) = (tmp_path / "cache" / "tileseg" / "headers").iterdir()
        kept.write_bytes(b"PAR1 rubbish")
        assert many(folder) == before
        kept.unlink()
        kept.parent.rmdir()
        kept.parent.write_text("a file where the folder should be")
        assert many(folder) == before


@pytest.mark.real_data
def test_a_real_scene_cut_into_tiles_has_its_labels(real_data: Path, tmp_path: Path, model: Path, in_process) -> None:
    with rasterio.open(real_data / "places" / "vienna_0_rgb.tif") as file:
        place = file.transform @ Affine.translation(200, 100)
        real = np.moveaxis(file.read(window=((100, 331), (200, 485))), 0, -1)
        crs = file.crs.to_wkt()
    write(tmp_path / "one.tif", real, place, crs)
    for top in range(0, 231, 77):
        for left in range(0, 285, 101):
            part = real[top : top + 77, left : left + 101]
            write(tmp_path / "tiles" / f"{top}_{left}.tif", part, place @ Affine.translation(left, top), crs)
    found = []
    for scene in ("one.tif", "tiles"):
        out = f"{scene}.out"
        options = ("--model", model, "--block", 64, "--window", 96, "--precision", "float32", "--gsd", "native")
        done = in_process("run", scene, *options, "--out", out, "-q", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with rasterio.open(tmp_path / out / "labels.tif") as file:
            found.append((file.read(1), (tmp_path / out / "polygons.geojson").read_bytes()))
    assert np.array_equal(found[0][0], found[1][0])
    assert len(np.unique(found[0][0])) > 1
    assert found[0][1] == found[1][1]
