"""Regular outlines: corners, right angles, IoU with the truth and shared walls, before and after; time and memory.

    python benchmarks/regularize.py [--runs FOLDER] [--many COPIES]

Label rasters of buildings as they are, and as a network would have them (blurred by a metre, with noise), against
the truth; with ``--runs``, the labels of finished runs named ``<scene>.tileseg`` there. ``--many``: a scene of so many
copies of one raster a side, with the memory that it takes.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from affine import Affine
from scipy import ndimage
from setup import DATA

from tileseg.grid import Grid
from tileseg.run.vectorize import Classes, vectorize
from tileseg.source.label_raster import open_labels
from tileseg.spec import VectorOptions
from tileseg.window import Window

Labels = npt.NDArray[np.uint8]
SCENES = ("buildings/zanzibar_1", "places/austin_0", "places/las_vegas_0", "places/jonkoping_2", "places/khartoum_0")
COPIED = "places/khartoum_0"
OPTIONS: dict[str, Any] = {"formats": "parquet", "classes": "1", "min_area": "2"}


@dataclass(frozen=True)
class Held:
    """Labels in memory, repeated ``copies`` times along both sides."""

    labels: Labels
    of: Grid
    copies: int = 1
    nodata: int | None = None

    @property
    def grid(self) -> Grid:
        """Of all copies."""
        rows, cols = (self.copies * n for n in self.labels.shape)
        return Grid(rows, cols, self.of.transform, self.of.crs_wkt)

    def read_labels(self, window: Window) -> Labels:
        """As often as the window holds them."""
        rows = np.arange(window.row_off, window.row_stop) % self.labels.shape[0]
        cols = np.arange(window.col_off, window.col_stop) % self.labels.shape[1]
        return self.labels[np.ix_(rows, cols)]

    def read_confidence(self, window: Window) -> None:
        """None is known."""
        del window

    def read_disagreement(self, window: Window) -> None:
        """Nor is this."""
        del window


def polygons_of(source: Held, folder: Path, **options: str) -> tuple[geopandas.GeoDataFrame, float]:
    """The polygons and the seconds of joining, shaping and writing them."""
    path = folder / "polygons.parquet"
    chosen = VectorOptions.parse({**OPTIONS, **options})
    report = vectorize(source, {"parquet": path}, Classes.of_raster({}, ["1"]), chosen)
    frame = geopandas.read_parquet(path)
    return frame, sum(report.seconds.values())


def right_corners(shapes: npt.NDArray[Any]) -> float:
    """Share of corners within 10 degrees of a right angle."""
    good = total = 0
    for ring in shapely.get_rings(shapes):
        xy = shapely.get_coordinates(ring)[:-1]
        a, b = xy - np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0) - xy
        turn = np.degrees(np.abs(np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(axis=1))))
        good, total = good + int((np.abs(turn - 90) <= 10).sum()), total + len(turn)
    return good / max(1, total)


def iou(shapes: npt.NDArray[Any], truth: Labels, transform: Affine) -> float:
    """With the pixels of the truth, where it is known, counted four to a side."""
    fine = np.kron(truth, np.ones((4, 4), np.uint8))
    drawn = rasterio.features.rasterize(
        shapes, out_shape=fine.shape, transform=transform @ Affine.scale(0.25), dtype=np.uint8
    )
    both, either = (drawn == 1) & (fine == 1), (drawn == 1) | (fine == 1)
    return float(both.sum() / max(1, (either & (fine != 255)).sum()))


def as_predicted(truth: Labels, metres: float) -> Labels:
    """Blurred by a metre, with noise of a few pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=truth.shape), 1 / metres)
    soft = ndimage.gaussian_filter((truth == 1).astype(np.float32), 1 / metres)
    return (soft + 0.15 * noise / noise.std() > 0.5).astype(np.uint8)


def cases(runs: Path | None) -> Iterator[tuple[str, Labels, Labels, Grid]]:
    """Name, labels, truth, grid."""
    for scene in SCENES:
        raster = open_labels(DATA / f"{scene}_buildings.tif")
        truth = np.asarray(raster.read_labels(raster.grid.extent), np.uint8)
        assert raster.grid.pixel_metres is not None
        name = scene.split("/")[1]
        yield f"{name}, labels", (truth == 1).astype(np.uint8), truth, raster.grid
        yield f"{name}, blurred", as_predicted(truth, raster.grid.pixel_metres[0]), truth, raster.grid
        if runs is not None and (path := runs / f"{name}.tileseg" / "labels.tif").exists():
            labels = np.asarray(open_labels(path).read_labels(raster.grid.extent), np.uint8)
            yield f"{name}, embedded model", (labels == 1).astype(np.uint8), truth, raster.grid


def many(copies: int) -> None:
    """The time and memory of a scene of many copies, raw and regular, each in this process."""
    raster = open_labels(DATA / f"{COPIED}_buildings.tif")
    labels = np.asarray(raster.read_labels(raster.grid.extent) == 1, np.uint8)
    source = Held(labels, raster.grid, copies)
    with tempfile.TemporaryDirectory(prefix="tileseg-regular-") as name:
        for options in ({}, {"regularize": "all"}):
            path = Path(name) / "polygons.fgb"
            chosen = VectorOptions.parse({"formats": "fgb", **options})
            report = vectorize(source, {"fgb": path}, Classes.of_raster({}, ["1"]), chosen)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{' '.join(options) or 'raw'}: {report.counts} polygons, {source.grid.height} x {source.grid.width}, "
                f"trace {report.seconds['trace']:.1f} s, finish {report.seconds['finish']:.1f} s, peak {peak:.0f} MiB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of finished runs of the scenes")
    parser.add_argument("--many", type=int, help="copies a side")
    arguments = parser.parse_args()
    if arguments.many:
        many(arguments.many)
        return
    print("| scene | polygons | vertices, median | right corners | IoU | valid, no overlap | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="tileseg-regular-") as name:
        for number, (case, labels, truth, grid) in enumerate(cases(arguments.runs)):
            source = Held(labels, grid)
            if number == 0:
                polygons_of(source, Path(name), regularize="all")  # compiled
            (raw, raw_seconds), (regular, seconds) = (
                polygons_of(source, Path(name), **options) for options in ({}, {"regularize": "all"})
            )
            a, b = raw.geometry.to_numpy(), regular.geometry.to_numpy()
            corners = [int(np.median(shapely.get_num_coordinates(s) - 1)) for s in (a, b)]
            whole = bool(shapely.is_valid(b).all()) and bool(shapely.coverage_is_valid(b))
            cells = [
                case,
                len(b),
                f"{corners[0]} -> {corners[1]}",
                f"{right_corners(a):.2f} -> {right_corners(b):.2f}",
                f"{iou(a, truth, grid.transform):.4f} -> {iou(b, truth, grid.transform):.4f}",
                "yes" if whole else "NO",
                f"{raw_seconds:.2f} -> {seconds:.2f}",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
