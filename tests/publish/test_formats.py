"""Vector formats are values of one registry: another one needs nothing else in the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from fakes import save_tiny_onnx, smooth_noise, write_scene
from rasterio.transform import from_origin

import tileseg
from tileseg.cli.main import main
from tileseg.errors import UsageError
from tileseg.formats import FORMATS, Format, vector_paths
from tileseg.spec import RunSpec


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Format:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    form = Format("lines", ".txt", "text/plain", "toy_format:Lines")
    monkeypatch.setitem(FORMATS, form.name, form)
    return form


def test_a_run_writes_a_format_that_the_package_does_not_know(tmp_path: Path, toy: Format) -> None:
    save_tiny_onnx(tmp_path / "model")
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(70, 90, 3))
    report = tileseg.run(
        RunSpec.parse(
            {
                "scene": scene, "model": str(tmp_path / "model"), "out": tmp_path / "out", "workers": 0,
                "formats": "lines,parquet",
            }
        )
    )  # fmt: skip
    assert report.outputs["lines"] == tmp_path / "out" / "polygons.txt"
    found = [line.split() for line in (tmp_path / "out" / "polygons.txt").read_text().splitlines()]
    frame = geopandas.read_parquet(tmp_path / "out" / "polygons.parquet")
    assert found == [[name, str(area)] for name, area in zip(frame["class_name"], frame["area_m2"], strict=True)]
    assert found
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "lines" in summary["report"]["outputs"]


def test_vectorize_writes_it_too(
    tmp_path: Path, toy: Format, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[3:9, 4:12] = 2
    with rasterio.open(
        tmp_path / "labels.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8",
        crs="EPSG:32637", transform=from_origin(500_000, 4_000_000, 0.5, 0.5), nodata=0,
    ) as file:  # fmt: skip
        file.write(labels, 1)
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["tileseg", "vectorize", str(tmp_path / "labels.tif"), "--out", str(out), "--format", "lines"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    (line,) = (out / "polygons.txt").read_text().splitlines()
    assert line.split()[0] == "2"
    assert float(line.split()[1]) == pytest.approx(12, rel=1e-2)


def test_names_that_are_none_are_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--format: 'shp': expected some of geojson, .*fgb"):
        RunSpec.parse({"scene": tmp_path / "a.tif", "formats": "shp"})


def test_formats_have_different_files() -> None:
    paths = vector_paths(Path("folder"), FORMATS)
    assert len(set(paths.values())) == len(FORMATS)
    assert paths["geojson"] == Path("folder/polygons.geojson")


def test_knowing_the_formats_needs_no_library() -> None:
    heavy = "numpy", "pandas", "pyarrow", "pyogrio", "shapely", "geopandas"
    code = f"import sys, tileseg.formats; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
