"""One run on one page."""

from __future__ import annotations

import html
import json
import re
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


def test_pages_of_several_runs_or_of_none_are_refused(in_process, runs: Path, tmp_path: Path) -> None:
    told = in_process("view", runs, "--report", tmp_path / "report.html")
    assert told.returncode == 2
    assert "has 2" in told.stderr
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
