"""Every command of docs/sources.md runs, as far as it needs no server."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from fakes import smooth_noise

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("tileseg run")
]
CORNER = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page speaks of."""
    folder = tmp_path_factory.mktemp("sources")
    pixels = np.moveaxis(smooth_noise(80, 120, 3), -1, 0)

    def write(name: str, planes: np.ndarray, top: int = 0, driver: str = "GTiff") -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = {"count": len(planes), "height": planes.shape[1], "width": planes.shape[2], "dtype": planes.dtype}
        place = {"crs": "EPSG:32637", "transform": CORNER @ Affine.translation(0, top)}
        lossless = {"REVERSIBLE": "YES", "QUALITY": "100"} if driver == "JP2OpenJPEG" else {}
        with rasterio.open(path, "w", driver=driver, **shape, **place, **lossless) as file:
            file.write(planes)
        return name

    names = [
        write(name, pixels[:, top : top + 40], top)
        for name, top in (("tiles/a_rgb.tif", 0), ("tiles/deep/b_rgb.tif", 40), ("north.tif", 0), ("south.tif", 40))
    ][:2]
    (folder / "tiles.txt").write_text("\n".join(names))
    boxes = [shapely.box(0, 0, 1, 1)] * 2
    geopandas.GeoDataFrame({"location": names}, geometry=boxes, crs=32637).to_file(folder / "index.gpkg")
    item = pystac.Item("one", None, None, datetime(2024, 5, 6, tzinfo=UTC), {})
    item.add_asset("visual", pystac.Asset(names[0], media_type=pystac.MediaType.COG, roles=["data"]))
    for i, (name, color) in enumerate((("B04", "red"), ("B03", "green"), ("B02", "blue"))):
        write(f"{name}.jp2", pixels[i : i + 1], driver="JP2OpenJPEG")
        write(f"T36_{name}.tif", pixels[i : i + 1])
        asset = pystac.Asset(f"T36_{name}.tif", media_type=pystac.MediaType.COG, roles=["data"])
        asset.extra_fields["eo:bands"] = [{"name": name, "common_name": color}]
        item.add_asset(name, asset)
    write("T36_SCL.tif", pixels[:1] % 12)
    (folder / "items.json").write_text(json.dumps(pystac.ItemCollection([item]).to_dict()))
    return folder


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", [command for command in COMMANDS if "s3://" not in command])
def test_it_runs(folder: Path, in_process, model: Path, command: str) -> None:
    arguments = shlex.split(command)[1:]
    done = in_process(*arguments, "--model", model, "--dry-run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["width"] == 120
    assert plan["height"] == (40 if "visual" in command else 80)
