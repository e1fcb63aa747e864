"""What a training prints at its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tileseg.card import ClassInfo
from tileseg.cli.train import _print, _print_folds
from tileseg.train.checkpoint import Progress
from tileseg.train.folds import FoldsReport, PlaceRow
from tileseg.train.trainer import TrainReport
from tileseg.train.validation import SceneScore, Score

CLASSES = (ClassInfo(name="ground", color="#c8b48c", background=True), ClassInfo(name="house", color="#d73027"))


def test_each_place_has_a_row_whatever_its_name(capsys) -> None:
    scenes = (
        SceneScore("a", "hill[bold]", drawn=False, matrix=np.array([[100, 3], [4, 53]])),
        SceneScore("b", "coast", drawn=False, matrix=np.array([[90, 0], [5, 15]])),
    )
    _print(TrainReport(Path("m"), Progress(step=4, seconds=3), Score(scenes, CLASSES)))
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["IoU in hill[bold]", f"ground {100 / 107:.4f}, house {53 / 60:.4f}"] in rows
    assert ["IoU in coast", f"ground {90 / 95:.4f}, house {15 / 20:.4f}"] in rows


def test_folds_are_a_row_for_each_place_and_their_mean(capsys) -> None:
    rows = (
        PlaceRow("north", "hill[bold]", {"ground": 0.9, "house": 0.5}, 3),
        PlaceRow("south", "coast", {"ground": 0.8, "house": 0.25}, 4),
        PlaceRow("south", "desert", {"ground": 1.0}, 4),
    )
    _print_folds(FoldsReport(Path("m"), CLASSES, rows))
    said = capsys.readouterr().out
    assert "hill[bold]" in said
    (mean,) = (line for line in said.splitlines() if "mean of 3 places" in line)
    assert f"{(0.5 + 0.25) / 2:.4f}" in mean, "a place without any house, true or found, says nothing of houses"
