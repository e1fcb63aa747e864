"""Polygons are found by their own coordinates, whatever the file says of its extent and whatever it is called."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from dataset_files import NORTH_UP, UTM, box, dataset, noise, polygons, write

from tileseg.dataset import LabelledScene, load_dataset
from tileseg.errors import InputError
from tileseg.evaluate.sides import describe_side
from tileseg.source.vector_file import name_to_read

RING = box(12, 9, 30, 25)
FORMATS = {
    ".geojson": {"driver": "GeoJSON"},
    ".geojsonl": {"driver": "GeoJSONSeq"},
    ".gpkg": {"driver": "GPKG", "SPATIAL_INDEX": "NO"},
    ".fgb": {"driver": "FlatGeobuf", "SPATIAL_INDEX": "NO"},
    ".shp": {"driver": "ESRI Shapefile"},
    ".gml": {"driver": "GML"},
    ".kml": {"driver": "KML"},
}


def save(path: Path, shapes: list[shapely.Geometry], crs: str | None = UTM) -> Path:
    frame = geopandas.GeoDataFrame({"id": range(len(shapes))}, geometry=shapes, crs=crs)
    frame = frame.to_crs(4326) if path.suffix in (".geojson", ".geojsonl", ".kml") else frame
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, **FORMATS[path.suffix])
    return path


def scene_with(folder: Path, labels: Path, image: str = "a.tif") -> LabelledScene:
    if not (folder / image).exists():
        write(folder / image, noise(60, 80))
    return load_dataset(
        dataset(folder, f"[[scenes]]\nimage = '{image}'\nlabels = '''{labels.name}'''\nclass = 'building'\n")
    ).train[0]


def drawn() -> np.ndarray:
    shape = shapely.Polygon([~NORTH_UP @ point for point in RING])
    return rasterio.features.rasterize([(shape, 1)], out_shape=(60, 80))


@pytest.mark.parametrize("suffix", [*FORMATS, ".parquet"])
def test_every_format_is_read_and_compared(tmp_path: Path, suffix: str) -> None:
    far = shapely.Polygon(RING).buffer(3000).boundary.buffer(5)
    labels = save(tmp_path / f"l{suffix}", [shapely.Polygon(RING), far])
    scene = scene_with(tmp_path, labels)
    found = scene.read(scene.extent)[1]
    # KML has 13 digits of degrees, GeoJSON 7: a pixel on the border may fall to the other side.
    assert (found != drawn()).sum() <= 4
    assert scene.truth.count == 1
    assert not describe_side(labels).empty


EXTENTS = {"missing": "null, null, null, null", "zero": "0, 0, 0, 0", "old": "1e6, 1e6, 1e6 + 1, 1e6 + 1"}


@pytest.mark.parametrize("extent", EXTENTS)
def test_what_a_geopackage_says_of_its_extent_does_not_matter(tmp_path: Path, extent: str) -> None:
    labels = save(tmp_path / "l.gpkg", [shapely.Polygon(RING)])
    with sqlite3.connect(labels) as file:
        file.execute(f"update gpkg_contents set (min_x, min_y, max_x, max_y) = ({EXTENTS[extent]})")
    file.close()
    scene = scene_with(tmp_path, labels)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], drawn())
    assert not describe_side(labels).empty


def test_nor_what_the_header_of_a_shapefile_says(tmp_path: Path) -> None:
    labels = save(tmp_path / "l.shp", [shapely.Polygon(RING)])
    for path in (labels, labels.with_suffix(".shx")):
        raw = bytearray(path.read_bytes())
        raw[36:68] = struct.pack("<4d", 0, 0, 0, 0)
        path.write_bytes(raw)
    scene = scene_with(tmp_path, labels)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], drawn())


def test_polygons_in_another_place_are_refused_and_none_are_a_fair_example(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its polygons lies on a\.tif"):
        scene_with(tmp_path, save(tmp_path / "away.gpkg", [shapely.Polygon(box(9000, 0, 9, 9))]))
    around = [shapely.Polygon(box(x, 0, 9, 9)) for x in (-900, 900)]
    scene = scene_with(tmp_path, save(tmp_path / "around.gpkg", around))
    assert not scene.read(scene.extent)[1].any()


def test_marks_of_the_viewer_teach_what_they_say(tmp_path: Path) -> None:
    """Within polygons that somebody judged (``review.gpkg``), and nowhere else."""
    rings = [box(x, 12, 9, 11) for x in (3, 20, 50)]
    frame = geopandas.GeoDataFrame(
        {"teaches": ["building", "ground", "ignore"]}, geometry=[shapely.Polygon(r) for r in rings], crs=UTM
    )
    frame.to_file(tmp_path / "review.gpkg", layer="review")
    write(tmp_path / "a.tif", noise(60, 80))
    more = "labels = 'review.gpkg'\nknown = 'review.gpkg'\nattribute = 'teaches'"
    scene = load_dataset(dataset(tmp_path, f"[[scenes]]\nimage = 'a.tif'\n{more}\n")).train[0]
    places = [(shapely.Polygon([~NORTH_UP @ point for point in ring]), i) for i, ring in enumerate(rings, 1)]
    marked = rasterio.features.rasterize(places, out_shape=(60, 80))
    np.testing.assert_array_equal(scene.read(scene.extent)[1], np.array([255, 1, 0, 255], np.uint8)[marked])


@pytest.mark.parametrize("name", ["a!b", "a\tb", "a\nb", "a;b", "a#b?c", "100 %", "zip+b!c"])
@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp"])
def test_any_name_of_a_file_will_do(tmp_path: Path, name: str, suffix: str) -> None:
    save(tmp_path / f"plain{suffix}", [shapely.Polygon(RING)])
    for path in list(tmp_path.glob("plain.*")):
        shutil.copy(path, tmp_path / f"{name}{path.suffix}")
    labels = tmp_path / f"{name}{suffix}"
    with name_to_read(labels) as file:
        assert geopandas.read_file(file).geometry.count() == 1
    assert not describe_side(labels).empty
    scene = scene_with(tmp_path, labels)
    assert (scene.read(scene.extent)[1] != drawn()).sum() <= 4


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_that_are_no_numbers_are_refused_in_one_line(tmp_path: Path, suffix: str, value: float) -> None:
    ring = [RING[0], RING[1], (RING[2][0], value), RING[3]]
    with np.errstate(invalid="ignore"):
        labels = save(tmp_path / f"l{suffix}", [shapely.Polygon(RING), shapely.Polygon(ring)])
    with pytest.raises(InputError) as caught:
        scene_with(tmp_path, labels)
    assert "\n" not in str(caught.value)
    assert f"l{suffix}: 1 of its polygons has coordinates that are no numbers" in str(caught.value)


@pytest.mark.parametrize(("first", "west"), [(170.0, 190.0), (350.0, -5.0), (-190.0, 175.0)])
def test_degrees_may_be_counted_from_0_or_from_minus_180(tmp_path: Path, first: float, west: float) -> None:
    """Scene and polygons each count in their own way: what is a turn away is the same place."""
    write(tmp_path / "a.tif", noise(60, 80), crs="EPSG:4326", transform=Affine(0.5, 0, first, 0, -0.5, 20))
    ring = [(west, 10), (west + 8, 10), (west + 8, 4), (west, 4)]
    scene = scene_with(tmp_path, polygons(tmp_path / "l.geojson", [(ring, {})], crs=None))
    left = round(((west - first) % 360) / 0.5)
    expected = np.zeros((60, 80), np.uint8)
    expected[20:32, left : left + 16] = 1
    np.testing.assert_array_equal(scene.read(scene.extent)[1], expected)


def test_polygons_as_large_as_the_world_are_cut_before_they_are_moved(tmp_path: Path) -> None:
    """The poles have no place in Web Mercator."""
    write(tmp_path / "a.tif", noise(60, 80), crs="EPSG:3857", transform=Affine(100, 0, 1e6, 0, -100, 6e6))
    ring = [(-180, 90), (180, 90), (180, -90), (-180, -90)]
    scene = scene_with(tmp_path, polygons(tmp_path / "l.geojson", [(ring, {})], crs=None))
    assert (scene.read(scene.extent)[1] == 1).all()
