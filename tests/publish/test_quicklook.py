"""The quicklook shows the scene, the labels and both; a bar of the right length; the classes that occur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tileseg.card import ClassInfo
from tileseg.publish import quicklook
from tileseg.publish.quicklook import write_quicklook

CLASSES = (
    ClassInfo(name="ground", color="#c8b99a", background=True),
    ClassInfo(name="building", color="#d9544d"),
    ClassInfo(name="water", color="#3f7fbf"),
)


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[height // 4 : height // 2, width // 3 :] = 1
    labels[-height // 8 :] = 255
    return rgb, labels


def panels(page: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the scene's first row (which has no outline) in the page: the outlines, large, and what stands beside."""
    height, width = rgb.shape[:2]
    for row in range(page.shape[0] - height):
        if np.array_equal(page[row, 23 : 23 + width], rgb[0]):
            return page[row : row + height, 23 : 23 + width], page[row : row + height, 23 + width + quicklook._GAP :]
    raise AssertionError("the scene is not in the picture")


def test_outlines_lie_over_the_scene_and_hide_nothing_of_it(tmp_path: Path) -> None:
    rgb, labels = scene(430, 510)
    write_quicklook(tmp_path / "q.png", "a scene", rgb, labels, CLASSES, 0.3)
    page = np.asarray(Image.open(tmp_path / "q.png"))
    large, small = panels(page, rgb)
    border = np.zeros(labels.shape, bool)
    border[430 // 4 - 1 : 430 // 2 + 1, 510 // 3 - 1 :] = True
    border[430 // 4 + 1 : 430 // 2 - 1, 510 // 3 + 1 :] = False
    border[[430 // 4 - 1, 430 // 2], 510 // 3 - 1] = False  # beside a corner, not beside the class
    assert np.array_equal(large[~border], rgb[~border])
    (line,) = np.unique(large[border], axis=0).tolist()
    assert line != [217, 84, 77]
    # Both others stand beside it, the labels below: no color but those of the classes.
    low = small[small.shape[0] // 2 + 25 :, : round(0.4 * 510)]
    assert {tuple(color) for color in np.unique(low.reshape(-1, 3), axis=0).tolist()} == {
        (200, 185, 154), (217, 84, 77), (224, 224, 224)}  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["q.png"]


def test_it_can_be_read_where_it_is_shown_800_pixels_wide(tmp_path: Path) -> None:
    rgb, labels = scene(700, 900)
    write_quicklook(tmp_path / "q.png", "a scene", rgb, labels, CLASSES, 0.3)
    width = np.asarray(Image.open(tmp_path / "q.png")).shape[1]
    assert 900 * 800 / width > 500  # the outlines' panel
    assert 2 * 800 / width > 1  # a line
    assert round(900 // 42 * 800 / width) >= 12  # letters


def test_labels_of_another_size_are_brought_to_the_scenes(tmp_path: Path) -> None:
    rgb, labels = scene(430, 1000)
    coarse = labels[::2, ::2]
    write_quicklook(tmp_path / "q.png", "a scene", rgb, coarse, CLASSES, None)
    page = np.asarray(Image.open(tmp_path / "q.png"))
    size = 22
    row = next(row for row in range(200) if np.array_equal(page[row, 27 : 27 + 1000], rgb[0]))
    row += 2 * (430 + quicklook._GAP + round(1.6 * size))
    wanted = np.array([(200, 185, 154), (217, 84, 77)] + [(224,) * 3] * 254)
    assert np.array_equal(page[row : row + 430, 27 : 27 + 1000], wanted[coarse.repeat(2, axis=0).repeat(2, axis=1)])


@pytest.mark.parametrize(("width", "metres", "pixels", "text"), [
    (1024, 0.3, 333, "100 m"), (1024, 0.5, 400, "200 m"), (500, 30, 167, "5 km"), (320, 0.001, 100, "10 cm"),
])  # fmt: skip
def test_the_bar_is_as_long_as_it_says(width: int, metres: float, pixels: int, text: str) -> None:
    assert quicklook._scale_bar(width, metres) == (pixels, text)


def test_the_bar_is_drawn(tmp_path: Path) -> None:
    rgb, labels = scene(330, 410)
    write_quicklook(tmp_path / "q.png", "", rgb, labels, CLASSES, 0.5)
    page = np.asarray(Image.open(tmp_path / "q.png").convert("L"))
    longest = 0
    for row in page[-80:, :640] < 60:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
        longest = max([longest, *(edges[1::2] - edges[::2]).tolist()])
    assert abs(longest - 2 * 50 / 0.5) <= 4  # enlarged twice


@pytest.mark.parametrize(("height", "width"), [(97, 61), (1, 1), (1024, 40), (30, 1024)])
def test_any_shape_with_many_classes_and_a_long_title(tmp_path: Path, height: int, width: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    classes = [ClassInfo(name=f"a class with a long name {i}", color=f"#{i * 7:02x}4050") for i in range(30)]
    labels = (np.arange(height * width).reshape(height, width) % 30).astype(np.uint8)
    write_quicklook(tmp_path / "q.png", "a very long title " * 40, rgb, labels, classes, 12.5)
    page = np.asarray(Image.open(tmp_path / "q.png"))
    assert page.shape[1] >= max(width, 560)
    assert page.shape[0] > height


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_quicklook(tmp_path / name, "a scene", *scene(120, 90), CLASSES, 0.3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_shares_are_of_the_data() -> None:
    labels = np.full((10, 20), 255, np.uint8)
    labels[:5] = 0
    labels[0, :5] = 1
    labels[1, 0] = 2
    palette = np.zeros((256, 3), np.uint8)
    entries = quicklook._legend(labels, CLASSES, palette, palette + 9)
    assert [entry.text for entry in entries] == ["ground  94 %", "building  5 %", "water  1 %", "no data"]
    assert [entry.line for entry in entries] == [None, (9, 9, 9), (9, 9, 9), None]
