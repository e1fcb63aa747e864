"""A project of QGIS: the scene, its labels and polygons lie on each other, with coordinates and without."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from affine import Affine
from desktop import CLASSES, UTM, Source, at, labels, opened, picture, python_with_qgis
from pyproj import CRS
from rasterio.transform import from_origin

from tileseg.formats import FORMATS, vector_paths
from tileseg.grid import Grid
from tileseg.publish.label_cog import write_label_cog
from tileseg.publish.project import MapLayer, crs_of, stretched, write_project
from tileseg.publish.qgis import by_class, looks_of, palette
from tileseg.run.vectorize import Classes, vectorize

PIXELS = Grid(60, 90, Affine.identity(), None)
PLACED = Grid(60, 90, from_origin(2000, 7000, 0.5, 0.5), None)
"""With a world file, but no coordinate reference system."""


def made(folder: Path, grid: Grid, form: str, dtype: str = "uint8") -> Path:
    """A folder with a scene that is bright where there are roofs, its outputs, and the project."""
    folder.mkdir()
    profile = {"driver": "GTiff", "width": 90, "height": 60, "count": 3, "dtype": dtype, "crs": grid.crs_wkt}
    if grid.transform != Affine.identity():
        profile["transform"] = grid.transform
    scene = np.where(labels() == 1, 200, 40).astype(dtype) * (1 if dtype == "uint8" else 50)
    with rasterio.open(folder / "scene.tif", "w", **profile) as file:
        file.write(np.stack([scene] * 3))
    outputs = vector_paths(folder, [form])
    vectorize(Source(grid, labels()), outputs, Classes.of_card(CLASSES))
    write_label_cog(folder / "labels.tif", grid, CLASSES, lambda window: labels()[window.slices], [grid.extent])
    looks, crs = looks_of(CLASSES), crs_of(grid)
    of_polygons = crs if grid.crs_wkt is None or not FORMATS[form].in_degrees else CRS.from_epsg(4326).to_wkt()
    if grid.crs_wkt is None:
        of_polygons = crs_of(grid, polygons=True)
    layers = [
        MapLayer("polygons", f"./{outputs[form].name}", of_polygons, [by_class(looks[1:])]),
        MapLayer("labels", "./labels.tif", crs, [palette(looks)], is_raster=True, visible=False),
        MapLayer("scene", "./scene.tif", crs, [] if dtype == "uint8" else [stretched((1, 2, 3))], is_raster=True),
    ]
    project = folder / f"{folder.name}.qgz"
    write_project(project, "a scene & more", grid, layers)
    return project


def test_the_same_project_gives_the_same_bytes(tmp_path: Path) -> None:
    layers = [MapLayer("labels", "./labels.tif", crs_of(UTM), is_raster=True)]
    for name in ("a.qgz", "b.qgz"):
        write_project(tmp_path / name, "title", UTM, layers)
        (tmp_path / name).rename(tmp_path / f"{name}.zip")
    assert (tmp_path / "a.qgz.zip").read_bytes().replace(b"a.qgs", b"b.qgs") == (tmp_path / "b.qgz.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.qgz.zip") as archive:
        root = ET.fromstring(archive.read("a.qgs"))
    assert root.find(".//Absolute").text == "false"
    assert [float(v.text) for v in root.find("mapcanvas/extent")] == [500_000, 4_649_870, 500_045, 4_649_900]


@pytest.mark.parametrize("name", ["utm", "pixels", "placed"])
def test_polygons_of_pixels_are_told_to_lie_southwards(name: str) -> None:
    grid = {"utm": UTM, "pixels": PIXELS, "placed": PLACED}[name]
    south = 'AXIS["y",south' in crs_of(grid, polygons=True)
    assert south == (name == "pixels")
    assert CRS.from_wkt(crs_of(grid, polygons=True)).is_projected
    assert "south" not in crs_of(grid)


def test_all_of_it_lies_in_place_in_qgis(tmp_path: Path) -> None:
    qgis = python_with_qgis()
    cases = {
        "utm-gpkg": (UTM, "gpkg"), "utm-geojson": (UTM, "geojson"), "pixels-gpkg": (PIXELS, "gpkg"),
        "pixels-geojson": (PIXELS, "geojson"), "pixels-fgb": (PIXELS, "fgb"), "placed-geojson": (PLACED, "geojson"),
        "deep": (PIXELS, "gpkg", "uint16"),
    }  # fmt: skip
    found = opened(qgis, tmp_path, *(made(tmp_path / name, *case) for name, case in cases.items()))
    for name in cases:
        told = found[f"{name}.qgz"]
        assert told["error"] == "", name
        assert [layer["name"] for layer in told["layers"]] == ["polygons", "labels", "scene"], name
        assert all(layer["valid"] for layer in told["layers"]), name
        drawn = picture(tmp_path, f"{name}.qgz")
        # The scene under the roof's light fill, beside it, and the outlines where labels change.
        inside, outside = at(drawn, 12, 30), at(drawn, 25, 30)
        assert inside[0] > max(160, inside[2] + 20), (name, inside)
        assert max(outside) < 90, (name, outside)
        lines = (drawn == (217, 84, 77)).all(axis=2)
        rows, cols = np.nonzero(lines)
        scale = drawn.shape[0] / 60
        place = [rows.min() / scale, (rows.max() + 1) / scale, cols.min() / scale, (cols.max() + 1) / scale]
        assert place == pytest.approx([5, 20, 10, 50], abs=0.5), name
