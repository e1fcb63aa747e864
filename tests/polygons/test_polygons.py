"""Polygons traced in blocks and joined against GDAL's polygonize on the whole raster."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

import tileseg.polygons.join
import tileseg.polygons.trace
from tileseg.errors import InputError, TilesegError
from tileseg.polygons.fragment import Components, Fragment, PolygonBatch, load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.memory import BAND_CHANGES
from tileseg.polygons.scratch import Scratch
from tileseg.polygons.trace import trace_block
from tileseg.window import Window, tile

REPOSITORY = Path(__file__).resolve().parents[2]
NODATA = 9


def polygons_of(
    labels: npt.NDArray[np.generic],
    block: tuple[int, int],
    connectivity: int,
    ignore: frozenset[int] = frozenset(),
    nodata: int | None = None,
    confidence: npt.NDArray[np.uint16] | None = None,
    *,
    changes: int = BAND_CHANGES,
) -> list[PolygonBatch]:
    """``changes``: how many changes of label a band of a block may have."""
    extent = Window(0, 0, *labels.shape)
    cores = tile(extent, *block)

    def trace(core: Window) -> tuple[Fragment, ...] | None:
        part = labels[core.slices]
        if nodata is not None and (part == nodata).all():
            return None
        weights = None if confidence is None else confidence[core.slices]
        return tuple(trace_block(part, weights, core, extent, connectivity=connectivity, ignore=ignore, nodata=nodata))

    with mock.patch.object(tileseg.polygons.trace, "BAND_CHANGES", changes):
        parts = [trace(core) for core in cores]
    return list(join(cores, parts.__getitem__, connectivity))


def geometries(batch: PolygonBatch) -> npt.NDArray[np.object_]:
    """Built by hand, so that shape.py is not needed to test this."""
    rings = [
        shapely.linearrings(batch.coordinates[low:high].astype(float))
        for low, high in zip(batch.ring_offsets, batch.ring_offsets[1:], strict=False)
    ]
    return np.array(
        [
            shapely.Polygon(rings[low], rings[low + 1 : high])
            for low, high in zip(batch.polygon_offsets, batch.polygon_offsets[1:], strict=False)
        ],
        dtype=object,
    )


def multiset(batches: list[PolygonBatch]) -> list[tuple[int, bytes]]:
    return sorted(
        (int(label), shapely.to_wkb(shapely.normalize(geometry)))
        for batch in batches
        for label, geometry in zip(batch.label, geometries(batch), strict=True)
    )


def gdal(labels: npt.NDArray[np.generic], connectivity: int, skipped: frozenset[int]) -> list[tuple[int, bytes]]:
    mask = ~np.isin(labels, list(skipped))
    shapes = rasterio.features.shapes(labels, mask=mask, connectivity=connectivity)
    return sorted(
        (int(value), shapely.to_wkb(shapely.normalize(shapely.geometry.shape(geometry)))) for geometry, value in shapes
    )


@st.composite
def rasters(draw: st.DrawFn) -> npt.NDArray[np.uint8]:
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    kind = draw(st.sampled_from(["few", "noise", "checkerboard", "blobs"]))
    classes = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "few":
        small = (min(shape[0], 7), min(shape[1], 9))
        return draw(hnp.arrays(np.uint8, small, elements=st.sampled_from([0, 1, 2, NODATA])))
    if kind == "checkerboard":
        labels = (np.indices(shape).sum(0) % 2).astype(np.uint8)
        labels[rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.3]))] = 1
    elif kind == "noise":
        labels = (rng.random(shape) ** 2 * (classes + 1)).astype(np.uint8)
    else:
        coarse = rng.integers(0, classes + 1, (shape[0] // 3 + 1, shape[1] // 4 + 1)).astype(np.uint8)
        labels = np.kron(coarse, np.ones((3, 4), np.uint8))[: shape[0], : shape[1]]
    labels[rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.4]))] = NODATA
    return np.ascontiguousarray(labels)


@settings(max_examples=400)
@given(
    labels=rasters(),
    block=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    connectivity=st.sampled_from([4, 8]),
    ignore=st.sampled_from([frozenset(), frozenset({0}), frozenset({1, 2})]),
    changes=st.sampled_from([1, 20, BAND_CHANGES]),
)
def test_equals_gdal(
    labels: npt.NDArray[np.uint8], block: tuple[int, int], connectivity: int, ignore: frozenset[int], changes: int
) -> None:
    found = multiset(polygons_of(labels, block, connectivity, ignore, NODATA, changes=changes))
    assert found == gdal(labels, connectivity, ignore | {NODATA})


@settings(max_examples=60)
@given(labels=rasters(), block=st.tuples(st.integers(1, 16), st.integers(1, 16)), connectivity=st.sampled_from([4, 8]))
def test_polygons_that_wait_on_disk_are_the_same(
    labels: npt.NDArray[np.uint8], block: tuple[int, int], connectivity: int
) -> None:
    expected = by_first_pixel(polygons_of(labels, block, connectivity))
    with mock.patch.object(tileseg.polygons.join, "Scratch", partial(Scratch, in_memory=3)):
        assert by_first_pixel(polygons_of(labels, block, connectivity)) == expected


@settings(max_examples=150)
@given(
    labels=rasters(),
    block=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    connectivity=st.sampled_from([4, 8]),
    seed=st.integers(0, 2**32 - 1),
    changes=st.sampled_from([1, 20, BAND_CHANGES]),
)
def test_attributes_equal_those_of_whole_components(
    labels: npt.NDArray[np.uint8], block: tuple[int, int], connectivity: int, seed: int, changes: int
) -> None:
    confidence = np.random.default_rng(seed).integers(0, 65536, labels.shape).astype(np.uint16)
    expected = {}
    beside_nodata = ndimage.binary_dilation(labels == NODATA)
    on_edge = np.ones(labels.shape, bool)
    on_edge[1:-1, 1:-1] = False
    for label in set(np.unique(labels).tolist()) - {NODATA}:
        numbered, count = ndimage.label(labels == label, np.ones((3, 3)) if connectivity == 8 else None)
        for number in range(1, count + 1):
            where = numbered == number
            expected[int(np.flatnonzero(where)[0])] = (
                label, int(where.sum()), int(confidence[where].sum(dtype=np.int64)), int(confidence[where].min()),
                bool(on_edge[where].any()), bool(beside_nodata[where].any()),
            )  # fmt: skip
    batches = polygons_of(labels, block, connectivity, nodata=NODATA, confidence=confidence, changes=changes)
    found = {
        first: values
        for b in batches
        for first, values in zip(
            b.first_pixel.tolist(),
            zip(
                b.label.tolist(), b.pixels.tolist(), b.confidence_sum.tolist(), b.confidence_min.tolist(),
                b.touches_edge.tolist(), b.touches_nodata.tolist(), strict=True,
            ),
            strict=True,
        )
    }  # fmt: skip
    assert found == expected
    assert sum(len(b) for b in batches) == len(expected)


@settings(max_examples=100)
@given(
    labels=rasters(),
    block=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    connectivity=st.sampled_from([4, 8]),
    changes=st.sampled_from([1, 20, BAND_CHANGES]),
)
def test_vertices_do_not_depend_on_the_blocks(
    labels: npt.NDArray[np.uint8], block: tuple[int, int], connectivity: int, changes: int
) -> None:
    """Not only after normalising: each ring starts at the same vertex, and rings come in the same order."""
    in_blocks = by_first_pixel(polygons_of(labels, block, connectivity, changes=changes))
    assert in_blocks == by_first_pixel(polygons_of(labels, labels.shape, connectivity))


def by_first_pixel(batches: list[PolygonBatch]) -> dict[int, list[list[tuple[int, int]]]]:
    polygons = {}
    for batch in batches:
        for i, first in enumerate(batch.first_pixel.tolist()):
            rings = range(batch.polygon_offsets[i], batch.polygon_offsets[i + 1])
            polygons[first] = [
                [tuple(xy) for xy in batch.coordinates[batch.ring_offsets[r] : batch.ring_offsets[r + 1]].tolist()]
                for r in rings
            ]
    return polygons


def test_rings_start_topmost_and_keep_their_pixels_on_the_right() -> None:
    labels = np.array([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)
    (batch,) = polygons_of(labels, labels.shape, 4, ignore=frozenset({0}))
    assert by_first_pixel([batch]) == {
        1: [[(1, 0), (4, 0), (4, 3), (0, 3), (0, 1), (1, 1)], [(2, 1), (2, 2), (3, 2), (3, 1)]]
    }


def test_batches_come_in_the_order_of_the_blocks_and_of_first_pixels() -> None:
    labels = np.random.default_rng(5).integers(0, 3, (41, 67)).astype(np.uint8)
    block = (16, 16)
    keys = []
    for batch in polygons_of(labels, block, 4):
        row, col = np.divmod(batch.first_pixel, labels.shape[1])
        owner = row // block[0] * (-(-labels.shape[1] // block[1])) + col // block[1]
        assert len(set(owner.tolist())) == 1
        assert (np.diff(batch.first_pixel) > 0).all()
        keys.append(owner[0])
    assert keys == sorted(keys)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_other_integers_are_the_same_labels(dtype: type) -> None:
    labels = np.random.default_rng(1).integers(0, 2, (23, 31))
    expected = multiset(polygons_of(labels.astype(np.uint8), (8, 9), 4))
    assert multiset(polygons_of(labels.astype(dtype), (8, 9), 4)) == expected


def test_labels_may_be_negative_and_large() -> None:
    labels = np.where(np.random.default_rng(2).random((9, 14)) < 0.5, -(2**31), 2**31 - 1)
    found = {label for label, _ in multiset(polygons_of(labels, (4, 5), 8))}
    assert found == {-(2**31), 2**31 - 1}
    with pytest.raises(InputError, match="renumber the classes"):
        polygons_of(labels + 1, (4, 5), 8)
    with pytest.raises(InputError, match="whole numbers"):
        polygons_of(labels.astype(np.float32), (4, 5), 8)


def test_fragment_survives_a_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, (60, 45)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = NODATA
    confidence = rng.integers(0, 65536, labels.shape).astype(np.uint16)
    core, extent = Window(20, 15, 20, 15), Window(0, 0, 60, 45)
    (fragment,) = trace_block(labels[core.slices], confidence[core.slices], core, extent, nodata=NODATA)
    save_fragments(tmp_path / "one", [fragment])
    again = trace_block(labels[core.slices], confidence[core.slices], core, extent, nodata=NODATA)
    save_fragments(tmp_path / "two", again)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    (loaded,) = load_fragments(tmp_path / "one")
    assert loaded.has_confidence
    for part in (fragment, fragment.complete, fragment.components):
        other = {Fragment: loaded, PolygonBatch: loaded.complete, Components: loaded.components}[type(part)]
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, np.ndarray):
                assert value.dtype == getattr(other, field.name).dtype
                np.testing.assert_array_equal(value, getattr(other, field.name))
    assert len(loaded.pinch_component), "the case should have an open pinch"
    assert len(loaded.complete)


@pytest.mark.parametrize("keep", [0, 5, 40, 900])
def test_damaged_fragment_is_named(tmp_path: Path, keep: int) -> None:
    labels = np.random.default_rng(3).integers(0, 3, (20, 25)).astype(np.uint8)
    path = tmp_path / "part"
    save_fragments(path, trace_block(labels, None, Window(0, 0, 20, 25), Window(0, 0, 20, 50)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TilesegError, match=f"{path}: .*damaged"):
        load_fragments(path)


def test_fragment_without_a_place_is_named(tmp_path: Path) -> None:
    fragments = trace_block(np.zeros((2, 3), np.uint8), None, Window(0, 0, 2, 3), Window(0, 0, 2, 3))
    with pytest.raises(FileNotFoundError, match="missing/"):
        save_fragments(tmp_path / "missing" / "part", fragments)


def test_fragment_is_small_where_little_touches_the_seams() -> None:
    (fragment,) = trace_block(np.ones((512, 768), np.uint8), None, Window(512, 768, 512, 768), Window(0, 0, 4096, 4096))
    arrays = [getattr(fragment, field.name) for field in fields(fragment) if field.name not in _NESTED]
    assert sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) < 200


_NESTED = ("complete", "components")


def test_blocks_must_be_a_lattice() -> None:
    cores = [Window(0, 0, 4, 4), Window(4, 0, 4, 4), Window(0, 4, 4, 4), Window(4, 4, 4, 4)]
    with pytest.raises(ValueError, match="row-major"):
        list(join(cores, lambda _: None, 4))


def test_scene_without_any_data_has_no_polygons() -> None:
    assert list(join(tile(Window(0, 0, 7, 9), 4, 4), lambda _: None, 8)) == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "connectivity", "block", "crop"),
    [
        ("CDL_2016_19_train.tif", 4, 1000, None),
        ("CDL_2016_19_train.tif", 8, 256, Window(3000, 1000, 2100, 1900)),
        ("cog_cmap.tif", 8, 2048, Window(500, 1500, 4300, 3800)),
        ("cog_cmap.tif", 4, 256, Window(4000, 3500, 1700, 2300)),
    ],
)
def test_real_masks_equal_gdal(real_data: Path, name: str, connectivity: int, block: int, crop: Window | None) -> None:
    with rasterio.open(real_data / "masks" / name) as dataset:
        labels = dataset.read(1)[crop.slices if crop else ...]
        nodata = None if dataset.nodata is None else int(dataset.nodata)
    labels = np.ascontiguousarray(labels)
    found = multiset(polygons_of(labels, (block, block), connectivity, nodata=nodata))
    assert found == gdal(labels, connectivity, frozenset() if nodata is None else frozenset({nodata}))
    assert len(found) > 300


_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from tileseg.polygons.fragment import load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.trace import trace_block, warm_up
from tileseg.run.vectorize import warm_up
from tileseg.window import Window, tile

folder, rows, ignore = Path(sys.argv[1]), int(sys.argv[2]), {int(v) for v in sys.argv[3].split()}
warm_up()
extent = Window(0, 0, rows, 2000)
cores = tile(extent, 500, 500)
labels = np.zeros((500, 500), np.uint8)
labels[1::5, 2::4] = 1
labels[1::5, 3::4] = 1
labels[::97, ::3] = 2
for i, core in enumerate(cores):
    save_fragments(folder / str(i), trace_block(labels, None, core, extent, ignore=ignore))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
polygons = rings = corners = 0
for batch in join(cores, lambda i: load_fragments(folder / str(i)), 4):
    polygons += len(batch)
    rings += len(batch.ring_offsets) - 1
    corners += len(batch.coordinates)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(polygons, rings, corners, (after - before) * 1024)
"""


def joined(folder: Path, rows: int, ignore: str) -> list[int]:
    """(polygons, rings, corners, bytes by which joining raised the peak), in a process of its own."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(folder), str(rows), ignore],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()]


def test_memory_of_joining_is_what_crosses_seams_plus_the_largest_polygon(tmp_path: Path) -> None:
    """A background with a million corners in its holes, in 4 and in 16 rows of blocks."""
    small = joined(tmp_path / "small", 2000, "2")
    large = joined(tmp_path / "large", 8000, "2")
    assert large[1] > 3.9 * small[1]
    assert large[1] > 1_500_000
    # Of each corner 8 bytes in the file that is mapped, 8 when it is gathered, 8 in the order of the output.
    assert large[3] < 5 * 8 * large[2] + (64 << 20)
    # Without the background, only finished polygons pass by, one block at a time.
    without = joined(tmp_path / "without", 8000, "0 2")
    assert without[0] > 0.9 * large[1] / 2
    assert without[3] < 24 << 20
