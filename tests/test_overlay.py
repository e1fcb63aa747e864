"""Outlines over a picture: in colours that it has not, also for who does not tell red from green."""

from __future__ import annotations

import numpy as np
import pytest

from tileseg.card import ClassInfo
from tileseg.overlay import DISTINCT, _distances, draw_outlines, outline_colors

GROUND = ClassInfo(name="ground", color="#c8b99a", background=True)
ROOF = ClassInfo(name="roof", color="#d9544d")
WATER = ClassInfo(name="water", color="#3f7fbf")


def picture(color: tuple[int, int, int]) -> np.ndarray:
    """A picture (y, x, 3) about a colour."""
    noise = np.random.default_rng(0).integers(-12, 13, (40, 60, 3))
    return np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)


def test_a_red_class_over_red_roofs_is_not_drawn_in_red() -> None:
    known = np.ones((40, 60), bool)
    red, dark = picture((190, 80, 70)), picture((40, 60, 30))
    drawn = outline_colors(red, known, (GROUND, ROOF))[1]
    assert _distances(drawn[None], red.reshape(-1, 3)).min() > DISTINCT
    assert _distances(np.array([(217, 84, 77)], np.uint8), red.reshape(-1, 3)).min() < 10
    assert outline_colors(dark, known, (GROUND, ClassInfo(name="roof", color="#ffe100")))[1].tolist() == [255, 225, 0]


@pytest.mark.parametrize("color", [(255, 225, 0), (0, 229, 255), (128, 128, 128), (10, 10, 10), (250, 250, 250)])
def test_classes_are_told_from_the_picture_and_from_each_other(color: tuple[int, int, int]) -> None:
    shown = picture(color)
    colors = outline_colors(shown, np.ones(shown.shape[:2], bool), (GROUND, ROOF, WATER))
    assert _distances(colors[1:3], shown.reshape(-1, 3)).min() > 25
    assert _distances(colors[1:2], colors[2:3]).min() > 25


def test_red_and_green_are_alike_for_many() -> None:
    red, green, blue = (np.array([color], np.uint8) for color in ((200, 110, 0), (128, 139, 0), (60, 60, 220)))
    assert _distances(red, green)[0, 0] < 15
    assert _distances(red, blue)[0, 0] > 60


def test_only_pixels_with_data_decide() -> None:
    shown = picture((40, 60, 30))
    shown[:30] = (255, 225, 0)
    known = np.zeros((40, 60), bool)
    known[30:] = True
    assert outline_colors(shown, known, (GROUND, ROOF))[1].tolist() == [255, 225, 0]
    assert outline_colors(shown, ~known, (GROUND, ROOF))[1].tolist() != [255, 225, 0]
    assert outline_colors(shown, np.zeros_like(known), (GROUND, ROOF)).shape == (256, 3)


def test_lines_are_two_pixels_wide_and_each_class_has_its_side() -> None:
    labels = np.zeros((9, 14), np.uint8)
    labels[2:7, 3:8], labels[2:7, 8:12] = 1, 2
    shown = np.full((9, 14, 3), 90, np.uint8)
    colors = np.zeros((256, 3), np.uint8)
    colors[1], colors[2] = (255, 0, 0), (0, 0, 255)
    drawn = draw_outlines(shown, labels, (GROUND, ROOF, WATER), colors)
    assert (shown == 90).all()
    row = ["".join({90: ".", 255: "r", 0: "b"}[value] for value in line) for line in drawn[..., 0].tolist()]
    assert row == [
        "..............",
        "...rrrrrbbbb..",
        "..rrrrrrbbbbb.",
        "..rr...rb..bb.",
        "..rr...rb..bb.",
        "..rr...rb..bb.",
        "..rrrrrrbbbbb.",
        "...rrrrrbbbb..",
        "..............",
    ]


def test_a_seam_says_which_side_is_inside() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 12:] = 1
    colors = np.full((256, 3), 255, np.uint8)
    plain = np.zeros((20, 30, 3), np.uint8)
    drawn = draw_outlines(plain, labels, (GROUND, ROOF), colors, seam=3)[7, :, 0].tolist()
    assert drawn == [0] * 11 + [255, 255] + [89] * 3 + [0] * 14


def test_classes_without_number_keep_their_own_colors() -> None:
    classes = tuple(ClassInfo(name=f"c{i}", color=f"#{i:02x}4080") for i in range(30))
    colors = outline_colors(picture((90, 90, 90)), np.ones((40, 60), bool), classes)
    assert [tuple(colors[i]) for i in range(20, 30)] == [(i, 0x40, 0x80) for i in range(20, 30)]
