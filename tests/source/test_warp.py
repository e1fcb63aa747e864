"""What is warped is the same in any window, and what GDAL gives of the whole at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from fakes import smooth_noise
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS

from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.source.lattice import NOBODY
from tileseg.source.protocol import Joining, PixelSource, ReadRequest
from tileseg.source.scene import opener_of
from tileseg.source.warp import Warp, spread
from tileseg.window import Window

HEIGHT, WIDTH = 150, 211
ZONE_37, ZONE_36, DEGREES = ("EPSG:32637", "EPSG:32636", "EPSG:4326")
CORNER = Affine(10, 0, 300_000, 0, -10, 4_000_000)


def wkt(crs: str) -> str:
    return str(CRS.from_string(crs).to_wkt(version="WKT2_2019"))


SOURCE = Grid(HEIGHT, WIDTH, CORNER, wkt(ZONE_37))


def target(crs: str, size: float) -> Grid:
    """The whole of the source and a little more, on a grid of its own."""
    left, bottom, right, top = rasterio.warp.transform_bounds(ZONE_37, crs, *SOURCE.bounds, densify_pts=21)
    width, height = (round((b - a) / size) + 9 for a, b in ((left, right), (bottom, top)))
    return Grid(height, width, Affine(size, 0, left - 3.3 * size, 0, -size, top + 4.6 * size), wkt(crs))


TARGETS = {
    "same system, 7.3 m": target(ZONE_37, 7.3),
    "same system, twice as fine": Grid(2 * HEIGHT, 2 * WIDTH, CORNER @ Affine.scale(0.5), wkt(ZONE_37)),
    "same system, twice as coarse": Grid(HEIGHT // 2, WIDTH // 2, CORNER @ Affine.scale(2), wkt(ZONE_37)),
    "next zone, 10 m": target(ZONE_36, 10),
    "next zone, 27 m": target(ZONE_36, 27),
    "degrees": target(DEGREES, 0.0001),
}
METHODS = ("nearest", "bilinear", "cubic")


def scene(dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Pixels, and whose they are: of two files, with holes, some at the edge."""
    pixels = smooth_noise(HEIGHT, WIDTH, 2).astype(dtype)
    if dtype == "float32":
        pixels = np.sqrt(pixels)
    owner = np.where(np.arange(WIDTH)[None] < 90, 4, 7) * np.ones((HEIGHT, 1), int)
    for rows, cols in (((20, 50), (60, 120)), ((0, 9), (0, 14)), ((100, 101), (100, 101)), ((60, 150), (180, 211))):
        owner[slice(*rows), slice(*cols)] = NOBODY
    return pixels, owner.astype(np.int32)


def through(
    warp: Warp, pixels: npt.NDArray[Any], owner: npt.NDArray[np.int32], window: Window
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]] | None:
    """A window of what is warped, as a layer reads it: of no more than the window needs."""
    needed = warp.needed(window)
    if needed is None:
        return None
    return warp(pixels[needed.slices], owner[needed.slices], needed, window)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", TARGETS)
def test_a_window_is_that_of_the_whole(where: str, method: str) -> None:
    warp = Warp(SOURCE, TARGETS[where], method)  # type: ignore[arg-type]
    pixels, owner = scene("float32" if method == "cubic" or "27" in where else "uint8")
    extent = warp.target.extent
    whole, whose = warp(pixels, owner, SOURCE.extent, extent)
    assert len(np.unique(whose)) == 3
    rng = np.random.default_rng(5)
    for _ in range(8):
        height, width = (int(v) for v in rng.integers(1, 90, 2))
        height, width = min(height, extent.height), min(width, extent.width)
        top, left = (int(rng.integers(0, b - a + 1)) for a, b in ((height, extent.height), (width, extent.width)))
        window = Window(top, left, height, width)
        found = through(warp, pixels, owner, window)
        valid = whose[window.slices] != NOBODY
        if found is None:
            assert not valid.any()
            continue
        assert np.array_equal(found[1], whose[window.slices])
        assert np.array_equal(found[0][valid], whole[window.slices][valid])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", [name for name in TARGETS if name.startswith("same")])
def test_without_holes_it_is_what_gdal_gives(where: str, method: str) -> None:
    warp, pixels = Warp(SOURCE, TARGETS[where], method), scene("uint8")[0]  # type: ignore[arg-type]
    expected = np.zeros((2, warp.target.height, warp.target.width), np.uint8)
    # Between grids of one system rasterio approximates nothing.
    rasterio.warp.reproject(
        np.moveaxis(pixels, -1, 0), expected, src_transform=CORNER, src_crs=ZONE_37,
        dst_transform=warp.target.transform, dst_crs=ZONE_37, resampling=rasterio.warp.Resampling[method],
        XSCALE=warp.scale[0], YSCALE=warp.scale[1],
    )  # fmt: skip
    found, owner = warp(pixels, np.zeros((HEIGHT, WIDTH), np.int32), SOURCE.extent, warp.target.extent)
    valid = owner != NOBODY
    apart = np.abs(found.astype(int) - np.moveaxis(expected, 0, -1))[valid]
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3  # halves that other compilers round to the other side


