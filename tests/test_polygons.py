"""Polygons traced in blocks and joined against GDAL's polygonize on the whole raster."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tileseg.polygons.fragment import Fragment, PolygonBatch
from tileseg.polygons.join import join
from tileseg.polygons.trace import trace_block
from tileseg.window import Window, tile

NODATA = 9


def polygons_of(
    labels: npt.NDArray[np.generic],
    block: tuple[int, int],
    connectivity: int,
    ignore: frozenset[int] = frozenset(),
    nodata: int | None = None,
    confidence: npt.NDArray[np.uint16] | None = None,
) -> list[PolygonBatch]:
    extent = Window(0, 0, *labels.shape)
    cores = tile(extent, *block)

    def trace(core: Window) -> Fragment | None:
        part = labels[core.slices]
        if nodata is not None and (part == nodata).all():
            return None
        weights = None if confidence is None else confidence[core.slices]
        return trace_block(part, weights, core, extent, connectivity=connectivity, ignore=ignore, nodata=nodata)

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


@settings(max_examples=400, deadline=None)
@given(
    labels=rasters(),
    block=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    connectivity=st.sampled_from([4, 8]),
    ignore=st.sampled_from([frozenset(), frozenset({0}), frozenset({1, 2})]),
)
def test_equals_gdal(
    labels: npt.NDArray[np.uint8], block: tuple[int, int], connectivity: int, ignore: frozenset[int]
) -> None:
    found = multiset(polygons_of(labels, block, connectivity, ignore, NODATA))
    assert found == gdal(labels, connectivity, ignore | {NODATA})
