"""Windows that are suggested are the uncertain ones, lie apart, and are where the table says."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine

from tileseg.batch.outputs import FinishedRun, finished_at
from tileseg.batch.suggest import suggest
from tileseg.card import ClassInfo
from tileseg.errors import InputError, UsageError
from tileseg.grid import Grid
from tileseg.labels import decide
from tileseg.mosaic import create_mosaic
from tileseg.window import Window

CLASSES = (ClassInfo(name="other", color="#c8b99a", background=True), ClassInfo(name="road", color="#3f7fbf"))
UTM = "EPSG:32637"


def run_of(folder: Path, doubt: np.ndarray, *, crs: str | None = UTM, keep: str = "logits", left: float = 0) -> Path:
    """A finished run whose pixels (y, x) are as uncertain as ``doubt`` says, 0 to 1; NaN is nodata."""
    height, width = doubt.shape
    wkt = None if crs is None else geopandas.GeoSeries([], crs=crs).crs.to_wkt()
    grid = Grid(height, width, Affine(0.5, 0, 500_000 + left, 0, -0.5, 4_000_000), wkt)
    mosaic = create_mosaic(folder / "mosaic.zarr", grid, (64, 64), CLASSES, keep, {"temperature": 1.0})
    chance = np.clip(1 - doubt / 2, 0.5, 0.999)
    logits = np.stack([np.log(chance / (1 - chance)), np.zeros_like(chance)]).astype(np.float16)
    valid = np.isfinite(doubt)
    for row in range(0, height, 64):
        for col in range(0, width, 64):
            core = Window(row, col, min(64, height - row), min(64, width - col))
            part = np.where(valid[core.slices], logits[:, core.slices[0], core.slices[1]], np.nan).astype(np.float16)
            mosaic.write_block(core, part, decide(part, valid[core.slices])[0])
    summary = {
        "written": "2026-12-01T00:00:00+00:00",
        "spec": {"scene": "gone.tif", "model": "gone"},
        "identity": {"scale": "1"},
        "scene": {"path": "gone.tif"},
        "model": {"name": "m", "sha256": "0" * 64},
        "versions": {"tileseg": "1", "keras": "3", "tensorflow": "2"},
        "report": {"outputs": {}, "polygons": {}, "pixels": {}, "blocks": 1},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_least_certain_windows_come_first_and_lie_where_they_are(tmp_path: Path) -> None:
    doubt = np.full((192, 320), 0.1)
    doubt[32:64, 256:288], doubt[128:160, 64:96] = 0.9, 0.7
    (run,) = finished_at(run_of(tmp_path / "a.tileseg", doubt))
    told: list[str] = []
    chosen = suggest([run], tmp_path / "w.gpkg", 2, 32, told.append)
    assert [one.window for one in chosen] == [Window(32, 256, 32, 32), Window(128, 64, 32, 32)]
    assert chosen[0].uncertainty == pytest.approx(0.9, abs=0.01)
    (line,) = told
    assert "not compared with the training's images" in line
    frame = geopandas.read_file(tmp_path / "w.gpkg")
    assert frame.crs.to_epsg() == 32637
    assert list(frame["rank"]) == [1, 2]
    assert frame.geometry[0].equals(shapely.box(500_128, 3_999_968, 500_144, 3_999_984))


def test_windows_lie_apart_and_in_all_runs(tmp_path: Path) -> None:
    """A large uncertain area does not take them all."""
    doubt = np.full((160, 160), 0.5)
    doubt[:80, :80] = 0.6
    runs = [
        run
        for name, left in (("a", 0), ("b", 1000))
        for run in finished_at(run_of(tmp_path / "in" / f"{name}.tileseg", doubt, left=left))
    ]
    assert finished_at(tmp_path / "in") == runs
    chosen = suggest(runs, tmp_path / "w.parquet", 6, 16)
    assert {one.run for one in chosen} == {0, 1}
    boxes = geopandas.read_parquet(tmp_path / "w.parquet").geometry
    gaps = [a.distance(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert min(gaps) > 16 * 0.5


def test_what_has_no_data_is_not_suggested(tmp_path: Path) -> None:
    doubt = np.full((96, 96), 0.2)
    doubt[:40, :] = np.nan
    (run,) = finished_at(run_of(tmp_path / "a.tileseg", doubt))
    chosen = suggest([run], tmp_path / "w.gpkg", 99, 32)
    assert {one.window.row_off for one in chosen} == {32, 64}
    (nothing,) = finished_at(run_of(tmp_path / "b.tileseg", np.full((96, 96), np.nan)))
    with pytest.raises(InputError, match="no window of 32 x 32 pixels has data"):
        suggest([nothing], tmp_path / "n.gpkg", 1, 32)
    assert not (tmp_path / "n.gpkg").exists()


def test_runs_in_several_systems_meet_in_degrees(tmp_path: Path) -> None:
    runs: list[FinishedRun] = []
    for name, crs in (("a", UTM), ("b", "EPSG:32736")):
        runs += finished_at(run_of(tmp_path / f"{name}.tileseg", np.full((64, 64), 0.5), crs=crs))
    suggest(runs, tmp_path / "w.fgb", 4, 32)
    assert geopandas.read_file(tmp_path / "w.fgb").crs.to_epsg() == 4326
    runs += finished_at(run_of(tmp_path / "c.tileseg", np.full((64, 64), 0.5), crs=None))
    with pytest.raises(UsageError, match="give them apart"):
        suggest(runs, tmp_path / "x.fgb", 40, 32)


def test_refusals(tmp_path: Path, in_process) -> None:
    run = run_of(tmp_path / "a.tileseg", np.full((64, 64), 0.5), keep="labels")
    for arguments, code, said in (
        ([run, "--out", tmp_path / "w.gpkg"], 42, "--keep labels, so nothing tells what is uncertain"),
        ([run, "--out", tmp_path / "w.shp"], 2, "expected a file ending in .gpkg, .parquet, .fgb"),
        ([run, "--out", tmp_path / "w.gpkg", "--size", "4"], 2, "at least 16 pixels"),
        ([tmp_path / "b.tileseg", "--out", tmp_path / "w.gpkg"], 42, "is not there (did you mean a.tileseg?)"),
        ([run / "mosaic.zarr", "--out", tmp_path / "w.gpkg"], 42, "no finished run there"),
        ([run, "--out", run / "summary.json"], 2, "exists; choose another --out"),
    ):
        done = in_process("suggest", *arguments)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
