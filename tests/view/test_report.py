"""One run on one page."""

from __future__ import annotations

import html
import json
import re
import shutil
import urllib.parse
from pathlib import Path

import geopandas
import pytest
import rasterio
from affine import Affine
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run
from tileseg.view.report import command_of


@pytest.mark.parametrize("name", ["placed", "bare"])
def test_the_page_has_what_came_out_and_needs_nothing_else(in_process, runs: Path, tmp_path: Path, name: str) -> None:
    folder, page = runs / f"{name}.tileseg", tmp_path / "report.html"
    told = in_process("view", folder, "--report", page)
    assert told.returncode == 0, told.stderr
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert not re.findall(r"(?:src|href)=['\"]?(?!['\"]?data:)", text)
    frame = (
        geopandas.read_parquet(folder / "polygons.parquet")
        if name == "bare"
        else geopandas.read_file(folder / "polygons.gpkg", layer="polygons")
    )
    summary = json.loads((folder / "summary.json").read_text())
    for label, part in frame.groupby("class_name"):
        area = part["area_m2" if name == "placed" else "area_px"].sum()
        row = [f"{summary['report']['pixels'][label]:,}", f"{len(part):,}", f"{area:,.0f}"]
        found = re.search(rf"<tr><td><i [^>]*></i>{re.escape(html.escape(label))}</td>(.*?)</tr>", text)
        assert found is not None
        cells = re.findall(r"<td>(.*?)</td>", found[1])
        assert [cells[0], cells[2], cells[3]] == row
    assert len(re.findall(r"<svg xmlns.*?</svg>", text)) == 2
    assert in_process("view", folder, "--report", page).returncode == 2
    assert in_process("view", folder, "--report", page, "--overwrite").returncode == 0


def test_the_command_makes_the_same_again(runs: Path, in_process, tmp_path: Path) -> None:
    summary = json.loads((runs / "placed.tileseg" / "summary.json").read_text())
    command = command_of(summary)
    command[command.index("--out") + 1] = str(tmp_path / "again.tileseg")
    told = in_process(*command[1:], "--quiet")
    assert told.returncode == 0, told.stderr
    again = json.loads((tmp_path / "again.tileseg" / "summary.json").read_text())
    assert again["fingerprint"] == summary["fingerprint"]
    assert again["report"]["polygons"] == summary["report"]["polygons"]


def test_a_folder_of_runs_is_told_on_one_page(in_process, runs: Path, tmp_path: Path) -> None:
    """Finished ones, one that was killed and one that cannot be read, with links that hold where the page lies."""
    archive = tmp_path / "an <archive>"
    shutil.copytree(runs, archive)
    shutil.copytree(runs / "placed.tileseg", archive / "killed.tileseg")
    (archive / "killed.tileseg" / "summary.json").unlink()
    told = [
        {"scene": "in/killed.tif", "folder": "killed.tileseg", "status": "failed", "message": "its <disk> was full"},
        {"scene": "in/broken.tif", "folder": "broken.tileseg", "status": "unusable", "message": "is damaged"},
        {"scene": "in/bare.tif", "folder": "bare.tileseg", "status": "skipped", "message": ""},
    ]
    (archive / "batch.json").write_text(json.dumps({"scenes": told}))
    page = tmp_path / "pages" / "archive.html"
    page.parent.mkdir()
    done = in_process("view", archive, "--report", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert "<h1>an &lt;archive&gt;</h1><p class=sub>4 scenes: 2 finished, 2 failed</p>" in text
    rows = re.findall(r"<tr><td>(.*?)</tr>", text)
    assert len(rows) == 4
    (bare,) = [row for row in rows if "bare.tif" in row]
    summary = json.loads((archive / "bare.tileseg" / "summary.json").read_text())
    assert f"<td>0.1</td><td>{sum(summary['report']['polygons'].values()):,}</td>" in bare
    assert [row for row in rows if "failed</td>" in row and "12 of 12 blocks; its &lt;disk&gt; was full" in row]
    assert [row for row in rows if "failed</td>" in row and "broken.tif" in row and "is damaged" in row]
    links = re.findall(r"href='([^#'][^']*)'", text)
    assert len(links) == 3
    assert all((page.parent / urllib.parse.unquote(html.unescape(link)) / "mosaic.zarr").is_dir() for link in links)
    assert len(re.findall("<polygon ", text)) == 2  # bare.tif lies nowhere
    assert "1 of no known place" not in text
    assert "2 of no known place are left out" in text
    assert text.count("data:image/jpeg;base64,") == 3
    assert not re.findall(r"src=['\"]?(?!['\"]?data:)", text)


def test_a_folder_without_runs_has_no_page(in_process, tmp_path: Path) -> None:
    assert in_process("view", tmp_path, "--report", tmp_path / "report.html").returncode == 42
    assert list(tmp_path.iterdir()) == []


def test_a_turned_scene_of_an_odd_name_is_drawn(model: Path, tmp_path: Path, in_process) -> None:
    scene = write_scene(tmp_path / "a <b> & c.tif", smooth_noise(90, 140, 3, seed=3))
    with rasterio.open(scene, "r+") as file:
        file.transform = Affine(0.3, 0.2, 500_000, 0.2, -0.3, 4_000_000)
    out = tmp_path / "turned.tileseg"
    run(RunSpec.parse({"scene": scene, "model": str(model), "out": out, "workers": 0, "formats": "geojson"}))
    told = in_process("view", out, "--report", tmp_path / "r.html")
    assert told.returncode == 0, told.stderr
    assert "<h1>a &lt;b&gt; &amp; c.tif</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")
