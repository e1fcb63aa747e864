"""Label rasters of every kind mean the same on the image's grid and on another one; a class called nodata is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from dataset_files import NORTH_UP, dataset, noise, patchy, write

from tileseg.dataset import LabelledScene, load_dataset
from tileseg.dataset.check import check_dataset
from tileseg.dataset.doubts import mask_doubt, nodata_doubt
from tileseg.dataset.raster_truth import RasterTruth
from tileseg.dataset.warped_truth import WarpedTruth
from tileseg.errors import InputError

SIZE = 60, 80
MARGIN = 7
COLORS = {0: (200, 180, 150), 1: (217, 84, 77), 2: (0, 0, 0)}
COLOR_MAP = "label_map = { '#c8b496' = 'ground', '#d9544d' = 'building', '#000000' = 'water' }\n"


def labels_and_hidden() -> tuple[np.ndarray, np.ndarray]:
    """Labels with a margin around the image's 60 x 80 pixels, and where they are hidden."""
    height, width = (n + 2 * MARGIN for n in SIZE)
    hidden = np.zeros((height, width), bool)
    hidden[:, width - 30 :] = True
    return patchy(height, width).astype(int), hidden


def colored(values: np.ndarray) -> np.ndarray:
    return np.array([COLORS[i] for i in range(3)], np.uint8)[values]


def with_alpha(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.concatenate([pixels, np.where(hidden, 0, 255)[..., None].astype(pixels.dtype)], axis=-1)


PALETTE = {i: (*COLORS[i], 255) for i in COLORS}
KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "plain": (lambda values, hidden: np.where(hidden, 255, values).astype("uint8"), {}, ""),
    "grey and alpha": (lambda values, hidden: with_alpha(values.astype("uint8"), hidden), {"alpha": "yes"}, ""),
    "alpha, nodata and a map": (
        lambda values, hidden: with_alpha(values.astype("uint8"), hidden),
        {"alpha": "yes", "nodata": 0},
        "label_map = { 0 = 0, 1 = 1, 2 = 2 }\n",
    ),
    "int16, nodata": (lambda values, hidden: np.where(hidden, -9, values).astype("int16"), {"nodata": -9}, ""),
    "uint16": (lambda values, hidden: np.where(hidden, 255, values).astype("uint16"), {}, ""),
    "float, NaN, nodata and a map": (
        lambda values, hidden: np.where(hidden, np.nan, values).astype("float32"),
        {"nodata": 0},
        "label_map = { 0 = 0, 1 = 1, 2 = 2 }\n",
    ),
    "float, nodata that is no whole number": (
        lambda values, hidden: np.where(hidden, -1e38, values).astype("float32"),
        {"nodata": float(np.float32(-1e38))},
        "",
    ),
    "uint32, nodata": (lambda values, hidden: np.where(hidden, 9, values).astype("uint32"), {"nodata": 9}, ""),
    "internal mask": (lambda values, _: values.astype("uint8"), {"mask": True}, ""),
    "palette": (lambda values, _: values.astype("uint8"), {"palette": PALETTE, "mask": True}, ""),
    "colours of a palette": (lambda values, _: values.astype("uint8"), {"palette": PALETTE, "mask": True}, COLOR_MAP),
    "colours": (
        lambda values, hidden: np.where(hidden[..., None], 9, colored(values)).astype("uint8"),
        {"nodata": 9},
        COLOR_MAP,
    ),
    "colours and alpha": (lambda values, hidden: with_alpha(colored(values), hidden), {"alpha": "yes"}, COLOR_MAP),
}


