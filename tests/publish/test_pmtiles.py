"""Vector tiles, read with the package ``pmtiles`` and, tile by tile, with GDAL."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import shapely
from affine import Affine
from pmtiles.reader import MmapSource, Reader, all_tiles
from pyproj import CRS

from tileseg.grid import Grid
from tileseg.polygons.join import join
from tileseg.polygons.shape import Shaper, Shapes
from tileseg.polygons.trace import trace_block
from tileseg.publish.mvt import EXTENT
from tileseg.publish.table import Table
from tileseg.publish.vector_tiles import SMALL
from tileseg.publish.vectors import write_vectors
from tileseg.webmap import WORLD, Placement
from tileseg.window import tile

UTM = CRS.from_epsg(32632).to_wkt()
NAMES = {0: "ground", 1: "bâtiment, «toit»", 2: "eau"}


def shapes_of(grid: Grid, labels: npt.NDArray[np.uint8]) -> list[Shapes]:
    cores = tile(grid.extent, 64, 96)
    weights = np.random.default_rng(1).integers(20_000, 65536, labels.shape).astype(np.uint16)
    parts = [tuple(trace_block(labels[c.slices], weights[c.slices], c, grid.extent, ignore={0})) for c in cores]
    shaper = Shaper(grid)
    return [shaper.shape(batch) for batch in join(cores, parts.__getitem__, 4)]


def written(folder: Path, grid: Grid, labels: npt.NDArray[np.uint8]) -> tuple[Path, geopandas.GeoDataFrame]:
    """An archive, and the same polygons by another format, by ``id``."""
    outputs = {"pmtiles": folder / "p.pmtiles", "parquet": folder / "p.parquet"}
    write_vectors(shapes_of(grid, labels), outputs, Table(grid, NAMES, has_confidence=True))
    return outputs["pmtiles"], geopandas.read_parquet(outputs["parquet"]).set_index("id", drop=False)


def town(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Houses of all sizes, a lake with an island, a road across."""
    rng = np.random.default_rng(5)
    labels = np.zeros((height, width), np.uint8)
    for row in range(3, height - 16, 16):
        for col in range(2, width - 16, 16):
            h, w = rng.integers(1, 12, 2)
            labels[row : row + h, col : col + w] = rng.integers(1, 3)
    labels[20 : height - 30, 40 : width - 50] = 2
    labels[60 : height - 70, 90 : width - 99] = 0
    labels[height // 2] = 1
    return labels


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    with path.open("rb") as file:
        yield Reader(MmapSource(file))


def features(path: Path, zoom: int) -> geopandas.GeoDataFrame:
    """What the tiles of a zoom hold, as GDAL sees it: parts of tiles, in Web Mercator."""
    return pyogrio.read_dataframe(path, ZOOM_LEVEL=str(zoom))


def zooms(path: Path) -> range:
    with opened(path) as reader:
        header = reader.header()
    assert header["min_zoom"] == 0
    return range(header["max_zoom"] + 1)


GRIDS = {
    "UTM": Affine(0.31, 0, 500_000.3, 0, -0.31, 5_600_000.9),
    "turned": Affine(0.2, 0.23, 500_000.3, 0.23, -0.2, 5_600_000.9),
}


@pytest.mark.parametrize("name", GRIDS)
def test_at_the_greatest_zoom_polygons_are_as_they_are(tmp_path: Path, name: str) -> None:
    labels = town(300, 470)
    grid = Grid(*labels.shape, GRIDS[name], UTM)
    path, truth = written(tmp_path, grid, labels)
    found = features(path, zooms(path)[-1])
    assert set(found["id"].astype(int)) == set(truth["id"])
    assert found.crs.to_epsg() == 3857
    pixel = Placement(grid).pixel * WORLD
    whole = found.dissolve(by="id", aggfunc="first")
    expected = truth.to_crs(3857).geometry.loc[whole.index]
    # Rounded to half a unit, of which a pixel has at least four.
    assert shapely.hausdorff_distance(whole.geometry.to_numpy(), expected.to_numpy()).max() <= pixel / 4
    assert (whole.geometry.count_interior_rings() == expected.count_interior_rings()).all()
    for column in truth.columns.drop(["id", "geometry"]):
        assert (whole[column].to_numpy() == truth[column].loc[whole.index].to_numpy()).all(), column
    assert "merged" not in found or found["merged"].isna().all()


def test_no_polygon_vanishes_at_any_zoom(tmp_path: Path) -> None:
    labels = town(300, 470)
    path, truth = written(tmp_path, Grid(*labels.shape, GRIDS["UTM"], UTM), labels)
    expected = truth.groupby("class_name").size().to_dict()
    gathered = 0
    for zoom in zooms(path):
        found = features(path, zoom).drop_duplicates("id")
        merged = found["merged"].fillna(1) if "merged" in found else np.ones(len(found))
        assert found.assign(n=merged).groupby("class_name")["n"].sum().astype(int).to_dict() == expected
        gathered += int((merged > 1).any())
        stand_in = found[merged > 1]
        unit = WORLD / (EXTENT << zoom)
        assert (stand_in.geometry.area <= (SMALL * unit) ** 2 * 1.01).all()
        # The largest of those that it stands for has the attributes.
        for row in stand_in.itertuples():
            assert row.area_m2 == truth["area_m2"][int(row.id)]
    assert gathered > 3
    assert len(features(path, 0).drop_duplicates("id")) <= 3


def test_the_square_that_stands_for_houses_has_their_area(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[2:5, 2:5] = labels[8:14, 3:9] = labels[20:24, 20:23] = 1
    path, truth = written(tmp_path, Grid(64, 64, GRIDS["UTM"], UTM), labels)
    side = truth.to_crs(3857).area.sum() ** 0.5
    together = [(zoom, found) for zoom in zooms(path) if len(found := features(path, zoom)) == 1]
    assert len(together) > 10
    for zoom, found in together:
        assert found["merged"][0] == 3
        assert found["id"][0] == truth["area_m2"].idxmax()
        unit = WORLD / (EXTENT << zoom)
        assert found.geometry.area[0] ** 0.5 == pytest.approx(max(side, 2 * unit), abs=unit)
        assert found.geometry.centroid.distance(truth.to_crs(3857).geometry[found["id"][0]])[0] < 2 * unit


def test_pixels_without_a_system_lie_in_the_middle_with_rows_running_down(tmp_path: Path) -> None:
    labels = np.zeros((50, 80), np.uint8)
    labels[10:20, 60:75] = 1
    path, _ = written(tmp_path, Grid(50, 80, Affine.identity()), labels)
    (shape,) = features(path, zooms(path)[-1]).dissolve(by="id").geometry
    np.testing.assert_allclose(shape.bounds, (60, -20, 75, -10), atol=0.2)
    with opened(path) as reader:
        assert reader.metadata()["tileseg"] == {"on_globe": False}
        assert reader.metadata()["vector_layers"][0]["fields"]["area_px"] == "Number"


def test_a_polygon_across_180_degrees_lies_on_both_sides(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 10:50] = 2
    grid = Grid(40, 60, Affine(100, 0, -3000, 0, -100, 4000), CRS.from_proj4("+proj=tmerc +lon_0=180").to_wkt())
    path, _ = written(tmp_path, grid, labels)
    found = features(path, 9)
    assert Placement(grid).degrees[2] - Placement(grid).degrees[0] < 0.1
    assert found.total_bounds[0] < -WORLD / 2.01
    assert found.total_bounds[2] > WORLD / 2.01
    assert found["id"].nunique() == 1
    assert found.geometry.area.max() < (5000.0) ** 2


def test_an_empty_archive_says_so(tmp_path: Path) -> None:
    path, _ = written(tmp_path, Grid(20, 30, GRIDS["UTM"], UTM), np.zeros((20, 30), np.uint8))
    with opened(path) as reader:
        tiles = dict(all_tiles(reader.get_bytes))
    assert list(tiles) == [(0, 0, 0)]
    assert b"polygons" in gzip.decompress(tiles[0, 0, 0])


def test_a_tile_of_noise_is_bounded_but_at_the_greatest_zoom(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 3, (400, 500)).astype(np.uint8)
    path, truth = written(tmp_path, Grid(400, 500, GRIDS["UTM"], UTM), labels)
    with opened(path) as reader:
        sizes: dict[int, int] = {}
        for (zoom, *_), content in all_tiles(reader.get_bytes):
            sizes[zoom] = max(sizes.get(zoom, 0), len(content))
    assert len(truth) > 20_000
    assert max(size for zoom, size in sizes.items() if zoom < max(sizes)) < 500_000


def test_the_archive_stands_in_a_tool_of_others(tmp_path: Path) -> None:
    """Tiles lie in the order of their numbers, as servers of ranges want it."""
    path, _ = written(tmp_path, Grid(300, 470, GRIDS["UTM"], UTM), town(300, 470))
    with opened(path) as reader:
        header: Any = reader.header()
        entries = list(all_tiles(reader.get_bytes))
    assert header["clustered"]
    assert header["addressed_tiles_count"] == len(entries)
    west, south, east, north = (header[f"{side}_e7"] / 1e7 for side in ("min_lon", "min_lat", "max_lon", "max_lat"))
    assert 8.99 < west < east < 9.01
    assert 50.54 < south < north < 50.56
