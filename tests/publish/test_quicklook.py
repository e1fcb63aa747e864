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


def panels(page: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the scene in the page, and cut out what stands beside it."""
    height, width = rgb.shape[:2]
    for row in range(page.shape[0] - height):
        for col in range(40):
            if np.array_equal(page[row, col : col + width], rgb[0]):
                step = width + quicklook._GAP
                return tuple(page[row : row + height, col + i * step : col + i * step + width] for i in range(3))
    raise AssertionError("the scene is not in the picture")


def test_the_three_pictures_are_there_pixel_by_pixel(tmp_path: Path) -> None:
    rgb, labels = scene(330, 410)
    write_quicklook(tmp_path / "q.png", "a scene", rgb, labels, CLASSES, 0.3)
    page = np.asarray(Image.open(tmp_path / "q.png"))
    left, middle, right = panels(page, rgb)
    assert np.array_equal(left, rgb)
    assert (middle[labels == 0] == (200, 185, 154)).all()
    assert (middle[labels == 1] == (217, 84, 77)).all()
    assert (middle[labels == 255] == 224).all()
    # Background and nodata show the scene; buildings are tinted, and outlined.
    assert np.array_equal(right[labels == 0], rgb[labels == 0])
    assert np.array_equal(right[labels == 255], rgb[labels == 255])
    inner = np.zeros(labels.shape, bool)
    inner[330 // 4 + 1 : 330 // 2 - 1, 410 // 3 + 1 : -1] = True
    mixed = rgb + 0.45 * (np.array([217, 84, 77]) - rgb.astype(float))
    assert np.abs(right[inner] - mixed[inner]).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["q.png"]


def test_labels_of_another_size_are_brought_to_the_scenes(tmp_path: Path) -> None:
    rgb, labels = scene(330, 410)
    coarse = labels[::2, ::2]
    write_quicklook(tmp_path / "q.png", "a scene", rgb, coarse, CLASSES, None)
    middle = panels(np.asarray(Image.open(tmp_path / "q.png")), rgb)[1]
    assert np.array_equal(middle, np.array([(200, 185, 154), (217, 84, 77)] + [(224,) * 3] * 254)[
        coarse.repeat(2, axis=0).repeat(2, axis=1)])  # fmt: skip


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
    for row in page[-80:, :430] < 60:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(int)))
        longest = max([longest, *(edges[1::2] - edges[::2]).tolist()])
    assert abs(longest - 50 / 0.5) <= 4


@pytest.mark.parametrize(("height", "width"), [(97, 61), (1, 1), (1024, 40), (30, 1024)])
def test_any_shape_with_many_classes_and_a_long_title(tmp_path: Path, height: int, width: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    classes = [ClassInfo(name=f"a class with a long name {i}", color=f"#{i * 7:02x}4050") for i in range(30)]
    labels = (np.arange(height * width).reshape(height, width) % 30).astype(np.uint8)
    write_quicklook(tmp_path / "q.png", "a very long title " * 40, rgb, labels, classes, 12.5)
    page = np.asarray(Image.open(tmp_path / "q.png"))
    assert page.shape[1] >= 3 * width
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
    texts = [text for text, _ in quicklook._legend(labels, CLASSES, palette)]
    assert texts == ["ground  94 %", "building  5 %", "water  1 %", "no data"]
