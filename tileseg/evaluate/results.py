"""Scores put together: what the table, ``metrics.json`` and the report show."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tileseg.card import ClassInfo
from tileseg.evaluate import confusion as pixels
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import Matrix, Scores
from tileseg.evaluate.distances import Distances
from tileseg.evaluate.objects import THRESHOLDS, ObjectMatches
from tileseg.evaluate.scores import RankedWindow, SceneScores

PIXEL_SCORES: dict[str, Callable[[Matrix], Scores]] = {
    "iou": pixels.iou,
    "dice": pixels.dice,
    "precision": pixels.precision,
    "sensitivity": pixels.sensitivity,
    "specificity": pixels.specificity,
    "volume_error": pixels.volume_error,
}
"""What follows from the confusion matrix, by name."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of one or several scenes."""

    subject: Mapping[str, str]
    """What was compared: ``prediction`` or ``model``, ``truth`` or ``dataset``, ..."""
    classes: tuple[ClassInfo, ...]
    scenes: tuple[SceneScores, ...]
    notices: tuple[str, ...] = ()
    distances: bool = True
    """Whether distances were measured."""

    @functools.cached_property
    def total(self) -> SceneScores:
        """All scenes together: pixels, borders and polygons of all are pooled."""
        return functools.reduce(operator.add, self.scenes)

    @property
    def foreground(self) -> list[int]:
        """Ids of classes that are no background."""
        return [i for i, info in enumerate(self.classes) if not info.background]

    def by_class(self, scores: SceneScores | None = None) -> dict[str, Scores]:
        """Score name -> one value per class; NaN where there is none."""
        scores = scores or self.total
        found = {name: score(scores.matrix) for name, score in PIXEL_SCORES.items()}
        both, either = scores.band.T.astype(np.float64)
        found["boundary_iou"] = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
        if self.distances:
            found |= _distances(scores.pixels, "px")
            if scores.metres is not None:
                found |= _distances(scores.metres, "m")
        return found

    def means(self, scores: SceneScores | None = None, *, background: bool = True) -> dict[str, float]:
        """Score name -> mean over the classes that have it, with or without background."""
        wanted = list(range(len(self.classes))) if background else self.foreground
        return {name: pixels.mean(values[wanted]) for name, values in self.by_class(scores).items()}

    def to_json(self) -> dict[str, Any]:
        """JSON values; null where there is no score."""
        total = self.total
        return {
            name: _plain(value)
            for name, value in {
                "compared": dict(self.subject),
                "classes": [{"id": i, **info.model_dump()} for i, info in enumerate(self.classes)],
                **self._scores(total),
                "confusion": {"rows": "truth", "columns": "prediction", "pixels": total.matrix.tolist()},
                "calibration": None if total.calibration is None else self._calibration(total.calibration),
                "scenes": [{"name": scene.name, **self._scores(scene)} for scene in self.scenes],
                "windows": {"worst": [_window(w) for w in total.worst], "best": [_window(w) for w in total.best]},
                "notices": list(self.notices),
            }.items()
        }

    def _scores(self, scores: SceneScores) -> dict[str, Any]:
        table = self.by_class(scores)
        truth, predicted = scores.matrix.sum(axis=1), scores.matrix.sum(axis=0)
        return {
            "pixels": {
                "compared": int(scores.matrix.sum()),
                "without_truth": scores.unknown,
                "without_prediction": scores.missing,
            },
            "accuracy": pixels.accuracy(scores.matrix),
            "mean": self.means(scores),
            "mean_without_background": self.means(scores, background=False),
            "by_class": {
                info.name: {
                    **{name: float(values[i]) for name, values in table.items()},
                    "true_pixels": int(truth[i]),
                    "predicted_pixels": int(predicted[i]),
                }
                for i, info in enumerate(self.classes)
            },
            "boundary_width_px": scores.band_width,
            "scenes_with_one_border_only": {self.classes[i].name: n for i, n in enumerate(scores.without_border) if n},
            "polygons": {self.classes[i].name: _polygons(m) for i, m in scores.matchings.items()},
        }

    def _calibration(self, found: Calibration) -> dict[str, Any]:
        errors = found.expected_error
        probability, right = found.diagram
        rows = ["predicted_class", *(info.name for info in self.classes)]
        return {
            "expected_calibration_error": float(errors[0]),
            "by_class": {info.name: float(errors[1 + i]) for i, info in enumerate(self.classes)},
            "bins": {
                name: {
                    "pixels": found.counts[i].tolist(),
                    "mean_probability": probability[i].tolist(),
                    "share_right": right[i].tolist(),
                }
                for i, name in enumerate(rows)
            },
        }


def _distances(found: Sequence[Distances], unit: str) -> dict[str, Scores]:
    return {
        f"hausdorff_{unit}": np.array([d.hausdorff() for d in found]),
        f"hausdorff95_{unit}": np.array([d.hausdorff(95) for d in found]),
    }


def _polygons(found: ObjectMatches) -> dict[str, Any]:
    names = ("precision", "recall", "f1")
    return {
        "true": found.truths,
        "predicted": found.predictions,
        "matched": len(found.matched),
        f"at_iou_{THRESHOLDS[0]:g}": dict(zip(names, found.scores(), strict=True)),
        f"mean_over_iou_{THRESHOLDS[0]:g}_to_{THRESHOLDS[-1]:g}": dict(zip(names, found.mean_scores, strict=True)),
        "mean_iou": found.mean_iou,
        "mean_iou_of_matches": found.mean_iou_of_matches,
    }


def _window(ranked: RankedWindow) -> dict[str, Any]:
    window = ranked.window
    return {
        "scene": ranked.scene,
        "row_off": window.row_off,
        "col_off": window.col_off,
        "height": window.height,
        "width": window.width,
        "iou": ranked.iou,
        "wrong_pixels": ranked.wrong,
    }


def _plain(value: Any) -> Any:
    """The value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