def scene_with(folder: Path, kind: str, *, margin: int) -> tuple[LabelledScene, np.ndarray]:
    """The scene, its labels having so many pixels more on each side; and what the labels are."""
    make, options, entry = KINDS[kind]
    values, hidden = labels_and_hidden()
    inner = np.s_[
        MARGIN - margin : values.shape[0] - MARGIN + margin, MARGIN - margin : values.shape[1] - MARGIN + margin
    ]
    values, hidden = values[inner], hidden[inner]
    if options.get("mask"):
        options = {**options, "mask": np.where(hidden, 0, 255).astype(np.uint8)}
    place = NORTH_UP @ Affine.translation(-margin, -margin)
    write(folder / "a.tif", noise(*SIZE))
    write(folder / "l.tif", np.asarray(make(values, hidden)), transform=place, **options)
    path = dataset(folder, f"[[scenes]]\nimage = 'a.tif'\nlabels = 'l.tif'\n{entry}")
    expected = np.where(hidden, 255, values)
    return load_dataset(path).train[0], expected[margin : margin + SIZE[0], margin : margin + SIZE[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("margin", "truth"), [(0, RasterTruth), (MARGIN, WarpedTruth)])
def test_what_is_hidden_is_unknown_on_any_grid(tmp_path: Path, kind: str, margin: int, truth: type) -> None:
    scene, expected = scene_with(tmp_path, kind, margin=margin)
    assert isinstance(scene.truth, truth)
    np.testing.assert_array_equal(scene.read(scene.extent)[1], expected)


@pytest.mark.parametrize("margin", [0, MARGIN])
@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("uint8", 1), ("int16", 2), ("int64", 0), ("uint32", 2), ("float32", 0)]
)
def test_a_class_that_is_called_nodata_is_told_and_the_map_wins(
    tmp_path: Path, dtype: str, nodata: int, margin: int
) -> None:
    values, _ = labels_and_hidden()
    write(tmp_path / "a.tif", noise(*SIZE))
    place = NORTH_UP @ Affine.translation(-MARGIN * (margin > 0), -MARGIN * (margin > 0))
    inner = np.s_[MARGIN : MARGIN + SIZE[0], MARGIN : MARGIN + SIZE[1]]
    write(tmp_path / "l.tif", (values if margin else values[inner]).astype(dtype), nodata=nodata, transform=place)
    entry = "[[scenes]]\nimage = 'a.tif'\nlabels = 'l.tif'\n"
    name = ("ground", "building", "water")[nodata]
    scene = load_dataset(dataset(tmp_path, entry)).train[0]
    doubt = nodata_doubt(scene)
    assert doubt is not None
    assert f"l.tif: calls its value {nodata} nodata, so " in doubt
    assert f"unknown and not '{name}'" in doubt
    assert any(finding.message == doubt for finding in check_dataset(tmp_path / "dataset.toml").findings)
    # What it says is to be done does it.
    advised = doubt.partition("say so: ")[2]
    scene = load_dataset(dataset(tmp_path, f"{entry}{advised}\n")).train[0]
    assert nodata_doubt(scene) is None
    np.testing.assert_array_equal(scene.read(scene.extent)[1], values[inner])


@pytest.mark.parametrize(("nodata", "head"), [(255, ""), (0, "ignore = [0]\n"), (7, "")])
def test_what_is_unknown_by_intention_is_not_told(tmp_path: Path, nodata: int, head: str) -> None:
    write(tmp_path / "a.tif", noise(*SIZE))
    values = patchy(*SIZE)
    values[:9] = nodata
    write(tmp_path / "l.tif", values, nodata=nodata)
    scene = load_dataset(dataset(tmp_path, f"{head}[[scenes]]\nimage = 'a.tif'\nlabels = 'l.tif'\n")).train[0]
    assert nodata_doubt(scene) is None
    assert mask_doubt(scene) is None
    assert (scene.read(scene.extent)[1][:9] == 255).all()


def test_a_mask_whose_background_is_nodata_gets_a_remedy_that_works(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", noise(*SIZE))
    write(tmp_path / "l.tif", (patchy(*SIZE, classes=2) * 255).astype(np.uint8), nodata=0)
    entry = "[[scenes]]\nimage = 'a.tif'\nlabels = 'l.tif'\n"
    doubt = mask_doubt(load_dataset(dataset(tmp_path, entry)).train[0])
    assert doubt is not None
    advised = doubt.partition("say so: ")[2]
    scene = load_dataset(dataset(tmp_path, f"{entry}{advised}\n")).train[0]
    np.testing.assert_array_equal(scene.read(scene.extent)[1], patchy(*SIZE, classes=2))


def test_sizes_that_are_exchanged_name_the_likely_cause(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", noise(*SIZE))
    write(tmp_path / "l.png", patchy(SIZE[1], SIZE[0]))
    with pytest.raises(InputError, match=r"l\.png: is 60 x 80 pixels, a\.jpg is 80 x 60.*turned by a quarter"):
        load_dataset(dataset(tmp_path, "[[scenes]]\nimage = 'a.jpg'\nlabels = 'l.png'\n"))
