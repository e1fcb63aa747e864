"""The viewer as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pmtiles.reader import MmapSource, Reader, all_tiles

from tileseg.view.app import TYPES
from tileseg.view.tiles import Tiles
from tileseg.view.viewed import look_into


@pytest.fixture(scope="module")
def site(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tileseg.view.export import export
    from tileseg.view.viewed import runs_in

    out = tmp_path_factory.mktemp("sites") / "site"
    export(runs_in(runs), out, tell=lambda _: None)
    return out


def test_files_hold_the_tiles_that_the_server_draws(runs: Path, site: Path) -> None:
    names = [run["name"] for run in json.loads((site / "view.json").read_text())["runs"]]
    assert names == ["bare", "placed"]
    assert {path.name for path in site.iterdir()} == {*TYPES, "view.json", "runs"}
    for i, name in enumerate(names):
        run = look_into(runs / f"{name}.tileseg")
        layers = json.loads((site / "runs" / str(i) / "facts.json").read_text())["exported"]
        assert set(layers) == {"labels", "nodata", "scene", *(f"measure:{name}" for name in run.rasters)}
        for key in ("scene", "labels"):
            with (site / "runs" / str(i) / layers[key]).open("rb") as file:
                reader = Reader(MmapSource(file))
                assert reader.header()["max_zoom"] == run.placement.zoom(256)
                tiles = dict(all_tiles(reader.get_bytes))
            assert len(tiles) > 5
            for place, content in tiles.items():
                more = () if key == "scene" else (frozenset(), {})
                assert getattr(Tiles(run), key)(*place, *more) == content
        polygons = json.loads((site / "runs" / str(i) / "polygons.json").read_text())
        assert polygons["ready"]
        assert polygons["total"] == sum(each["count"] for each in polygons["classes"].values())


def test_an_export_is_replaced_only_when_told(in_process, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "site"
    call = "view", runs / "bare.tileseg", "--export", out
    assert in_process(*call).returncode == 0
    (out / "more.txt").write_text("")
    told = in_process(*call)
    assert told.returncode == 2
    assert "--overwrite" in told.stderr
    assert in_process(*call, "--overwrite").returncode == 0
    assert not (out / "more.txt").exists()
    assert [path.name for path in out.parent.iterdir()] == ["site"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    told = in_process("view", runs / "bare.tileseg", "--export", tmp_path / "mine", "--overwrite")
    assert told.returncode == 2
    assert (tmp_path / "mine" / "notes.txt").exists()
    told = in_process("view", runs / "bare.tileseg", "--export", tmp_path / "mine" / "notes.txt")
    assert told.returncode == 2
    assert "is a file" in told.stderr
