"""Labels drawn with LabelMe, and those of COCO's files, on pictures and on scenes with a place."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from dataset_files import dataset, noise, write
from PIL import Image

from tileseg.dataset import load_dataset
from tileseg.errors import InputError

HEIGHT, WIDTH = 60, 80
TRIANGLE = [(10.5, 8.0), (40.0, 20.25), (12.0, 30.0)]


def expected(*shapes: tuple[Any, int]) -> np.ndarray:
    """By rasterio, straight from pixels."""
    return rasterio.features.rasterize(shapes, out_shape=(HEIGHT, WIDTH), dtype="uint8")


def png(mask: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def labelme(*shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    sizes = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", **sizes, **more}


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "pictures/other.png", "height": 5, "width": 5},
            {"id": 9, "file_name": "pictures/a.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [{"id": i, "image_id": 9, **each} for i, each in enumerate(annotations)],
        "categories": [{"id": 30, "name": "building"}, {"id": 40, "name": "water"}],
    }


def read(folder: Path, labels: Any, image: str = "a.png", more: str = "") -> np.ndarray:
    """The labels of an image that a dataset finds in a file of annotations."""
    write(folder / image, noise(HEIGHT, WIDTH))
    (folder / "l.json").write_text(labels if isinstance(labels, str) else json.dumps(labels))
    entry = f"[[scenes]]\nimage = '{image}'\nlabels = 'l.json'\n{more}\n"
    (scene,) = load_dataset(dataset(folder, entry)).train
    return scene.read(scene.extent)[1]


@pytest.mark.parametrize("image", ["a.png", "a.tif"])
def test_labelme(tmp_path: Path, image: str) -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:11] = True
    mask[4, 5] = False
    found = read(
        tmp_path,
        labelme(
            {"label": "building", "points": TRIANGLE, "shape_type": "polygon", "flags": {}, "group_id": None},
            {"label": "water", "points": [(70, 50), (55, 41)], "shape_type": "rectangle"},
            {"label": "water", "points": [(60, 15), (66, 23)], "shape_type": "circle"},
            {"label": "building", "points": [(20, 40), (31, 48)], "shape_type": "mask", "mask": png(mask)},
        ),
        image,
    )
    wanted = expected(
        (shapely.Polygon(TRIANGLE), 1), (shapely.box(55, 41, 70, 50), 2), (shapely.Point(60, 15).buffer(10), 2)
    )
    wanted[40:49, 20:32][mask] = 1
    np.testing.assert_array_equal(found, wanted)
    assert set(np.unique(found)) == {0, 1, 2}


def test_coco(tmp_path: Path) -> None:
    flat = [value for point in TRIANGLE for value in point]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[33:50, 50:71] = 1
    mask[40, 60] = 0
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=2, append=2))).tolist()
    compressed = pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(np.roll(mask, -30, axis=0)))
    sizes = {"size": [HEIGHT, WIDTH]}
    found = read(
        tmp_path,
        coco(
            {"category_id": 30, "segmentation": [flat, [60, 2, 70, 2, 70, 9, 60, 9]]},
            {"category_id": 40, "segmentation": {"counts": runs, **sizes}, "iscrowd": 1},
            {"category_id": 40, "segmentation": {"counts": compressed["counts"].decode(), **sizes}},
            {"category_id": 30, "segmentation": [[0, 0, 5, 0, 5, 5]], "image_id": 7},
        ),
    )
    wanted = expected((shapely.Polygon(TRIANGLE), 1), (shapely.box(60, 2, 70, 9), 1))
    wanted[(mask | np.roll(mask, -30, axis=0)).astype(bool)] = 2
    np.testing.assert_array_equal(found, wanted)


def test_crowds_may_be_left_open_and_names_translated(tmp_path: Path) -> None:
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    found = read(
        tmp_path,
        coco(
            {"category_id": 40, "segmentation": square},
            {"category_id": 40, "segmentation": [[v + 20 for v in square[0]]], "iscrowd": 1},
        ),
        more="ignore_where = { iscrowd = 1 }\nlabel_map = { water = 'building' }",
    )
    assert (found[2:12, 2:12] == 1).all()
    assert (found[22:32, 22:32] == 255).all()


def test_one_file_serves_a_folder_and_nothing_is_in_doubt(tmp_path: Path, in_process) -> None:
    for name in ("a.png", "other.png"):
        write(tmp_path / name, noise(*((HEIGHT, WIDTH) if name == "a.png" else (5, 5))))
    square = [[1, 1, 4, 1, 4, 4, 1, 4]]
    drawn = [{"category_id": 30, "segmentation": square, "image_id": image} for image in (7, 9)]
    (tmp_path / "l.json").write_text(json.dumps(coco(*drawn)))
    file = dataset(tmp_path, "[[folders]]\nimages = '*.png'\nlabels = 'l.json'\n")
    checked = in_process("dataset", "check", file)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("1 polygon") == 2
    assert "coordinate reference system" not in checked.stdout + checked.stderr


def test_geojson_called_json_is_what_it_was(tmp_path: Path) -> None:
    ring = [[*point] for point in [*TRIANGLE, TRIANGLE[0]]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    found = read(tmp_path, {"type": "FeatureCollection", "features": [feature]}, more="class = 'building'")
    assert found.any()


BOX = {"category_id": 30, "bbox": [1, 2, 3, 4]}
WRONG = {
    "size": (labelme(imageWidth=81), r"was drawn on 81 x 60 pixels, but a\.png has 80 x 60"),
    "line": (
        labelme({"label": "water", "points": TRIANGLE, "shape_type": "linestrip"}),
        "its shape 1 is a linestrip, which covers no area",
    ),
    "class": (labelme({"label": "tree", "points": TRIANGLE}), "label = 'tree' is no class"),
    "points": (labelme({"label": "water", "points": [[1, 2, 3]]}), "is damaged"),
    "mask": (
        labelme({"label": "water", "points": [[1, 2]], "shape_type": "mask", "mask": "AAAA"}),
        "the mask of its shape 1 is damaged",
    ),
    "image": ({**coco(), "images": []}, r"has no image called a\.png; it has none"),
    "no outline": (coco(BOX), "its annotation 0 .* has no outline"),
    "category": (coco({**BOX, "category_id": 5, "segmentation": [[0, 0, 5, 0, 5, 5]]}), "is damaged: KeyError 5"),
    "runs": (
        coco({**BOX, "segmentation": {"counts": [5, 5], "size": [HEIGHT, WIDTH]}}),
        "has 10 pixels, not 60 x 80",
    ),
    "no JSON": ("{", "cannot be read"),
    "no dictionary": ("[]", "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, kind: str) -> None:
    labels, told = WRONG[kind]
    with pytest.raises(InputError, match=told) as caught:
        read(tmp_path, labels, more="class = 'building'" if kind.startswith("no ") and kind != "no outline" else "")
    assert "l.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(InputError, match=r'pip install "tileseg\[coco\]"'):
        read(tmp_path, coco({**BOX, "segmentation": {"counts": "abc", "size": [HEIGHT, WIDTH]}}))
