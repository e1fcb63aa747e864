"""Runs to look at: with coordinates and without, with probabilities or logits."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene

from tileseg import RunSpec, run


@pytest.fixture(scope="session")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders of runs: ``placed`` (probabilities, vector tiles) and ``bare`` (no coordinates)."""
    folder = tmp_path_factory.mktemp("runs")
    for name, kind in (
        ("placed", {"keep": "probabilities", "formats": "gpkg,pmtiles"}),
        ("bare", {"formats": "parquet"}),
    ):
        pixels = smooth_noise(300, 420, 3, seed=7)
        scene = write_scene(folder / f"{name}.tif", pixels, **({} if name == "placed" else {"crs": None}))
        options = {"block": 128, "workers": 0, "precision": "float32", "min_area": "4px", **kind}
        run(RunSpec.parse({"scene": scene, "model": str(model), "out": folder / f"{name}.tileseg", **options}))
    return folder
