"""Peak memory does not grow with the scene: 8192 x 8192 against 32768 x 32768 pixels, a cheap network, defaults.

    python benchmarks/memory.py            # about two minutes and 10 GB of disk
    python benchmarks/memory.py --embedded # the embedded model at its defaults too

The large scene is the small one repeated, so each block holds as many polygons in both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from setup import DATA, deflated, save_cheap, tileseg_run

GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", action="store_true", help="also run the embedded model on the small scene")
    parser.add_argument("--small", action="store_true", help="16384 x 16384 instead of 32768 x 32768")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tileseg-memory-") as folder:
        work = Path(folder)
        source = DATA / "throughput" / "nasa_black_marble_8192x8192.tif"
        scenes = {8192: deflated(source, work / "8192.tif")}
        large = 16384 if options.small else 32768
        scenes[large] = deflated(source, work / f"{large}.tif", (large // 8192, large // 8192))
        model = save_cheap(work / "cheap")
        print("| scene | network | peak, GiB | projected, GiB | MPix/s |\n| --- | --- | --- | --- | --- |")
        peaks, bad = [], False
        runs = [(side, ("--model", str(model)), "1x1") for side in scenes]
        if options.embedded:
            runs.append((8192, (), "embedded"))
        for side, arguments, name in runs:
            measured = tileseg_run(scenes[side], work / "out", *arguments)
            projected = measured.report["projected_memory"]
            print(
                f"| {side} x {side} | {name} | {measured.peak / GIB:.2f} | {projected / GIB:.2f} "
                f"| {side * side / 1e6 / measured.wall:.1f} |",
                flush=True,
            )
            bad |= measured.peak > projected
            if name == "1x1":
                peaks.append(measured.peak)
        print(f"\nlarge over small: {peaks[1] / peaks[0]:.3f}")
        sys.exit(bad or peaks[1] > 1.1 * peaks[0])


if __name__ == "__main__":
    main()
