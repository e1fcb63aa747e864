"""Polygons against GDAL's on the whole raster: every block size and connectivity, geometry for geometry; and the time.

    python benchmarks/polygons.py

Two real label rasters: USDA cropland (8000 x 8000, 19 codes) and world land cover (7168 x 8704, nodata 0).
Exit code 1 if any polygon or attribute differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from scipy import ndimage
from setup import DATA

from tileseg.formats import vector_paths
from tileseg.grid import Grid
from tileseg.polygons.fragment import PolygonBatch
from tileseg.polygons.join import join
from tileseg.polygons.shape import Shaper
from tileseg.polygons.trace import trace_block, warm_up
from tileseg.run.vectorize import Classes, vectorize
from tileseg.source.label_raster import open_labels
from tileseg.spec import VectorOptions
from tileseg.window import tile

Labels = npt.NDArray[np.uint8]


def gdal(labels: Labels, grid: Grid, nodata: int | None, connectivity: int) -> Counter[tuple[int, bytes]]:
    """(class, normalised geometry) of ``rasterio.features.shapes`` on the whole raster."""
    mask = None if nodata is None else labels != nodata
    found = rasterio.features.shapes(labels, mask=mask, connectivity=connectivity, transform=grid.transform)
    return Counter((int(value), shapely.normalize(shapely.geometry.shape(geometry)).wkb) for geometry, value in found)


def ours(
    labels: Labels, confidence: npt.NDArray[np.uint16], grid: Grid, nodata: int | None, connectivity: int, block: int
) -> list[PolygonBatch]:
    """Traced block by block and joined."""
    cores = tile(grid.extent, block, block)
    fragments = [
        None
        if nodata is not None and (labels[core.slices] == nodata).all()
        else tuple(
            trace_block(
                labels[core.slices],
                confidence[core.slices],
                core,
                grid.extent,
                connectivity=connectivity,
                nodata=nodata,
            )
        )
        for core in cores
    ]
    return list(join(cores, fragments.__getitem__, connectivity))


def attributes(
    labels: Labels, confidence: npt.NDArray[np.uint16], nodata: int | None, connectivity: int
) -> Counter[tuple[int, int, int, int]]:
    """(class, pixels, sum and minimum of the confidence) of every component, by scipy.ndimage."""
    found: Counter[tuple[int, int, int, int]] = Counter()
    structure = np.ones((3, 3)) if connectivity == 8 else None
    for value in np.unique(labels):
        if value == nodata:
            continue
        inside = np.flatnonzero(labels == value)
        components = ndimage.label(labels == value, structure=structure)[0].ravel()[inside]
        order = np.argsort(components, kind="stable")
        starts = np.flatnonzero(np.diff(components[order], prepend=0))
        values = confidence.ravel()[inside][order]
        pixels = np.diff(starts, append=len(order))
        total = np.add.reduceat(values.astype(np.int64), starts)
        rows = zip(pixels.tolist(), total.tolist(), np.minimum.reduceat(values, starts).tolist(), strict=True)
        found.update((int(value), *row) for row in rows)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warm_up()
    bad = False
    print("| raster | connectivity | block | polygons | geometries | attributes |\n| --- |" + " --- |" * 5)
    for name in ("CDL_2016_19_train", "cog_cmap"):
        source = open_labels(DATA / "masks" / f"{name}.tif")
        grid, nodata = source.grid, source.nodata
        labels = np.asarray(source.read_labels(grid.extent), np.uint8)
        confidence = np.random.default_rng(0).integers(20_000, 65_536, labels.shape, np.uint16)
        shaper = Shaper(grid, has_confidence=True, lonlat=False)
        for connectivity in (4, 8):
            geometries = gdal(labels, grid, nodata, connectivity)
            numbers = attributes(labels, confidence, nodata, connectivity)
            for block in (256, 1000, 2048):
                found: Counter[tuple[int, bytes]] = Counter()
                sums: Counter[tuple[int, int, int, int]] = Counter()
                for batch in ours(labels, confidence, grid, nodata, connectivity, block):
                    shapes = shaper.shape(batch)
                    wkb = shapely.to_wkb(shapely.normalize(shapes.geometries()))
                    found.update(zip(shapes.label.tolist(), wkb, strict=True))
                    columns = (batch.label, batch.pixels, batch.confidence_sum, batch.confidence_min)
                    sums.update(zip(*(np.asarray(c).tolist() for c in columns), strict=True))
                same = ["equal" if equal else "DIFFERENT" for equal in (found == geometries, sums == numbers)]
                bad |= "DIFFERENT" in same
                print(f"| {name} | {connectivity} | {block} | {found.total()} | {same[0]} | {same[1]} |", flush=True)
        with tempfile.TemporaryDirectory(prefix="tileseg-polygons-") as folder:
            ratios = []
            for _ in range(3):
                begun = time.perf_counter()
                vectorize(
                    source, vector_paths(Path(folder), ("geojson",)), Classes.of_raster({}), VectorOptions(), block=2048
                )
                mine = time.perf_counter() - begun
                begun = time.perf_counter()
                mask = None if nodata is None else labels != nodata
                for _geometry in rasterio.features.shapes(labels, mask=mask, transform=grid.transform):
                    pass
                ratios.append((mine, time.perf_counter() - begun))
        mine, theirs = sorted(ratios, key=lambda pair: pair[0] / pair[1])[1]
        print(
            f"\n{name}: reading, tracing, joining, measuring and writing GeoJSON {mine:.2f} s; "
            f"rasterio.features.shapes alone, from memory, nothing written {theirs:.2f} s; ratio {mine / theirs:.2f}\n"
        )
    sys.exit(bad)


if __name__ == "__main__":
    main()
