"""What a scene of many files costs its driver: headers, windows, the plan of many blocks.

    python benchmarks/tiles.py --files 10000

writes so many small tiles to a temporary folder and measures, each in a process of its own: opening them for the
first time and again (headers kept), reading windows that cross files, and planning a scene of about 100,000 blocks.
The memory is the resident peak of that process; that of one that opens a single tile comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 104
"""Pixels of a tile."""


def write(folder: Path, count: int) -> None:
    import rasterio
    from rasterio.transform import from_origin

    across = max(1, int(count**0.5))
    pixels = np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE), dtype=np.uint8)
    for i in range(count):
        row, col = divmod(i, across)
        place = from_origin(500_000 + col * SIDE * 0.5, 4_000_000 - row * SIDE * 0.5, 0.5, 0.5)
        with rasterio.open(
            folder / f"t{i:06d}.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=3, dtype="uint8",
            crs="EPSG:32637", transform=place,
        ) as file:  # fmt: skip
            file.write(np.roll(pixels, i, axis=1))


def measure(what: str, folder: Path) -> dict[str, float]:
    """Seconds and the peak of memory, in this process."""
    from tileseg.source.protocol import ReadRequest
    from tileseg.source.scene import opener_of
    from tileseg.spec import RunSpec
    from tileseg.window import Window

    began = time.perf_counter()
    if what == "plan":
        from tileseg.run.prepare import prepare

        blocks = sum(1 for _ in prepare(RunSpec(scene=folder, block=32, gsd="native")).plan)
        return {"seconds": time.perf_counter() - began, "memory": peak(), "blocks": blocks}
    if what == "one":
        tile = next(folder.iterdir())
        opener_of(tile).open(tile, ReadRequest(3))
        return {"seconds": time.perf_counter() - began, "memory": peak()}
    scene = opener_of(folder).open(folder, ReadRequest(3))
    if what == "open":
        return {"seconds": time.perf_counter() - began, "memory": peak()}
    rng, grid = np.random.default_rng(1), scene.grid
    began = time.perf_counter()
    for _ in range(200):
        top, left = (int(rng.integers(0, max(1, size - 512))) for size in (grid.height, grid.width))
        scene.read(Window(top, left, min(512, grid.height), min(512, grid.width)))
    seconds = (time.perf_counter() - began) / 200
    return {"seconds": seconds, "memory": peak(), "handles": sum(1 for _ in Path("/proc/self/fd").iterdir())}


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="tiles that are there already")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "tiles"
        if given.folder is None:
            folder.mkdir()
            write(folder, given.files)
        for name, what in (
            ("one tile", "one"),
            ("open, first time", "open"),
            ("open again", "open"),
            ("a window of 512 x 512", "windows"),
            ("plan, first time", "plan"),
            ("plan again", "plan"),
        ):
            command = [sys.executable, __file__, "--measure", what, "--folder", str(folder)]
            environment = {**os.environ, "XDG_CACHE_HOME": temporary}
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if said.returncode:
                print(name, "failed:", said.stderr.strip()[-300:])
                continue
            found = json.loads(said.stdout)
            rest = {key: value for key, value in found.items() if key not in ("seconds", "memory")}
            print(f"{name}: {found['seconds']:.3f} s, {found['memory']:.0f} MiB {rest or ''}", flush=True)


if __name__ == "__main__":
    main()
