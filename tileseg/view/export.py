"""The viewer as a folder of files, for web servers and object stores that answer ranges: nothing of ours runs there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tileseg.ahead import computed_ahead
from tileseg.cluster import hardware
from tileseg.errors import TilesegError, UsageError
from tileseg.publish.vectors import writing
from tileseg.view.app import TYPES, index_of, page_file
from tileseg.view.archive import facts_of as polygon_facts
from tileseg.view.archive import write_archive
from tileseg.view.facts import facts_of, progress_of, seams_of
from tileseg.view.polygon_file import in_degrees
from tileseg.view.tiles import Draw, Tiles
from tileseg.view.viewed import ViewedRun

MARK = "view.json"
"""File that says that a folder is an export: written last."""

_PAGE = "viewer.js"


def export(
    runs: Sequence[ViewedRun], out: Path, *, overwrite: bool = False, tell: Callable[[str], object] = print
) -> None:
    """Write the page, and what it shows of each run: all of it or nothing. ``tell`` gets lines on the way.

    Raises UsageError where the folder has something else in it, TilesegError where it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--export {out}: is a file; expected a folder")
    if out.is_dir() and any(out.iterdir()) and not (overwrite and (out / _PAGE).is_file()):
        told = "--overwrite replaces an earlier export" if (out / MARK).exists() else "choose another"
        raise UsageError(f"--export {out}: is not empty; {told}")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            made = Path(temporary) / out.name
            made.mkdir()
            for name in TYPES:
                shutil.copyfile(page_file(name), made / name)
            for i, run in enumerate(runs):
                tell(f"{run.folder}: writing its tiles")
                _write_run(run, made / "runs" / str(i), tell)
            _write_json(made / MARK, {"served": False, "runs": index_of(runs)})
            if out.is_dir():
                shutil.rmtree(out)
            made.replace(out)


def _write_run(run: ViewedRun, folder: Path, tell: Callable[[str], object]) -> None:
    folder.mkdir(parents=True)
    tiles = Tiles(run)
    layers: dict[str, tuple[Draw, str]] = {
        "labels": (lambda z, x, y: tiles.labels(z, x, y, frozenset(), {}), "png"),
        "nodata": (tiles.nodata, "png"),
    }
    if isinstance(run.scene, str):
        tell(f"{run.folder}: without the scene: {run.scene}")
    else:
        layers["scene"] = (tiles.scene, "webp")
    for name in run.rasters:
        layers[f"measure:{name}"] = (lambda z, x, y, name=name: tiles.measure(name, z, x, y), "png")  # type: ignore[misc]
    exported = {key: f"layer-{i}.pmtiles" for i, key in enumerate(layers)}
    for key, (draw, kind) in layers.items():
        _write_raster(folder / exported[key], run, draw, kind)
    _write_json(folder / "facts.json", {**facts_of(run), "exported": exported})
    _write_json(folder / "polygons.json", _write_polygons(run, folder))
    _write_json(folder / "seams.json", seams_of(run))
    _write_json(folder / "progress.json", progress_of(run))


def _write_polygons(run: ViewedRun, folder: Path) -> dict[str, Any]:
    """Their tiles; what is known of them."""
    own, found = run.archive(), run.polygons()
    if own is not None:
        shutil.copyfile(own, folder / "polygons.pmtiles")
    if found is None:
        return {"ready": True, "tiles": own is not None}
    form, path = found
    try:
        if own is None:
            write_archive(folder / "polygons.pmtiles", run, in_degrees(form.read(path), run.placement))
        return {"ready": True, "tiles": True, **polygon_facts(form, path, run.placement)}
    except (OSError, ValueError, RuntimeError) as error:
        raise TilesegError(f"{path}: cannot be read: {error}") from error


def _write_raster(path: Path, run: ViewedRun, draw: Draw, kind: str) -> None:
    """An archive of the tiles of a layer that show something, of all zooms up to the scene's own."""
    from pmtiles.tile import Compression, TileType, tileid_to_zxy
    from pmtiles.writer import Writer

    zooms = run.placement.zoom(256)
    west, south, east, north = (min(180.0, max(-180.0, side)) for side in run.placement.degrees)
    count = hardware.cpu().cores

    def drawn(number: int) -> tuple[int, bytes | None]:
        return number, draw(*tileid_to_zxy(number))

    with path.open("wb") as file:
        writer: Any = Writer(file)  # type: ignore[no-untyped-call]
        written = 0
        for zoom in range(zooms + 1):
            for number, content in computed_ahead(drawn, _numbers(run, zoom), ahead=4 * count, threads=count):
                if content is not None:
                    writer.write_tile(number, content)
                    written += 1
        if not written:
            writer.write_tile(0, b"")
        box = {
            "min_lon_e7": int(west * 1e7), "min_lat_e7": int(south * 1e7),
            "max_lon_e7": int(east * 1e7), "max_lat_e7": int(north * 1e7),
        }  # fmt: skip
        type_ = TileType.WEBP if kind == "webp" else TileType.PNG
        writer.finalize({"tile_type": type_, "tile_compression": Compression.NONE, **box}, {"name": path.stem})


def _numbers(run: ViewedRun, zoom: int) -> Iterator[int]:
    """Numbers of the tiles of a zoom that may show something, ascending."""
    from pmtiles.tile import zxy_to_tileid

    side = 1 << zoom
    left, top, right, bottom = run.placement.bounds
    cols = np.arange(np.floor(left * side), np.ceil(right * side)).astype(int)
    lines = np.arange(max(0, np.floor(top * side)), min(side, np.ceil(bottom * side))).astype(int)
    yield from sorted({zxy_to_tileid(zoom, int(col) % side, int(line)) for col in cols for line in lines})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
