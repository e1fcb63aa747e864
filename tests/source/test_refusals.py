"""Refusals say what a file is and what to do; what is merely unusual is read."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from fakes import smooth_noise, write_scene
from PIL import Image
from rasterio.crs import CRS

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.scene import open_scene
from tileseg.window import Window


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 or netCDF-4 file, not a raster"),
        ("a.nc", b"CDF\x01", "is a netCDF file"),
        ("a.zip", b"PK\x03\x04", "is a ZIP archive, not a raster"),
        ("stored.zip", b"PK\x03\x04" + b"a.vrt<VRTDataset></VRTDataset>", "is a ZIP archive, not a raster"),
        ("a.laz", b"LASF", "is a point cloud (LAS or LAZ), not"),
        ("a.ecw", b"\x01\x02\x03", "is an ECW image by its name"),
        ("a.sid", b"msid", "is a MrSID image, "),
        ("a.heic", b"\0\0\0\x18ftypheic", "is a HEIC photograph"),
        ("a.tif", b"<!DOCTYPE html><html>", "is a web page, not a raster that tileseg reads"),
        ("a.tif", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("a.tif", b"\x01\x02", "convert it: gdal_translate"),
    ],
)
def test_other_formats_are_named_with_the_remedy(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_scene(tmp_path / name, expected=3)
    assert told in str(caught.value)
    assert "not a raster that tileseg reads (GeoTIFF, JPEG, " in str(caught.value)
    assert str(caught.value).rpartition("; ")[2]
    assert "\n" not in str(caught.value)


def test_tiles_of_a_map_are_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.mbtiles") as database:
        database.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        database.execute("CREATE TABLE metadata (name, value)")
    with pytest.raises(InputError, match="is MBTiles, expected a GeoPackage with rasters; convert it: gdal_translate"):
        open_scene(tmp_path / "a.mbtiles", expected=3)


@pytest.mark.parametrize("first", [2**64 - 1, 2**63, 2**40, 0])
def test_a_directory_that_cannot_be_is_refused(tmp_path: Path, first: int) -> None:
    (tmp_path / "a.tif").write_bytes(b"II+\0\x08\0\0\0" + first.to_bytes(8, "little") + bytes(64))
    with pytest.raises(InputError, match="cannot be read"):
        open_scene(tmp_path / "a.tif", expected=1)


class TestWorldFiles:
    def picture(self, folder: Path) -> Path:
        Image.fromarray(smooth_noise(20, 30, 3)).save(folder / "a.png")
        (folder / "a.pgw").write_text("0.5\n0\n0\n-0.5\n500000\n4000000\n")
        return folder / "a.png"

    @pytest.mark.parametrize("system", ["EPSG:32637", "EPSG:3857"])
    def test_the_system_beside_one_is_taken(self, tmp_path: Path, system: str) -> None:
        path = self.picture(tmp_path)
        assert open_scene(path, expected=3).grid.crs_wkt is None
        without = open_scene(path, expected=3).identity
        (tmp_path / "a.prj").write_text(CRS.from_string(system).to_wkt())
        scene = open_scene(path, expected=3)
        assert scene.grid.crs is not None
        assert scene.grid.crs.to_epsg() == int(system[5:])
        assert any(".prj" in note for note in scene.notes)
        assert scene.identity != without
        scene.read(scene.grid.extent)

    def test_one_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        path = self.picture(tmp_path)
        (tmp_path / "a.prj").write_text("somewhere")
        with pytest.raises(InputError, match=r"a\.prj: holds no coordinate reference system"):
            open_scene(path, expected=3)


class TestNames:
    def test_as_long_as_the_file_system_takes(self, tmp_path: Path) -> None:
        path = write_scene(tmp_path / "a.tif", smooth_noise(20, 30, 3)).rename(tmp_path / f"{'n' * 251}.tif")
        assert open_scene(path, expected=3).read(Window(0, 0, 20, 30))[1].all()

    def test_that_are_not_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"sc\xe8ne.tif")
        write_scene(tmp_path / "a.tif", smooth_noise(20, 30, 3)).rename(path)
        with pytest.raises(InputError, match=r"sc\\xe8ne.tif: its name, or that of its folder, is not UTF-8; rename"):
            open_scene(path, expected=3)


UNDECODABLE = """
import sys, rasterio
from tileseg.errors import InputError
from tileseg.source.gdal import complaints
text = '<VRTDataset rasterXSize="3" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>' \\
       '<SourceFilename>/no/\xe9</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
open(sys.argv[1], "wb").write(text.encode("latin-1"))
try:
    with complaints("x.vrt"), rasterio.open(sys.argv[1], driver="VRT") as file:
        file.read()
except InputError as error:
    print(error)
"""


def test_complaints_that_are_not_utf_8_are_one_line(tmp_path: Path) -> None:
    """rasterio alone prints a traceback, and gives zeros."""
    done = subprocess.run(
        [sys.executable, "-c", UNDECODABLE, str(tmp_path / "x.vrt")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("x.vrt: cannot be read: ")
    assert "\\xe9" in done.stdout


@pytest.mark.parametrize(("unit", "metres"), [('UNIT["metre",1]', 1.0), ('UNIT["foot",0.3048]', 0.3048)])
def test_a_local_system_has_a_known_pixel_size(tmp_path: Path, unit: str, metres: float) -> None:
    place = {"crs": CRS.from_wkt(f'LOCAL_CS["site",{unit}]'), "transform": Affine(0.2, 0, 0, 0, -0.3, 0)}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8", **place
    ) as file:
        file.write(np.ones((1, 20, 30), "uint8"))
    assert open_scene(tmp_path / "a.tif", expected=1).grid.pixel_metres == pytest.approx((0.2 * metres, 0.3 * metres))


def test_a_local_system_of_no_known_unit_has_none() -> None:
    wkt = 'ENGCRS["x",EDATUM["x"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["unknown",1]]'
    assert Grid(2, 3, Affine(1, 0, 0, 0, -1, 0), wkt).pixel_metres is None
