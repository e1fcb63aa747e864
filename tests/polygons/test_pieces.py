"""Polygons too large for memory are worked on in pieces: that must not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from affine import Affine
from pyproj import CRS

from tileseg.errors import TilesegError
from tileseg.formats import FORMATS, vector_paths
from tileseg.grid import Grid
from tileseg.polygons.batch import split
from tileseg.polygons.join import join
from tileseg.polygons.lattice import lines_of
from tileseg.polygons.quantity import Quantity
from tileseg.polygons.scratch import Scratch
from tileseg.polygons.shape import Shaper
from tileseg.polygons.trace import trace_block
from tileseg.publish import geojson, qupath
from tileseg.publish.table import Table
from tileseg.publish.vectors import write_vectors
from tileseg.publish.wkb import large_polygon
from tileseg.window import tile

SHAPE = (40, 56)
GRIDS = {
    "utm": (Affine(10, 0, 399_960, 0, -10, 7_000_020), 32633),
    "utm, edges bent in degrees": (Affine(2000, 0, 300_000, 0, -2000, 7_000_000), 32633),
    "edges of many kilometres": (Affine(30_000, 0, 0, 0, -25_000, 6_000_000), 3857),
    "degrees, south-up": (Affine(0.25, 0, -20, 0, 0.2, 30), 4326),
    "another datum, rotated": (Affine(0.02, 0.004, 5, 0.003, -0.02, 50), 4267),
    "none": (Affine.identity(), None),
}


def labels() -> npt.NDArray[np.uint8]:
    """A comb (one ring of many corners), a sieve (many holes), and noise."""
    drawn = np.ones(SHAPE, np.uint8)
    drawn[2:18:2, 1:-1] = 2
    drawn[2:18, 1] = 2
    drawn[22:36:2, 3:-3:2] = 3
    rng = np.random.default_rng(3)
    drawn[:, 40:] = np.where(rng.random((SHAPE[0], 16)) < 0.6, 1, 4)
    return drawn


def written(folder: Path, name: str, in_memory: int, fill_holes: Quantity | None) -> dict[str, Path]:
    """All formats, with so many corners in memory."""
    transform, crs = GRIDS[name]
    grid = Grid(*SHAPE, transform, None if crs is None else CRS.from_epsg(crs).to_wkt())
    cores = tile(grid.extent, 24, 24)
    parts = [tuple(trace_block(labels()[c.slices], None, c, grid.extent)) for c in cores]
    shaper = Shaper(
        grid, min_area=Quantity(2, in_pixels=True), fill_holes=fill_holes, has_confidence=False,
        scratch=Scratch(folder, in_memory),
    )  # fmt: skip
    batches = (part for batch in join(cores, parts.__getitem__, 4) for part in split(batch, in_memory))
    paths = vector_paths(folder, FORMATS)
    write_vectors(map(shaper.shape, batches), paths, Table(grid, {}, has_confidence=False))
    return paths


@pytest.mark.parametrize("fill_holes", [None, Quantity(1.5, in_pixels=True), Quantity(600.0)])
@pytest.mark.parametrize("name", GRIDS)
def test_pieces_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fill_holes: Quantity | None
) -> None:
    for folder in ("whole", "pieces"):
        (tmp_path / folder).mkdir()
    whole = written(tmp_path / "whole", name, 1 << 18, fill_holes)
    monkeypatch.setattr(geojson, "_VERTICES", 11)
    monkeypatch.setattr(qupath, "_VERTICES", 11)
    pieces = written(tmp_path / "pieces", name, 7, fill_holes)
    expected, found = (json.loads(paths["geojson"].read_text())["features"] for paths in (whole, pieces))
    assert len(found) > 20
    _same([f["properties"] for f in found], [f["properties"] for f in expected])
    assert [f["geometry"] for f in found] == [f["geometry"] for f in expected]
    assert [json.loads(line) for line in pieces["geojsonseq"].read_text().splitlines()] == found
    annotations = [json.loads(paths["qupath"].read_text())["features"] for paths in (whole, pieces)]
    assert [f["geometry"] for f in annotations[1]] == [f["geometry"] for f in annotations[0]]
    for form in ("parquet", "gpkg", "fgb"):
        mine, theirs = (FORMATS[form].read(paths[form]).sort_values("id") for paths in (pieces, whole))
        assert mine.geometry.to_wkb().tolist() == theirs.geometry.to_wkb().tolist()
        assert mine.geometry.is_valid.all()
        _same(mine.drop(columns="geometry").to_dict("records"), theirs.drop(columns="geometry").to_dict("records"))


def _same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value == (pytest.approx(theirs[name], rel=1e-9) if isinstance(value, float) else theirs[name])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_lines_make_up_the_rings(reverse: bool, most: int) -> None:
    corners = np.array([[0, 0], [3, 0], [3, 2], [0, 2], [5, 5], [9, 5], [9, 6], [8, 6], [8, 8], [5, 8]], np.int32)
    offsets = np.array([0, 4, 10])
    rings: dict[int, list[Any]] = {0: [], 1: []}
    for line in lines_of(corners, offsets, most, reverse=reverse, transform=Affine(2, 0, 1, 0, -1, 0)):
        for k, ring in enumerate(range(line.rings.start, line.rings.stop)):
            points = line.points[line.offsets[k] : line.offsets[k + 1]].tolist()
            if not line.begins:
                assert rings[ring][-1] == points[0]
            rings[ring] += points[0 if line.begins else 1 :]
    for ring, points in rings.items():
        mine = corners[offsets[ring] : offsets[ring + 1]]
        mine = np.concatenate([mine[:1], mine[:0:-1] if reverse else mine[1:], mine[:1]])
        assert points == np.column_stack([1 + 2 * mine[:, 0], -mine[:, 1]]).tolist()


def test_a_large_polygon_is_the_one_that_shapely_writes(tmp_path: Path) -> None:
    ring = shapely.get_coordinates(shapely.Point(3, 4).buffer(2, quad_segs=30))
    hole = shapely.get_coordinates(shapely.Point(3, 4).buffer(1))[::-1]
    offsets = np.array([0, len(ring), len(ring) + len(hole)])
    array = large_polygon(np.concatenate([ring, hole]), offsets, Scratch(None, 50))
    assert array[0].as_py() == shapely.Polygon(ring, [hole]).wkb


def test_a_polygon_that_no_format_holds_is_refused_in_one_line() -> None:
    with pytest.raises(TilesegError, match=r"150,000,000 corners.*write geojson") as raised:
        large_polygon(np.empty((0, 2)), np.array([0, 150_000_000]), Scratch(None))
    assert "\n" not in str(raised.value)
