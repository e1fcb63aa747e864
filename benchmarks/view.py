"""The viewer on a big run: until its first picture, tiles by the server, its memory; what vector tiles cost to write.

    python benchmarks/view.py [--side 32768] [--cell 32] [--keep FOLDER]

The run is made up: a scene of side x side pixels (JPEG in tiles, with overviews), logits and labels of two classes, and
a house in each cell of so many pixels, so a million of them by default. The browser is Debian's Chromium, which draws
by software here; without it the page is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window as Part

from tileseg.card import ClassInfo
from tileseg.grid import Grid
from tileseg.mosaic import create_mosaic
from tileseg.run.vectorize import Classes, vectorize
from tileseg.view.viewed import look_into
from tileseg.window import tile

BLOCK = 2048
CLASSES = (ClassInfo(name="other", color="#c8b99a", background=True), ClassInfo(name="house", color="#d9544d"))


def make(folder: Path, side: int, cell: int) -> Path:
    """A scene and the folder of its run."""
    rng = np.random.default_rng(0)
    logit = np.full((2, BLOCK, BLOCK), 0, np.float16)
    logit[0] = 3
    for row in range(0, BLOCK, cell):
        for col in range(0, BLOCK, cell):
            height, width = rng.integers(cell // 4, cell - 3, 2)
            logit[1, row + 2 : row + 2 + height, col + 2 : col + 2 + width] = rng.uniform(3.1, 8)
    labels = (logit[1] > logit[0]).astype(np.uint8)
    picture = rng.integers(60, 120, (3, BLOCK, BLOCK)).astype(np.uint8)
    picture[0] += labels * 90
    grid = Grid(side, side, from_origin(500_000, 5_600_000, 0.3, 0.3), rasterio.CRS.from_epsg(32632).to_wkt())
    scene = folder / "scene.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="jpeg", photometric="ycbcr", crs=grid.crs_wkt, transform=grid.transform, BIGTIFF="YES",
    ) as file:  # fmt: skip
        for core in tile(grid.extent, BLOCK, BLOCK):
            part = Part(core.col_off, core.row_off, core.width, core.height)
            file.write(picture[:, : core.height, : core.width], window=part)
        file.build_overviews([2**i for i in range(1, 8)], Resampling.nearest)
    run = folder / "scene.tileseg"
    run.mkdir()
    mosaic = create_mosaic(run / "mosaic.zarr", grid, (BLOCK, BLOCK), CLASSES, "logits", {})
    for core in tile(grid.extent, BLOCK, BLOCK):
        mosaic.write_block(core, logit[:, : core.height, : core.width], labels[: core.height, : core.width])
    mosaic.write_pyramid()
    for form in ("fgb", "pmtiles"):
        start = time.perf_counter()
        report = vectorize(mosaic, {form: run / f"polygons.{form}"}, Classes.of_card(CLASSES))
        size = (run / f"polygons.{form}").stat().st_size / 1e6
        print(
            f"vectorize --format {form}: {report.counts['house']:,} polygons, {time.perf_counter() - start:.0f} s "
            f"(writing {report.seconds['finish']:.0f} s), {size:.0f} MB, "
            f"peak {psutil.Process().memory_info().rss / 2**20:.0f} MiB after"
        )
    summary = {
        "report": {"outputs": {form: f"polygons.{form}" for form in ("fgb", "pmtiles")}, "pixels": {}},
        "identity": {"card": {"bands": ["red", "green", "blue"]}},
        "scene": {"path": str(scene)},
        "spec": {"scene": str(scene)},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def tiles(address: str, run: Path, count: int) -> None:
    """Times of tiles at random places and zooms, one after the other, as a pan asks for them."""
    placement = look_into(run).placement
    top = placement.zoom(256)
    rng = random.Random(0)
    every, fine = range(top - 8, top + 2), range(top - 2, top + 2)
    for layer, zooms in (
        ("scene", every),
        ("labels", every),
        ("labels?threshold=1:0.9", fine),
        ("measure?name=probability%20of%20house", fine),
    ):
        spent = []
        name, _, query = layer.partition("?")
        for _ in range(count):
            zoom = rng.choice(zooms)
            pixel = np.array([[rng.random() * placement.grid.width, rng.random() * placement.grid.height]])
            x, y = (placement.of_pixels(pixel)[0] * 2**zoom).astype(int)
            start = time.perf_counter()
            with urllib.request.urlopen(f"{address}runs/0/{name}/{zoom}/{x}/{y}?{query}") as answer:
                answer.read()
            spent.append((time.perf_counter() - start) * 1e3)
        half, most = np.percentile(spent, [50, 95])
        print(f"tiles of {layer}, zooms {zooms[0]} to {zooms[-1]}, ms: median {half:.0f}, p95 {most:.0f}")


def page(address: str) -> None:
    """Until the map shows scene and polygons, and how long moves take."""
    program = shutil.which("chromium")
    if program is None:
        print("no chromium: the page is left out")
        return
    from playwright.sync_api import sync_playwright

    there = "window.viewer && viewer.map.getSource('polygons') && viewer.map.loaded() && viewer.map.areTilesLoaded()"
    shown = f"() => Boolean({there})"
    with sync_playwright() as started:
        arguments = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
        browser = started.chromium.launch(executable_path=program, args=arguments)
        for i in range(3):
            opened = browser.new_page(viewport={"width": 1200, "height": 800})
            start = time.perf_counter()
            opened.goto(address)
            while not opened.evaluate(shown):
                time.sleep(0.02)
            print(f"page {i + 1}: scene and polygons of the whole after {time.perf_counter() - start:.2f} s")
            spent = []
            for zoom in range(13, 19):
                start = time.perf_counter()
                opened.evaluate(f"() => viewer.map.jumpTo({{ zoom: {zoom} }})")
                while not opened.evaluate(shown):
                    time.sleep(0.02)
                spent.append(f"{zoom}: {time.perf_counter() - start:.2f}")
            print(f"  until all of another zoom is drawn, s: {', '.join(spent)}")
            opened.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32_768)
    parser.add_argument("--cell", type=int, default=32)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="folder of the run, made where it is not there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = folder / "scene.tileseg"
        if not (run / "summary.json").exists():
            make(folder, given.side, given.cell)
        server = subprocess.Popen(
            [sys.executable, "-m", "tileseg", "view", str(run), "--no-browser"], stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            start = time.perf_counter()
            address = server.stderr.readline().split(" is at ")[1].split()[0]
            print(f"server: listens after {time.perf_counter() - start:.1f} s")
            memory = psutil.Process(server.pid)
            page(address)
            print(f"server: {memory.memory_info().rss / 2**20:.0f} MiB")
            for _ in range(2):
                tiles(address, run, given.tiles)
                print(f"server: {memory.memory_info().rss / 2**20:.0f} MiB")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