@pytest.mark.parametrize("crs", [ZONE_36, DEGREES])
def test_the_nearest_pixel_is_that_under_the_centre(crs: str) -> None:
    where = TARGETS["next zone, 10 m" if crs == ZONE_36 else "degrees"]
    pixels, owner = scene("uint8")
    found, whose = Warp(SOURCE, where, "nearest")(pixels, owner, SOURCE.extent, where.extent)
    cols, rows = np.meshgrid(np.arange(where.width) + 0.5, np.arange(where.height) + 0.5)
    x, y = where.transform @ np.array([cols.ravel(), rows.ravel()])
    x, y = Transformer.from_crs(crs, ZONE_37, always_xy=True).transform(x, y)
    col, row = np.floor(~CORNER @ np.array([x, y])).astype(int)
    inside = (col >= 0) & (col < WIDTH) & (row >= 0) & (row < HEIGHT)
    assert np.array_equal(whose.ravel() != NOBODY, inside & (owner[row % HEIGHT, col % WIDTH] != NOBODY))
    valid = whose.ravel() != NOBODY
    assert np.array_equal(found.reshape(-1, 2)[valid], pixels[row[valid], col[valid]])


def test_pixels_grow_coarser_by_averaging() -> None:
    """Of a fine checkerboard a coarse pixel is grey, whatever its window."""
    board = (np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 * 200).astype(np.uint8)[..., None]
    coarse = Grid(HEIGHT // 5, WIDTH // 5, CORNER @ Affine.scale(5), SOURCE.crs_wkt)
    owner = np.zeros((HEIGHT, WIDTH), np.int32)
    found, _ = Warp(SOURCE, coarse, "bilinear")(board, owner, SOURCE.extent, coarse.extent)
    assert np.abs(found[2:-2, 2:-2].astype(int) - 100).max() <= 8


class TestSpread:
    @given(data=st.data())
    def test_it_depends_on_what_is_within_reach(self, data) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        pixels, valid = rng.integers(1, 255, (24, 31, 2), np.uint8), rng.random((24, 31)) < 0.3
        reach = data.draw(st.integers(0, 3))
        whole = spread(pixels, valid, reach)
        assert np.array_equal(whole[valid], pixels[valid])
        top, left = data.draw(st.integers(0, 10)), data.draw(st.integers(0, 10))
        part = np.s_[top : top + 13, left : left + 17]
        inner = np.s_[reach : 13 - reach, reach : 17 - reach]
        assert np.array_equal(spread(pixels[part], valid[part], reach)[inner], whole[part][inner])

    def test_so_far_and_no_further(self) -> None:
        pixels, valid = np.full((9, 9, 1), 7, np.uint8), np.zeros((9, 9), bool)
        valid[4, 4] = True
        expected = np.zeros((9, 9), np.uint8)
        expected[2:7, 2:7] = 7
        assert np.array_equal(spread(pixels, valid, 2)[..., 0], expected)


def write(path: Path, pixels: npt.NDArray[Any], transform: Affine, crs: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"height": pixels.shape[0], "width": pixels.shape[1], "count": pixels.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype, crs=crs, transform=transform, **shape) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def cut(folder: Path, pixels: npt.NDArray[Any], transform: Affine, crs: str) -> Path:
    for top in range(0, pixels.shape[0], 60):
        for left in range(0, pixels.shape[1], 80):
            part = pixels[top : top + 60, left : left + 80]
            write(folder / f"{crs[5:]}_{top}_{left}.tif", part, transform @ Affine.translation(left, top), crs)
    return folder


def opened(path: Path, **joining: Any) -> PixelSource:
    return opener_of(path).open(path, ReadRequest(3, joining=Joining(**joining)))


class TestMixedFiles:
    PIXELS = smooth_noise(HEIGHT, WIDTH, 3)

    @pytest.mark.parametrize(
        ("crs", "resolution"), [(None, 20.0), (None, 6.0), (ZONE_36, None), (ZONE_36, 14.0), (DEGREES, None)]
    )
    def test_cuts_do_not_show_where_all_are_warped(self, tmp_path: Path, crs: str, resolution: float) -> None:
        write(tmp_path / "one" / "a.tif", self.PIXELS, CORNER, ZONE_37)
        tiles = cut(tmp_path / "tiles", self.PIXELS, CORNER, ZONE_37)
        one, many = (opened(p, crs=crs, resolution=resolution) for p in (tmp_path / "one", tiles))
        assert one.grid == many.grid
        if resolution is not None:
            assert one.grid.transform.a == resolution
            assert one.grid.transform.c % resolution == 0
        assert any("warped (bilinear)" in note for note in many.notes)
        whole, valid = one.read(one.grid.extent)
        found, known = many.read(many.grid.extent)
        assert valid.mean() > 0.8
        assert np.array_equal(valid, known)
        assert np.array_equal(whole[valid], found[valid])

    def test_most_files_keep_their_pixels_and_the_others_fit(self, tmp_path: Path) -> None:
        cut(tmp_path / "s", self.PIXELS, CORNER, ZONE_37)
        # East of them, the same ground goes on in another system and at another resolution.
        east = smooth_noise(170, 120, 3, seed=4)
        x, y = Transformer.from_crs(ZONE_37, ZONE_36, always_xy=True).transform(302_000, 4_000_100)
        write(tmp_path / "s" / "z.tif", east, Affine(12, 0, x, 0, -12, y), ZONE_36)
        source = opened(tmp_path / "s", resampling="nearest")
        assert CRS.from_wkt(source.grid.crs_wkt) == CRS.from_string(ZONE_37)
        found, valid = source.read(source.grid.extent)
        col, row = ~source.grid.transform @ (CORNER.c, CORNER.f)
        own = np.s_[round(row) : round(row) + HEIGHT, round(col) : round(col) + WIDTH]
        assert np.array_equal(found[own], self.PIXELS)
        assert set(np.unique(found[valid].reshape(-1, 3), axis=0).sum(axis=1)) <= {
            *self.PIXELS.reshape(-1, 3).astype(int).sum(axis=1), *east.reshape(-1, 3).astype(int).sum(axis=1)
        }  # fmt: skip
        rng = np.random.default_rng(1)
        for _ in range(10):
            top, left = int(rng.integers(0, source.grid.height - 70)), int(rng.integers(0, source.grid.width - 50))
            window = Window(top, left, 70, 50)
            part, known = source.read(window)
            assert np.array_equal(part[known], found[window.slices][known])
            assert np.array_equal(known, valid[window.slices])
        picture, seen = source.read_thinned(source.grid.extent, (40, 50))
        assert picture.shape == (40, 50, 3)
        assert 0 < seen.mean() < 1

    def test_the_order_counts_across_grids(self, tmp_path: Path) -> None:
        """Of three files over each other, on two grids, the first has each pixel, whatever grid it is on."""
        flat = [np.full((40, 60, 3), value, np.uint8) for value in (50, 100, 150)]
        shifted = CORNER @ Affine.translation(0.5, 0.5)
        names = [
            write(tmp_path / "s" / f"{i}.tif", pixels, grid @ Affine.translation(15 * i, 10 * i), ZONE_37)
            for i, (pixels, grid) in enumerate(zip(flat, (CORNER, shifted, CORNER), strict=True))
        ]
        assert len(names) == 3
        for on_top, order in (("first", (50, 100, 150)), ("last", (150, 100, 50))):
            found, valid = opened(tmp_path / "s", on_top=on_top).read(Window(25, 35, 5, 10))
            assert valid.all()
            assert (found == order[0]).all()
        found, _ = opened(tmp_path / "s").read(Window(42, 50, 5, 5))
        assert (found == 100).all()

    def test_a_system_that_there_is_not(self, tmp_path: Path) -> None:
        write(tmp_path / "s" / "a.tif", self.PIXELS, CORNER, ZONE_37)
        with pytest.raises(UsageError, match=r"--crs EPSG:99: .*such as EPSG:32637"):
            opened(tmp_path / "s", crs="EPSG:99")

    @pytest.mark.parametrize(
        ("resolution", "match"), [(1e9, "too small for such a --resolution"), (1e-9, "choose a coarser --resolution")]
    )
    def test_resolutions_that_make_no_scene(self, tmp_path: Path, resolution: float, match: str) -> None:
        write(tmp_path / "s" / "a.tif", self.PIXELS, CORNER, ZONE_37)
        with pytest.raises(InputError, match=match):
            opened(tmp_path / "s", resolution=resolution)

    def test_a_system_from_nowhere(self, tmp_path: Path) -> None:
        with rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", dtype="uint8", count=3, height=9, width=8, transform=CORNER
        ) as file:
            file.write(np.ones((3, 9, 8), np.uint8))
        with pytest.raises(UsageError, match="no coordinate reference system to warp from"):
            opened(tmp_path, crs=ZONE_36)

    def test_a_place_that_the_system_does_not_have(self, tmp_path: Path) -> None:
        write(tmp_path / "s" / "a.tif", self.PIXELS, Affine(0.01, 0, 20, 0, -0.01, 10), DEGREES)
        with pytest.raises(InputError, match="cannot be warped"):
            opened(tmp_path / "s", crs="+proj=ortho +lat_0=0 +lon_0=-150")


def test_one_of_several_operations_is_pinned() -> None:
    """Between these datums PROJ has many, and GDAL would choose by the points at hand."""
    source = Grid(HEIGHT, WIDTH, Affine(0.01, 0, -100, 0, -0.01, 45), wkt("EPSG:4267"))
    where = Grid(180, 240, Affine(0.01, 0, -100.2, 0, -0.01, 45.1), wkt("EPSG:4326"))
    warp, (pixels, owner) = Warp(source, where, "bilinear"), scene("float32")
    assert "COORDINATE_OPERATION" in warp._reprojection
    whole, whose = warp(pixels, owner, source.extent, where.extent)
    window = Window(40, 60, 30, 50)
    found = through(warp, pixels, owner, window)
    assert found is not None
    valid = found[1] != NOBODY
    assert valid.sum() > 500
    assert np.array_equal(found[0][valid], whole[window.slices][valid])
    assert np.array_equal(found[1], whose[window.slices])
