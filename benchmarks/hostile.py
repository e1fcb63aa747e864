"""Memory of polygons on the labels that are hardest for them: noise, a checkerboard, a class that hangs together.

    python benchmarks/hostile.py                # tracing a block of 2048 x 2048; joining and writing 4096 x 4096
    python benchmarks/hostile.py --side 16384   # a scene of this size: some minutes, and 20 GB of disk

Peaks are of this process, above what it held before, as Linux counts them. Exit code 1 if one is above its projection.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS

from tileseg.formats import vector_paths
from tileseg.grid import Grid
from tileseg.polygons.fragment import load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.memory import MIB, join_bytes, trace_bytes
from tileseg.polygons.trace import trace_block
from tileseg.run.vectorize import Classes, warm_up, write_polygons
from tileseg.spec import VectorOptions
from tileseg.window import Window, tile

BLOCK = 2048


def labels(case: str, core: Window) -> npt.NDArray[np.uint8]:
    """One block: "checkerboard", "eight" classes, or the share of class 1."""
    rng = np.random.default_rng((core.row_off, core.col_off))
    if case == "checkerboard":
        return (np.indices((core.height, core.width)).sum(0) % 2).astype(np.uint8)
    if case == "eight":
        return rng.integers(0, 8, (core.height, core.width)).astype(np.uint8)
    return (rng.random((core.height, core.width)) < float(case)).astype(np.uint8)


def resident(name: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def peak(work: Callable[[], object]) -> tuple[int, float]:
    """Bytes above what was held before, and seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = resident("VmRSS"), time.perf_counter()
    work()
    return resident("VmHWM") - before, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="of the scene that is joined")
    side = parser.parse_args().side
    warm_up()
    bad = False
    print("| labels | step | MiB | projected, MiB | seconds |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="tileseg-hostile-") as name:
        folder = Path(name)

        def trace(case: str, cores: list[Window], extent: Window) -> None:
            for i, core in enumerate(cores):
                ignore = {0} if case.startswith("0") else set()
                save_fragments(folder / str(i), trace_block(labels(case, core), None, core, extent, ignore=ignore))

        one = Window(BLOCK, BLOCK, BLOCK, BLOCK)
        for case in ("0.25", "0.5", "0.75", "eight", "checkerboard"):
            traced, seconds = peak(lambda case=case: trace(case, [one], Window(0, 0, 3 * BLOCK, 3 * BLOCK)))
            projected = trace_bytes(BLOCK, BLOCK) + 9 * one.pixels  # drawing the labels takes eight bytes a pixel
            bad |= traced > projected
            print(f"| {case} | trace | {traced / MIB:.0f} | {projected / MIB:.0f} | {seconds:.1f} |", flush=True)

        extent = Window(0, 0, side, side)
        cores = tile(extent, BLOCK, BLOCK)
        trace("0.6", cores, extent)
        most = [0, 0]

        def put_together() -> None:
            for batch in join(cores, lambda i: load_fragments(folder / str(i)), 4, scratch=folder):
                most[:] = max(most[0], len(batch.coordinates)), max(most[1], len(batch.ring_offsets))

        joined, seconds = peak(put_together)
        projected = join_bytes()
        bad |= joined > projected
        scene = f"0.6, {side} x {side}"
        print(f"| {scene} | join | {joined / MIB:.0f} | {projected / MIB:.0f} | {seconds:.1f} |", flush=True)
        grid = Grid(side, side, Affine(10, 0, 399_960, 0, -10, 5_000_040), CRS.from_epsg(32633).to_wkt())
        for form in ("geojson", "parquet", "gpkg", "fgb"):
            outputs = vector_paths(folder, [form])

            def write(outputs: dict[str, Path] = outputs) -> None:
                write_polygons(
                    cores, lambda i: load_fragments(folder / str(i)), grid, Classes({}), VectorOptions(), outputs
                )

            taken, seconds = peak(write)
            print(f"| {scene} | join, write {form} | {taken / MIB:.0f} | | {seconds:.1f} |", flush=True)
            outputs[form].unlink()
        print(f"\nlargest batch: {most[0]} corners, {most[1]} rings")
    sys.exit(bad)


if __name__ == "__main__":
    main()
