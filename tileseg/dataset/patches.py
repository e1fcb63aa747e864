"""Which windows a network is trained and validated on.

Patches are drawn by a pure function of seed and step, so that an interrupted training goes on with the same ones.
Where classes lie is counted once, in coarse cells, so that rare ones can be drawn more often without searching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tileseg.dataset.labelled import LabelledScene, Pixels
from tileseg.dataset.spec import IGNORE
from tileseg.errors import InputError, UsageError
from tileseg.labels import Labels
from tileseg.source.scene import reflected
from tileseg.window import Window

UNLABELLED, GAP = 256, 257
"""Instead of IGNORE, where it matters: the image has data whose class is not known, or has no data."""

DrawnBy = Literal["pixel", "scene", "place"]

_Code = TypeVar("_Code", np.uint8, np.int16)

_STRIP = 1024
"""Pixels: side of the windows in which labels are counted."""
_RAREST = 0.01
"""Share below which a class is not drawn more often still: the same few places would fill the batches."""
_TRIES = 8
_MOST_UNKNOWN = 0.75
"""Share of a patch without a known class above which another one is drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassCells:
    """How many pixels of each class lie in each cell of each scene."""

    side: int
    """Pixels: side of a cell."""
    counts: tuple[npt.NDArray[np.int32], ...]
    """For each scene (rows, columns, class)."""
    teaching: tuple[npt.NDArray[np.int32], ...]
    """For each scene (rows, columns): pixels that something is learnt from. Their class is known, or the scene has no
    labels and they have data."""

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each class (class,) over all scenes."""
        return np.asarray(sum(c.sum(axis=(0, 1), dtype=np.int64) for c in self.counts), np.int64)


def count_cells(scenes: Sequence[LabelledScene], classes: int, side: int) -> ClassCells:
    """Read all labels once, window by window, and count classes in cells of ``side`` pixels."""
    counts = tuple(_count_scene(scene, classes, side) for scene in scenes)
    teaching = (
        count.sum(axis=2, dtype=np.int32) if scene.has_labels else count[..., 0]
        for scene, count in zip(scenes, counts, strict=True)
    )
    known = (
        count if scene.has_labels else np.zeros((*count.shape[:2], classes), np.int32)
        for scene, count in zip(scenes, counts, strict=True)
    )
    return ClassCells(side, tuple(known), tuple(teaching))


def _count_scene(scene: LabelledScene, classes: int, side: int) -> npt.NDArray[np.int32]:
    """(rows, columns, class) pixels; of a scene without labels (rows, columns, 1) those that have data."""
    rows, cols = -(-scene.grid.height // side), -(-scene.grid.width // side)
    classes = classes if scene.has_labels else 1
    counts = np.zeros((rows, cols, classes), np.int32)
    step = max(1, _STRIP // side) * side
    for window in scene.windows(step):
        labels = scene.read_labels(window) if scene.has_labels else _gaps(scene, window)
        down, across = -(-window.height // side), -(-window.width // side)
        cell = (np.arange(window.height) // side)[:, None] * across + np.arange(window.width) // side
        known = labels < classes
        flat = np.bincount(cell[known] * classes + labels[known], minlength=down * across * classes)
        top, left = window.row_off // side, window.col_off // side
        counts[top : top + down, left : left + across] = flat.reshape(down, across, classes)
    return counts


def _gaps(scene: LabelledScene, window: Window) -> Labels:
    """0 where the image has data, IGNORE elsewhere."""
    if not scene.scene.has_gaps:
        return np.zeros((window.height, window.width), np.uint8)
    return np.where(scene.read_with_gaps(window)[2], 0, IGNORE).astype(np.uint8)


class PatchSampler:
    """Draws batches of patches from scenes: ``batch(step)`` is a pure function of seed and step.

    Of the patches, a share ``balance`` is drawn around a cell that has pixels of a class, which is drawn first, rarer
    classes being more likely (with the inverse square root of their share, down to 1 %); the others around any pixel
    whose class is known.
    ``rare`` names the ids of the former classes; by default they are all that occur and are no background.
    The pixel may be anywhere in its patch. Scenes count by known pixels times their weight, those without labels by
    pixels with data; with ``by`` each scene, or each place (drawn scenes being one together), counts alike times
    its weight instead. Scenes smaller than a patch are continued by reflection, with IGNORE as label.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        size: int,
        batch: int,
        seed: int,
        balance: float = 0.5,
        rare: Literal["auto"] | Sequence[int] = "auto",
        by: DrawnBy = "pixel",
    ) -> None:
        """Read all labels once. Raises InputError where none is known, UsageError for values that make no sense."""
        if size < 1 or batch < 1 or not 0 <= balance <= 1:
            raise UsageError(
                f"patches of {size} pixels, {batch} at once, balance {balance}: expected 1, 1, 0..1 or more"
            )
        if not scenes:
            raise InputError('the dataset has no scenes for training: give them split = "train"')
        self.scenes = tuple(scenes)
        infos = self.scenes[0].classes
        classes = len(infos)
        self.size, self.batch_size, self.seed, self.balance = size, batch, seed, balance
        self.cells = count_cells(scenes, classes, max(8, size // 8))
        if not any(part.any() for part in self.cells.teaching):
            raise InputError("no pixel of the training scenes has a known class")
        weights = _weights(scenes, self.cells, by)
        totals = sum(
            weight * counts.sum(axis=(0, 1)) for weight, counts in zip(weights, self.cells.counts, strict=True)
        )
        wanted = [i for i, info in enumerate(infos) if not info.background] if rare == "auto" else list(rare)
        present = [i for i in wanted if i < classes and totals[i]]
        chances = 1 / np.sqrt(np.maximum(totals[present] / totals.sum(), _RAREST)) if present else np.zeros(0)
        self._rare = tuple(present)
        self._chances = np.cumsum(chances / chances.sum()) if present else chances
        cells, offsets = [], [0]
        for weight, counts in zip(weights, self.cells.counts, strict=True):
            cells.append(counts.reshape(-1, classes) * weight)
            offsets.append(offsets[-1] + len(cells[-1]))
        self._offsets = np.array(offsets)
        teaching = [part.ravel() * weight for weight, part in zip(weights, self.cells.teaching, strict=True)]
        self._known = np.cumsum(np.concatenate(teaching), dtype=np.float64)
        self._of_class = {
            i: np.cumsum(np.concatenate([part[:, i] for part in cells]), dtype=np.float64) for i in present
        }

    def windows(self, step: int) -> list[tuple[int, Window]]:
        """Where the patches of a step lie: position of the scene, and window inside it."""
        rng = np.random.default_rng([self.seed, step])
        return [self._draw(rng) for _ in range(self.batch_size)]

    def batch(self, step: int) -> tuple[Pixels, Labels]:
        """Images (n, y, x, band) of the scenes' type, and labels (n, y, x) uint8. Safe from several threads."""
        parts = [read_patch(self.scenes[index], window, self.size) for index, window in self.windows(step)]
        return np.stack([pixels for pixels, _ in parts]), np.stack([labels for _, labels in parts])

    def coded_batch(self, step: int) -> tuple[Pixels, npt.NDArray[np.int16]]:
        """The same with labels (n, y, x) that tell pixels apart whose class is not known.

        They are UNLABELLED where the image has data, GAP where it has none, and IGNORE beyond the scene.
        """
        parts = [_read_coded(self.scenes[index], window, self.size) for index, window in self.windows(step)]
        return np.stack([pixels for pixels, _ in parts]), np.stack([codes for _, codes in parts])

    def _draw(self, rng: np.random.Generator) -> tuple[int, Window]:
        sums = self._known
        if self._rare and rng.random() < self.balance:
            chosen = int(np.searchsorted(self._chances, rng.random(), side="right"))
            sums = self._of_class[self._rare[min(chosen, len(self._rare) - 1)]]
        best: tuple[float, int, Window] | None = None
        for _ in range(_TRIES):
            index, window = self._around(rng, sums)
            known = self._known_share(index, window)
            if best is None or known > best[0]:
                best = known, index, window
            if known >= 1 - _MOST_UNKNOWN:
                break
        assert best is not None
        return best[1], best[2]

    def _around(self, rng: np.random.Generator, sums: npt.NDArray[np.float64]) -> tuple[int, Window]:
        """A window around a pixel of a cell that is drawn by what ``sums`` accumulates."""
        cell = min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")), len(sums) - 1)
        index = int(np.searchsorted(self._offsets, cell, side="right")) - 1
        grid, side = self.scenes[index].grid, self.cells.side
        row, col = divmod(cell - int(self._offsets[index]), self.cells.counts[index].shape[1])
        starts = []
        for position, length in ((row, grid.height), (col, grid.width)):
            pixel = position * side + int(rng.integers(min(side, length - position * side)))
            start = pixel - int(rng.integers(self.size))
            starts.append(min(max(start, 0), max(0, length - self.size)))
        return index, Window(starts[0], starts[1], min(self.size, grid.height), min(self.size, grid.width))

    def _known_share(self, index: int, window: Window) -> float:
        """About how much of the cells that a window touches something is learnt from."""
        side, counts = self.cells.side, self.cells.teaching[index]
        top, left = window.row_off // side, window.col_off // side
        bottom, right = -(-window.row_stop // side), -(-window.col_stop // side)
        known = int(counts[top:bottom, left:right].sum())
        return known / ((bottom - top) * (right - left) * side * side)


def _weights(scenes: Sequence[LabelledScene], cells: ClassCells, by: DrawnBy) -> list[float]:
    """What a pixel of each scene counts: the scene's weight, over the pixels of all that it is counted with."""
    pixels = [int(part.sum()) for part in cells.teaching]
    if by == "pixel":
        return [scene.weight for scene in scenes]
    together: dict[object, list[int]] = {}
    for index, scene in enumerate(scenes):
        # All drawn scenes are one place: there may be any number of them.
        key = index if by == "scene" else None if scene.drawn else scene.place
        together.setdefault(key, []).append(index)
    weights = [0.0] * len(scenes)
    for group in together.values():
        known = sum(pixels[index] for index in group)
        for index in group:
            # Times the mean, so that the numbers stay of the order of pixels.
            weights[index] = scenes[index].weight * sum(pixels) / len(together) / max(1, known)
    return weights


def read_patch(scene: LabelledScene, window: Window, size: int) -> tuple[Pixels, Labels]:
    """Read a window of at most ``size`` pixels as ``size`` x ``size``: pixels (y, x, band), labels (y, x).

    What is missing at the bottom and right is continued by reflection, and has the label IGNORE.
    """
    return _grown(*scene.read(window), size)


def _read_coded(scene: LabelledScene, window: Window, size: int) -> tuple[Pixels, npt.NDArray[np.int16]]:
    """As :func:`read_patch`, with the labels of :meth:`PatchSampler.coded_batch`."""
    pixels, labels, valid = scene.read_with_gaps(window)
    codes = labels.astype(np.int16)
    codes[labels == IGNORE] = UNLABELLED
    codes[~valid] = GAP
    return _grown(pixels, codes, size)


def _grown(pixels: Pixels, labels: npt.NDArray[_Code], size: int) -> tuple[Pixels, npt.NDArray[_Code]]:
    """Pixels (y, x, band) continued to ``size`` x ``size`` by reflection, and labels (y, x) by IGNORE."""
    if labels.shape == (size, size):
        return pixels, labels
    rows, cols = (reflected(0, size, length, size) for length in labels.shape)
    padded = np.full((size, size), IGNORE, labels.dtype)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    return np.ascontiguousarray(pixels[rows[:, None], cols]), padded


def validation_windows(
    scenes: Sequence[LabelledScene], size: int, most: int | None = None
) -> list[tuple[LabelledScene, Window]]:
    """Windows that cover the scenes without overlap, the same in every training; read them with :func:`read_patch`.

    They are smaller than ``size`` at the right and bottom. With ``most``, about that many of them: of each place
    alike, as far as it has so many, one at least, and evenly spread in it.
    """
    windows = [(scene, window) for scene in scenes for window in scene.windows(size)]
    if most is None or len(windows) <= most:
        return windows
    places: dict[tuple[str, bool], list[int]] = {}
    for index, (scene, _) in enumerate(windows):
        places.setdefault((scene.place, scene.drawn), []).append(index)
    chosen: list[int] = []
    left = max(most, len(places))
    for done, here in enumerate(sorted(places.values(), key=len)):  # what small ones do not need goes to others
        count = min(len(here), left // (len(places) - done))
        chosen += [here[int((i + 0.5) * len(here) / count)] for i in range(count)]
        left -= count
    return [windows[index] for index in sorted(chosen)]
