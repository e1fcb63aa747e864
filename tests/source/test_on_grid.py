"""Areas of interest wherever a scene lies on the globe, and whatever its file is called."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.aoi import Aoi
from tileseg.source.vector_file import name_to_write

PLACES = {
    "0 to 360": ((4, 0, 0, 0, -3, 90), 4326, (60, 90)),
    "-180 to 180": ((4, 0, -180, 0, -3, 90), 4326, (60, 90)),
    "0 to 360, another datum": ((4, 0, 0, 0, -3, 90), 4269, (60, 90)),
    "across 180": ((0.5, 0, 165, 0, -0.5, 70), 4326, (50, 70)),
    "Web Mercator beyond 180": ((1e4, 0, 20037508 - 3e5, 0, -1e4, 9e6), 3857, (50, 70)),
    "all of Web Mercator": ((40075016.685578495 / 90, 0, -20037508.342789244, 0, -6e5, 18e6), 3857, (60, 90)),
    "about 150 E": ((4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), "+proj=moll +lon_0=150", (60, 90)),
    "sinusoidal": ((4.5e5, 0, -20.2e6, 0, -3.4e5, 10.2e6), "ESRI:54008", (60, 90)),
    "North Pole": ((1e5, 0, -4e6, 0, -1e5, 3e6), 3413, (60, 80)),
    "zone 60": ((5e3, 0, 7e5, 0, -5e3, 7.2e6), 32660, (50, 70)),
}
AREAS: dict[str, Any] = {
    "cut at 180": shapely.MultiPolygon([shapely.box(150, 40, 180, 85), shapely.box(-180, 40, -150, 85)]),
    "beyond 180": shapely.box(150, 40, 210, 85),
    "west": shapely.box(-170, -60, -10, 80),
    "cap": shapely.box(-180, 55, 180, 90),
    "world": shapely.box(-180, -90, 180, 90),
}


def grid(name: str) -> Grid:
    transform, crs, shape = PLACES[name]
    return Grid(*shape, Affine(*transform), CRS.from_user_input(crs).to_wkt())


def write(path: Path, shape: Any, crs: int = 4326) -> Path:
    geopandas.GeoDataFrame({"id": [1]}, geometry=[shape], crs=crs).to_file(path)
    return path


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("place", PLACES)
def test_areas_are_found_however_longitudes_are_counted(tmp_path: Path, place: str, area: str) -> None:
    where, wanted = grid(place), AREAS[area]
    row, col = np.mgrid[: where.height, : where.width] + 0.5
    x, y = (v.ravel() for v in where.transform @ (col, row))
    to = Transformer.from_crs(where.crs, 4326, always_xy=True)
    lon, lat = to.transform(x, y)
    back = to.transform(lon, lat, direction="INVERSE")
    assert where.crs is not None
    there = np.isfinite(lon) & np.isfinite(lat)
    if not where.crs.is_geographic and "Mercator" not in where.crs.name:
        with np.errstate(invalid="ignore"):
            there &= np.hypot(back[0] - x, back[1] - y) < 1e-2 * where.transform.a
    lon, lat = np.where(there, lon, 0), np.where(there, lat, 0)
    inside = np.zeros(len(lon), bool)
    near = np.zeros(len(lon), bool)
    for turn in (-360, 0, 360):
        inside |= shapely.contains_xy(wanted, (lon + 180) % 360 - 180 + turn, lat)
        points = shapely.points((lon + 180) % 360 - 180 + turn, lat)
        near |= shapely.dwithin(shapely.boundary(wanted), points, 0.05)
    path = write(tmp_path / "aoi.gpkg", wanted)
    if not inside[there].any():
        with pytest.raises(InputError, match="lies on the scene"):
            Aoi.from_file(path, where)
        return
    mask = Aoi.from_file(path, where).mask(where.extent).ravel()
    judged = there & ~near & (np.abs(np.abs((lon + 180) % 360 - 180) - 180) > 0.05)
    np.testing.assert_array_equal(mask[judged], inside[judged])


UTM = Grid(60, 80, Affine(10, 0, 500_000, 0, -10, 5_600_000), CRS.from_epsg(32632).to_wkt())
SQUARE = shapely.box(500_100, 5_599_600, 500_500, 5_599_900)
NAMES = ["a!b", "a;b", "tab\tname", "new\nline", "what?", "per%20cent", "x.zip", "{brace", "a|layername=b", "#1", "c:d"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson", ".shp", ".parquet"])
def test_any_character_may_be_in_a_path(tmp_path: Path, name: str, suffix: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    frame = geopandas.GeoDataFrame({"id": [1]}, geometry=[SQUARE], crs=32632)
    plain = tmp_path / f"aoi{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(plain)
    else:
        frame.to_file(plain)
    for file in tmp_path.glob("aoi.*"):
        shutil.copy(file, folder / f"{name}{file.suffix}")
    mask = Aoi.from_file(folder / f"{name}{suffix}", UTM).mask(UTM.extent)
    assert mask.sum() == 40 * 30


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_files_are_written_whatever_the_path(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / name / f"{name}{suffix}"
    path.parent.mkdir()
    with name_to_write(path) as text:
        geopandas.GeoDataFrame({"id": [1]}, geometry=[SQUARE], crs=32632).to_file(text, layer="area")
    assert list(path.parent.iterdir()) == [path]
    assert Aoi.from_file(path, UTM).mask(UTM.extent).sum() == 40 * 30


def test_coordinates_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with np.errstate(invalid="ignore"):
        broken = shapely.from_wkt("POLYGON ((0 0, 1 NaN, 1 1, 0 0))")
    frame = geopandas.GeoDataFrame({"id": [1, 2]}, geometry=[SQUARE, broken], crs=32632)
    frame.to_parquet(tmp_path / "aoi.parquet")
    with pytest.raises(InputError, match=r"aoi.parquet: 1 of its 2 features .* no numbers \(the first is number 2"):
        Aoi.from_file(tmp_path / "aoi.parquet", UTM)


def test_a_folder_may_be_an_area(tmp_path: Path) -> None:
    """An Esri FileGDB is a folder."""
    path = tmp_path / "area.gdb"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[SQUARE], crs=32632).to_file(
        path, driver="OpenFileGDB", TARGET_ARCGIS_VERSION="ARCGIS_PRO_3_2_OR_LATER"
    )
    assert path.is_dir()
    assert Aoi.from_file(path, UTM).mask(UTM.extent).sum() == 40 * 30
