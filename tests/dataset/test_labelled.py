"""Images and labels are read as rasterio reads, warps and draws them, from whichever source they come."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from affine import Affine
from dataset_files import NORTH_UP, UTM, box, dataset, noise, patchy, polygons, write
from PIL import Image
from rasterio.enums import Resampling

from tileseg.dataset import LabelledScene, load_dataset
from tileseg.dataset.check import check_dataset
from tileseg.dataset.raster_truth import RasterTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError, UsageError
from tileseg.window import Window

ENTRY = "[[scenes]]\nimage = '{image}'\nlabels = '{labels}'\n"


def scene_of(folder: Path, image: Path, labels: Path, entry: str = "", head: str = "", **options: Any) -> LabelledScene:
    path = dataset(folder, head + ENTRY.format(image=image.name, labels=labels.name) + entry)
    return load_dataset(path, **options).train[0]


def refusal(folder: Path, image: Path, labels: Path, entry: str = "", head: str = "") -> str:
    def read() -> None:
        scene = scene_of(folder, image, labels, entry, head)
        scene.read(scene.extent)

    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pages_of_a_stack_are_images_and_labels(tmp_path: Path) -> None:
    pixels, labels = noise(3 * 50, 70, 1).reshape(3, 50, 70), patchy(3 * 50, 70).reshape(3, 50, 70)
    for name, pages in (("stack.tif", pixels), ("truth.tif", labels)):
        first, *others = map(Image.fromarray, pages)
        first.save(tmp_path / name, save_all=True, append_images=others)
    text = "bands = ['grey']\n" + "".join(
        ENTRY.format(image=f"GTIFF_DIR:{page}:stack.tif", labels=f"GTIFF_DIR:{page}:truth.tif") for page in (1, 3)
    )
    scenes = load_dataset(dataset(tmp_path, text)).train  # the files are relative to the TOML
    assert [scene.name for scene in scenes] == ["stack-1", "stack-3"]
    assert scenes[0].key != scenes[1].key
    for scene, page in zip(scenes, (0, 2), strict=True):
        image, truth = scene.read(scene.extent)
        np.testing.assert_array_equal(image[..., 0], pixels[page])
        np.testing.assert_array_equal(truth, labels[page])
    report = check_dataset(tmp_path / "dataset.toml")
    assert [fact.size for fact in report.facts] == [(50, 70)] * 2
    gone = text + ENTRY.format(image="GTIFF_DIR:1:gone.tif", labels="GTIFF_DIR:1:away.tif")
    told = [finding.message for finding in check_dataset(dataset(tmp_path, gone)).findings if finding.level == "error"]
    assert [line.partition("; ")[0].partition("tif: ")[2] for line in told] == ["is not there"] * 2


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    pixels, labels = noise(70, 90), patchy(70, 90)
    labels[3:9] = 255
    scene = scene_of(tmp_path, write(tmp_path / "a.tif", pixels), write(tmp_path / "l.tif", labels))
    window = Window(11, 5, 40, 33)
    image, truth = scene.read(window)
    np.testing.assert_array_equal(image, pixels[window.slices])
    np.testing.assert_array_equal(truth, labels[window.slices])
    assert image.flags.c_contiguous
    assert (scene.name, scene.split, scene.dtype, scene.bands) == ("a", "train", "uint8", ("red", "green", "blue"))
    assert scene.ground_sample_distance == pytest.approx(0.5, rel=0.001)
    with pytest.raises(UsageError, match="not inside a of 70 x 90"):
        scene.read(Window(60, 0, 20, 20))


def test_the_grid_at_another_ground_sample_distance_covers_the_same_ground(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(200, 120))
    labels = write(tmp_path / "l.tif", patchy(200, 120))
    own = scene_of(tmp_path, image, labels)
    coarse = scene_of(tmp_path, image, labels, head="ground_sample_distance = 2\n")
    assert (coarse.grid.height, coarse.grid.width) == (50, 30)
    ends = [np.array(s.grid.transform @ (s.grid.width, s.grid.height)) for s in (own, coarse)]
    assert np.abs(ends[0] - ends[1]).max() < 1
    assert coarse.grid.ground_sample_distance == pytest.approx(2, rel=0.001)
    assert scene_of(tmp_path, image, labels, gsd=0.505).rescale.identity  # near enough
    assert scene_of(tmp_path, image, labels, head="ground_sample_distance = 2\n", gsd="native").rescale.identity
    with rasterio.open(image) as file:
        mean = file.read().mean(axis=(1, 2))
    assert np.abs(coarse.read(coarse.extent)[0].mean(axis=(0, 1)) - mean).max() < 3


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", ["raster", "warped", "vectors"])
def test_windows_are_parts_of_the_whole(tmp_path: Path, kind: str, cached: bool) -> None:
    image = write(tmp_path / "a.tif", noise(700, 520))
    if kind == "vectors":
        labels = polygons(tmp_path / "l.geojson", [(box(30 * i, 41 * i, 25, 33), {}) for i in range(15)])
    else:
        margin = 30 if kind == "warped" else 0
        place = NORTH_UP @ Affine.translation(-margin, -margin)
        values = patchy(700 + 2 * margin, 520 + 2 * margin, cell=13)
        labels = write(tmp_path / "l.tif", values, transform=place)
    scene = scene_of(tmp_path, image, labels, "class = 'building'", "ground_sample_distance = 0.8\n")
    whole = replace(scene, cached=False).read(scene.extent)
    part = replace(scene, cached=cached)
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, col = (int(rng.integers(n)) for n in (scene.grid.height, scene.grid.width))
        window = Window(row, col, int(rng.integers(1, 400)), int(rng.integers(1, 300))).intersection(scene.extent)
        assert window is not None
        for found, expected in zip(part.read(window), whole, strict=True):
            np.testing.assert_array_equal(found, expected[window.slices])
        np.testing.assert_array_equal(part.read_labels(window), whole[1][window.slices])
    assert len(np.unique(whole[1])) >= 2


@pytest.mark.parametrize(("resolution", "resampling"), [(0.9, Resampling.nearest), (0.2, Resampling.mode)])
def test_labels_on_another_grid_and_system_are_warped(
    tmp_path: Path, resolution: float, resampling: Resampling
) -> None:
    image = write(tmp_path / "a.tif", noise(110, 140))
    with rasterio.open(image) as file:
        bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:3857", *file.bounds)
    # Less than the image at the right, more at the left.
    there = Affine(resolution, 0, bounds[0] - 8, 0, -resolution, bounds[3] + 4)
    height, width = (int(n / resolution) for n in (bounds[3] - bounds[1] + 9, bounds[2] - bounds[0] - 6))
    labels = patchy(height, width, cell=int(9 / resolution))
    scene = scene_of(tmp_path, image, write(tmp_path / "l.tif", labels, crs="EPSG:3857", transform=there))
    assert isinstance(scene.truth, WarpedTruth)
    expected = np.full((110, 140), 255, np.uint8)
    rasterio.warp.reproject(
        labels + 1, expected, src_transform=there, src_crs="EPSG:3857", dst_transform=NORTH_UP, dst_crs=UTM,
        src_nodata=0, dst_nodata=0, resampling=resampling,
    )  # fmt: skip
    expected = np.where(expected == 0, 255, expected - 1)
    _, found = scene.read(scene.extent)
    assert (found == 255).any()
    assert (found != 255).mean() > 0.5
    assert (found == expected).mean() > 0.99
    assert {*np.unique(found)} <= {0, 1, 2, 255}


def test_raster_values_mean_what_the_map_says(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png", noise(30, 40))
    values = np.choose(patchy(30, 40), [0, 200, 37]).astype(np.uint8)
    labels = write(tmp_path / "l.png", values)
    entry = "label_map = { 0 = 'ignore', 200 = 'water', 37 = 1 }"
    _, found = scene_of(tmp_path, image, labels, entry).read(Window(0, 0, 30, 40))
    np.testing.assert_array_equal(found, np.select([values == 0, values == 200], [255, 2], 1))
    assert "has the value 200" in refusal(tmp_path, image, labels, "label_map = { 0 = 0, 37 = 1 }")
    assert "(0, 1, 2, 255 are)" in refusal(tmp_path, image, labels)
    assert "names 'tree'" in refusal(tmp_path, image, labels, "label_map = { tree = 1 }")
    assert refusal(tmp_path, image, labels, head="ignore = [200]\n").count("has the value 37") == 1


def test_sixteen_bits_and_many_bands(tmp_path: Path) -> None:
    pixels = noise(40, 50, 5, "uint16") * 200
    image = write(tmp_path / "a.tif", pixels)
    labels = write(tmp_path / "l.tif", patchy(40, 50).astype(np.uint16))
    head = "bands = ['nir', 'red', 'blue', 'swir']\n"
    scene = scene_of(tmp_path, image, labels, "image_bands = [5, 1, 3, 2]", head)
    found, truth = scene.read(Window(2, 3, 20, 30))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels[2:22, 3:33, [4, 0, 2, 1]])
    np.testing.assert_array_equal(truth, patchy(40, 50)[2:22, 3:33])
    told = refusal(tmp_path, image, labels, "image_bands = [1, 2, 3, 6]", head)
    assert "no band 6" in told
    assert "--bands" not in told


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_images_of_any_kind_go_with_labels_of_any_kind(tmp_path: Path, suffix: str) -> None:
    image = write(tmp_path / f"a{suffix}", noise(33, 47, 1))
    palette = {0: (1, 2, 3, 255), 1: (200, 0, 0, 255), 2: (0, 0, 9, 255)}
    labels = write(tmp_path / "l.png", patchy(33, 47), palette=palette)
    scene = scene_of(tmp_path, image, labels, head="bands = ['grey']\n")
    pixels, truth = scene.read(scene.extent)
    assert pixels.shape == (33, 47, 1)
    np.testing.assert_array_equal(truth, patchy(33, 47))
    told = refusal(tmp_path, image, labels)
    assert "has 1 band besides alpha; the dataset has 3 (red, green, blue)" in told
    assert 'needs bands = ["grey"] at its top (image_bands = [1,1,1] repeats the one band)' in told


def test_colours_may_stand_for_classes(tmp_path: Path) -> None:
    ids = patchy(30, 44)
    colors = np.array([[255, 0, 0], [0, 0, 255], [16, 32, 0]], np.uint8)
    image, labels = write(tmp_path / "a.png", noise(30, 44)), write(tmp_path / "l.png", colors[ids])
    assert "if its colours stand for classes" in refusal(tmp_path, image, labels)
    entry = "label_map = { '#ff0000' = 'ground', '#0000FF' = 'building', '#102000' = 'ignore' }"
    scene = scene_of(tmp_path, image, labels, entry)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], np.array([0, 1, 255])[ids])
    palette = {i: (*map(int, color), 255) for i, color in enumerate(colors)}
    scene = scene_of(tmp_path, image, write(tmp_path / "p.png", ids, palette=palette), entry)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], np.array([0, 1, 255])[ids])
    assert "the value #102000" in refusal(tmp_path, image, labels, "label_map = { '#ff0000' = 0, '#0000ff' = 1 }")


def test_where_there_is_no_data_no_class_is_known(tmp_path: Path) -> None:
    pixels = noise(40, 60, 3, "int16")
    pixels[5:20, 10:30] = -999
    image = write(tmp_path / "a.tif", pixels, nodata=-999)
    labels = write(tmp_path / "l.tif", patchy(40, 60) + 1, nodata=1)
    entry = "label_map = { 2 = 1, 3 = 2 }"
    scene = scene_of(tmp_path, image, labels, entry)
    found, truth = scene.read(scene.extent)
    gap = np.zeros((40, 60), bool)
    gap[5:20, 10:30] = True
    assert (found[gap] == 0).all()
    np.testing.assert_array_equal(found[~gap], pixels[~gap])
    np.testing.assert_array_equal(truth, np.where(gap | (patchy(40, 60) == 0), 255, patchy(40, 60)))
    # What the map names is a class, whatever the file calls it.
    scene = scene_of(tmp_path, image, labels, "label_map = { 1 = 0, 2 = 1, 3 = 2 }")
    np.testing.assert_array_equal(scene.read(scene.extent)[1], np.where(gap, 255, patchy(40, 60)))
    filled = load_dataset(tmp_path / "dataset.toml").filled([7, 8, -9]).train[0]
    assert (filled.read(filled.extent)[0][gap] == [7, 8, -9]).all()
    assert (filled.read(Window(0, 0, 30, 30))[0][6, 12] == [7, 8, -9]).all()


def test_a_mask_of_the_labels_counts(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(40, 60))
    mask = np.ones((40, 60), bool)
    mask[:13, 20:] = False
    scene = scene_of(tmp_path, image, write(tmp_path / "l.tif", patchy(40, 60), mask=mask))
    np.testing.assert_array_equal(scene.read(scene.extent)[1], np.where(mask, patchy(40, 60), 255))


class TestPolygons:
    def drawn(self, shapes: list[tuple[list[tuple[float, float]], int]], background: int = 0) -> np.ndarray:
        found = np.full((60, 90), background, np.uint8)
        shapely_shapes = [(shapely.Polygon(ring), value) for ring, value in shapes]
        rasterio.features.rasterize(shapely_shapes, out=found, transform=NORTH_UP)
        return found

    def test_the_only_class_the_class_of_all_or_that_of_a_column(self, tmp_path: Path) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        rings = [box(5.2, 7.7, 30, 20.4), box(20, 20, 31, 30), box(70, 40, 50, 50)]
        kinds = ["hut", "water", 1]
        labels = polygons(tmp_path / "l.geojson", [(r, {"kind": str(k)}) for r, k in zip(rings, kinds, strict=True)])
        whole = Window(0, 0, 60, 90)
        assert "which class its polygons are is not said" in refusal(tmp_path, image, labels)
        _, found = scene_of(tmp_path, image, labels, "class = 'water'").read(whole)
        np.testing.assert_array_equal(found, self.drawn([(ring, 2) for ring in rings]))
        assert "kind = 'hut' is no class" in refusal(tmp_path, image, labels, "attribute = 'kind'")
        assert "no column 'sort'; it has kind" in refusal(tmp_path, image, labels, "attribute = 'sort'")
        entry = "attribute = 'kind'\nlabel_map = { hut = 'building' }"
        _, found = scene_of(tmp_path, image, labels, entry).read(whole)
        np.testing.assert_array_equal(found, self.drawn([(rings[0], 1), (rings[1], 2), (rings[2], 1)]))

    def test_what_is_not_sure_is_ignored_over_all_else(self, tmp_path: Path) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        rings = [box(5, 7, 30, 20), box(20, 20, 31, 30), box(60, 5, 20, 20), box(60, 30, 9, 9)]
        facts = [{"kind": "tent", "n": 3}, {"kind": "water", "n": None}, {"kind": "1", "n": 4}, {"kind": "2", "n": 5}]
        labels = polygons(tmp_path / "l.geojson", list(zip(rings, facts, strict=True)))
        entry = "attribute = 'kind'\nlabel_map = { tent = 'ignore' }\nignore_where = { n = [4, 8] }"
        _, found = scene_of(tmp_path, image, labels, entry).read(Window(0, 0, 60, 90))
        expected = self.drawn([(rings[1], 2), (rings[3], 2), (rings[0], 255), (rings[2], 255)])
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet", ".fgb"])
    def test_any_format_and_coordinate_reference_system(self, tmp_path: Path, suffix: str) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        rings = [box(5.3, 7.6, 30, 20), box(40, 20, 31, 30), box(-900, 3, 20, 20)]
        frame = geopandas.GeoDataFrame(
            {"kind": [1.0, 2.0, 1.0]}, geometry=[shapely.Polygon(r) for r in rings], crs=UTM
        ).to_crs("EPSG:4326")
        path = tmp_path / f"l{suffix}"
        if suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_file(path)
        _, found = scene_of(tmp_path, image, path, "attribute = 'kind'").read(Window(0, 0, 60, 90))
        expected = self.drawn([(rings[0], 1), (rings[1], 2)])
        # Through degrees and back, centres within a hair of an edge may change sides.
        assert (found != expected).mean() < 0.001

    def test_polygons_elsewhere_are_refused_but_none_is_an_example(self, tmp_path: Path) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        far = polygons(tmp_path / "far.geojson", [(box(9000, 0, 5, 5), {})])
        assert "none of its polygons lies on a.tif" in refusal(tmp_path, image, far, "class = 'water'")
        around = polygons(tmp_path / "around.geojson", [(box(x, 0, 5, 5), {}) for x in (-500, 500)])
        empty = polygons(tmp_path / "empty.geojson", [])
        for path in (around, empty):
            scene = scene_of(tmp_path, image, path, "class = 'water'")
            assert not scene.read(scene.extent)[1].any()

    def test_several_layers_need_a_name(self, tmp_path: Path) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        for layer, at in (("roofs", 3), ("walls", 40)):
            frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(box(at, 5, 20, 20))], crs=UTM)
            frame.to_file(tmp_path / "l.gpkg", layer=layer)
        labels = tmp_path / "l.gpkg"
        assert "has the layers roofs, walls" in refusal(tmp_path, image, labels, "class = 'water'")
        scene = scene_of(tmp_path, image, labels, "class = 'water'\nlayer = 'walls'")
        np.testing.assert_array_equal(scene.read(scene.extent)[1], self.drawn([(box(40, 5, 20, 20), 2)]))

    def test_without_a_background_class_the_rest_is_not_known(self, tmp_path: Path) -> None:
        image = write(tmp_path / "a.tif", noise(60, 90))
        labels = polygons(tmp_path / "l.geojson", [(box(3, 4, 30, 20), {})])
        path = dataset(tmp_path, ENTRY.format(image=image.name, labels=labels.name) + "class = 'water'")
        path.write_text(path.read_text().replace("background = true", ""))
        scene = load_dataset(path).train[0]
        np.testing.assert_array_equal(scene.read(scene.extent)[1], self.drawn([(box(3, 4, 30, 20), 2)], 255))


def test_virtual_rasters_that_reach_out_are_read_where_the_dataset_says_so(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    (tmp_path / "virtual").mkdir()
    for name, pixels in (("a", noise(40, 60, 3)), ("l", patchy(40, 60))):
        write(tmp_path / "tiles" / f"{name}.tif", pixels)
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{i}"><SimpleSource><SourceFilename relativeToVRT="1">'
            f"../tiles/{name}.tif</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
            for i in range(1, 1 + (pixels.shape[2] if pixels.ndim == 3 else 1))
        )
        (tmp_path / "virtual" / f"{name}.vrt").write_text(
            f'<VRTDataset rasterXSize="60" rasterYSize="40">{bands}</VRTDataset>'
        )
    files = tmp_path / "virtual" / "a.vrt", tmp_path / "virtual" / "l.vrt"
    assert "trust_vrt = true" in refusal(tmp_path / "virtual", *files)
    found = scene_of(tmp_path / "virtual", *files, "trust_vrt = true")
    assert np.array_equal(found.read(found.extent)[1], patchy(40, 60))


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    image, png = write(tmp_path / "a.tif", noise(60, 90)), write(tmp_path / "a.png", noise(60, 90))
    small = write(tmp_path / "s.png", patchy(50, 90))
    away = write(tmp_path / "away.tif", patchy(60, 90), transform=NORTH_UP @ Affine.translation(500, 0))
    floats = write(tmp_path / "f.tif", noise(60, 90, 1, "float32") + 0.5)
    for pair in ((image, small), (png, small)):
        assert "is 90 x 50 pixels, " in refusal(tmp_path, *pair)
    assert "away.tif: does not overlap a.tif" in refusal(tmp_path, image, away)
    assert "expected class ids as whole numbers" in refusal(tmp_path, image, floats)
    assert "missing.tif: is not there" in refusal(tmp_path, image, tmp_path / "missing.tif")
    assert "missing.tif: is not there" in refusal(tmp_path, tmp_path / "missing.tif", small)


def test_labels_without_coordinates_are_on_the_images_pixels(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, write(tmp_path / "a.tif", noise(60, 90)), write(tmp_path / "l.png", patchy(60, 90)))
    assert isinstance(scene.truth, RasterTruth)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], patchy(60, 90))


def test_images_without_coordinates_may_say_how_large_their_pixels_are(tmp_path: Path) -> None:
    image, labels = write(tmp_path / "a.png", noise(60, 90)), write(tmp_path / "l.png", patchy(60, 90))
    assert scene_of(tmp_path, image, labels, head="ground_sample_distance = 1\n").rescale.identity
    scene = scene_of(tmp_path, image, labels, "pixel_size = 0.5", "ground_sample_distance = 1\n")
    assert (scene.grid.height, scene.grid.width) == (30, 45)


def test_a_dataset_has_one_pixel_type(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", noise(20, 30))
    write(tmp_path / "b.tif", noise(20, 30, 3, "uint16"))
    write(tmp_path / "l.tif", patchy(20, 30))
    entries = ENTRY.format(image="a.tif", labels="l.tif") + ENTRY.format(image="b.tif", labels="l.tif")
    with pytest.raises(InputError, match=r"b\.tif: its pixels are uint16, those of .*a\.tif uint8"):
        load_dataset(dataset(tmp_path, entries))


def test_scenes_can_be_sent_to_processes_and_read_by_threads(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(300, 400))
    labels = polygons(tmp_path / "l.geojson", [(box(31 * i, 20 * i, 25, 18), {}) for i in range(12)])
    scene = scene_of(tmp_path, image, labels, "class = 'building'")
    again = pickle.loads(pickle.dumps(scene))
    windows = [Window(17 * i, 23 * i, 64, 80) for i in range(13)]
    expected = [scene.read(window) for window in windows]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(again.read, windows * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(found[0], wanted[0])
            np.testing.assert_array_equal(found[1], wanted[1])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", noise(256, 256), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    data = bytearray(image.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    image.write_bytes(data)
    labels = write(tmp_path / "l.tif", patchy(256, 256))
    assert "a.tif: cannot be read at rows" in refusal(tmp_path, image, labels)


@pytest.mark.parametrize("scale", [1, 2])
def test_labels_are_known_within_the_polygons_of_a_file_only(tmp_path: Path, scale: int) -> None:
    """As rasterio's mask of these polygons has it, however labels are read; another area is another key."""
    image = write(tmp_path / "image.tif", noise(60, 90, 3))
    truth = write(tmp_path / "truth.tif", patchy(60, 90))
    known = polygons(tmp_path / "known.geojson", [(box(10, 8, 20, 20), {}), (box(50, 8, 20, 40), {})])
    head = f"ground_sample_distance = {abs(NORTH_UP.a) * scale}\n"
    scene = scene_of(tmp_path, image, truth, "known = 'known.geojson'\n", head)
    everywhere = scene_of(tmp_path, image, truth, head=head)
    inside = rasterio.features.geometry_mask(
        geopandas.read_file(known).geometry, (scene.grid.height, scene.grid.width), scene.grid.transform, invert=True
    )
    assert 0 < inside.sum() < inside.size
    expected = np.where(inside, everywhere.read(scene.extent)[1], 255)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], expected)
    np.testing.assert_array_equal(scene.read_labels(scene.extent), expected)
    np.testing.assert_array_equal(replace(scene, cached=True).read(scene.extent)[1], expected)
    part = Window(3, 5, 17, 21)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scene)).read_labels(part), expected[part.slices])
    assert scene.key != everywhere.key


def test_a_known_area_that_is_none_is_refused(tmp_path: Path) -> None:
    image, truth = write(tmp_path / "image.tif", noise(60, 90, 3)), write(tmp_path / "truth.tif", patchy(60, 90))
    assert "area.gpkg: is not there; expected polygons" in refusal(tmp_path, image, truth, "known = 'area.gpkg'\n")
    assert "truth.tif" in refusal(tmp_path, image, truth, "known = 'truth.tif'\n")
    polygons(tmp_path / "far.geojson", [(box(500, 0, 10, 10), {})])
    assert "none of its polygons lies on the scene" in refusal(tmp_path, image, truth, "known = 'far.geojson'\n")
