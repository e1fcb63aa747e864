"""Digests of vector files that are several files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import geopandas
import pytest
import shapely

from tileseg.errors import InputError
from tileseg.storage.digest import vector_sha256


def shapefile(folder: Path) -> Path:
    path = folder / "area.shp"
    geopandas.GeoDataFrame({"id": [1]}, geometry=[shapely.box(0, 0, 3, 2)], crs=32632).to_file(path)
    return path


def test_a_shapefile_is_all_of_its_files(tmp_path: Path) -> None:
    path = shapefile(tmp_path)
    before = vector_sha256(path)
    assert before == vector_sha256(path)
    (tmp_path / "area.prj").write_text((tmp_path / "area.prj").read_text().replace("9.0", "15.0"))
    changed = vector_sha256(path)
    assert changed != before
    (tmp_path / "area.prj").unlink()
    assert vector_sha256(path) not in (before, changed)
    (tmp_path / "other.prj").write_text("of another file")
    assert vector_sha256(path) == vector_sha256(path)


def test_a_folder_is_all_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "area.gdb"
    folder.mkdir()
    (folder / "a00000001.gdbtable").write_bytes(b"1")
    before = vector_sha256(folder)
    (folder / "a00000001.sr.lock").write_bytes(b"")
    assert vector_sha256(folder) == before
    (folder / "a00000002.gdbtable").write_bytes(b"2")
    assert vector_sha256(folder) != before


def test_a_single_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "area.gpkg").write_bytes(b"content")
    assert vector_sha256(tmp_path / "area.gpkg") == hashlib.sha256(b"content").hexdigest()


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"area\.shp: cannot be read"):
        vector_sha256(tmp_path / "area.shp")
