"""Which windows stand for all: spread over scenes and over classes, some to calibrate with and others to measure on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError
from tileseg.export.scenes import Seen, SeenScene
from tileseg.labels import Labels
from tileseg.window import Window

_SIDES = (256, 128, 64)
"""Pixels: sides of windows, the largest of which there are enough."""
_ENOUGH = 16
"""Windows with which a side is not made smaller to have more: small ones show little of what surrounds a pixel."""
_SPARE = 3
"""Windows that are looked at, for each that is wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A window of a scene, and what is in it."""

    scene: SeenScene
    window: Window
    shares: npt.NDArray[np.float64]
    """(class,) share of its pixels that each class has."""


@dataclass(frozen=True, slots=True)
class Places:
    """Windows that were chosen."""

    side: int
    """Rows and columns of each, as the network is given it."""
    calibration: tuple[Place, ...]
    held_out: tuple[Place, ...]
    """None of them is in ``calibration``, or in a scene of it where the dataset keeps scenes for validation."""


def choose(
    scenes: Sequence[SeenScene],
    labels_of: Callable[[SeenScene, Seen], Labels],
    *,
    classes: int,
    stride: int,
    counts: tuple[int, int],
    seed: int,
    side: int | None = None,
) -> Places:
    """Windows to calibrate with and to measure on: as many as ``counts`` says, or as there are.

    The scenes take turns. Each gives a window with the class that was seen least so far, the more likely the more of
    it there is. Windows that are mostly without data are left out.

    Args:
        scenes: Those that a dataset keeps for validation are measured on alone; where there are none, all serve both.
        labels_of: Labels of a window: they say which classes are in it.
        classes: Number of classes.
        stride: Sides of windows are multiples of it.
        counts: Windows to calibrate with, and to measure on.
        seed: Decides what is drawn.
        side: Rows and columns of the windows; None: as large as there are enough.

    Raises:
        InputError: If there are no two windows with data.
    """
    rng = np.random.default_rng(seed)
    apart = len({scene.held_out for scene in scenes}) == 2
    groups = [[scene for scene in scenes if scene.held_out == kept] for kept in (False, True)] if apart else [scenes]
    wanted = counts if apart else (sum(counts),)
    side = side or _side(groups, wanted, stride)
    found = [
        _candidates(group, labels_of, classes, side, _SPARE * count, rng)
        for group, count in zip(groups, wanted, strict=True)
    ]
    calibration = _draw(found[0], counts[0] if apart else min(counts[0], len(found[0]) // 2), rng)
    rest = [place for place in found[-1] if place not in calibration]
    held_out = _draw(rest, counts[1], rng)
    if not calibration or not held_out:
        names = ", ".join(scene.name for scene in scenes[:3])
        raise InputError(
            f"{names}: {sum(map(len, found))} windows of {side} x {side} pixels with data: expected at least one to "
            "calibrate with and another to measure on; give larger or more scenes"
        )
    return Places(side, tuple(calibration), tuple(held_out))


def _side(groups: Sequence[Sequence[SeenScene]], wanted: Sequence[int], stride: int) -> int:
    """The largest side with which every group has enough windows, or the smallest one."""
    sides = [-(-side // stride) * stride for side in _SIDES]
    for side in sides:
        counts = [sum(len(_whole(scene, side)) for scene in group) for group in groups]
        if all(count >= min(most, _ENOUGH) for count, most in zip(counts, wanted, strict=True)):
            return side
    return sides[-1]


def _whole(scene: SeenScene, side: int) -> list[Window]:
    """The windows of a scene that are no narrow rest at its edge; the first one of a scene that is small itself."""
    windows = scene.windows(side)
    return [w for w in windows if min(w.height, w.width) > side // 2] or windows[:1]


def _candidates(
    scenes: Sequence[SeenScene],
    labels_of: Callable[[SeenScene, Seen], Labels],
    classes: int,
    side: int,
    most: int,
    rng: np.random.Generator,
) -> list[Place]:
    """About ``most`` windows of all scenes, of each alike as far as it has so many."""
    found: list[Place] = []
    left = most
    queue = sorted(scenes, key=lambda scene: len(_whole(scene, side)))  # what small ones do not need goes to others
    for done, scene in enumerate(queue):
        windows = _whole(scene, side)
        count = min(len(windows), max(1, left // (len(queue) - done)))
        left -= count
        for index in sorted(rng.choice(len(windows), count, replace=False)):
            seen = scene.read(windows[index], side)
            if seen.valid.sum() >= windows[index].pixels / 2:
                labels = labels_of(scene, seen)
                present = np.bincount(labels[labels < classes], minlength=classes)
                found.append(Place(scene, windows[index], present / labels.size))
    return found


def _draw(candidates: Sequence[Place], count: int, rng: np.random.Generator) -> list[Place]:
    """Some of them: scenes take turns, and classes that were seen least go first."""
    left: dict[str, list[Place]] = {}
    for place in candidates:
        left.setdefault(place.scene.name, []).append(place)
    chosen: list[Place] = []
    seen = np.zeros(len(candidates[0].shares)) if candidates else np.zeros(0)
    while left and len(chosen) < count:
        for name in list(left):
            here = left[name]
            shares = np.array([place.shares for place in here])
            present = np.flatnonzero(shares.any(axis=0))
            rarest = present[np.argmin(seen[present])] if len(present) else 0
            chances = shares[:, rarest] + 1e-9
            place = here.pop(int(rng.choice(len(here), p=chances / chances.sum())))
            seen += place.shares
            chosen.append(place)
            if not here:
                del left[name]
            if len(chosen) == count:
                break
    return chosen
