"""Scores put together: what the table, ``metrics.json`` and the report show."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tileseg.card import ClassInfo, MatchChance, Temperature
from tileseg.evaluate import confusion as pixels
from tileseg.evaluate.calibration import Calibration
from tileseg.evaluate.confusion import Matrix, Scores
from tileseg.evaluate.distances import Distances
from tileseg.evaluate.objects import THRESHOLDS, ObjectMatches
from tileseg.evaluate.outlines import Outlines
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

_SHARES = ("precision", "recall", "f1")
"""Scores of matched polygons at one IoU."""


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
    temperature: Temperature | None = None
    """That which the model's card has got; the scores are those from before."""
    objects: Mapping[str, MatchChance] = field(default_factory=dict)
    """How likely polygons of a class are real objects, where the model's card has got that."""

    @functools.cached_property
    def total(self) -> SceneScores:
        """All scenes together: pixels, borders and polygons of all are pooled."""
        return functools.reduce(operator.add, self.scenes)

    @functools.cached_property
    def places(self) -> tuple[SceneScores, ...]:
        """The scenes of each place together, under its name; a place of which some are drawn and others not is two."""
        found: dict[tuple[str, bool], SceneScores] = {}
        for scene in self.scenes:
            key = (scene.place, scene.drawn)
            found[key] = found[key] + scene if key in found else scene
        return tuple(
            replace(scores, name=f"{name} (drawn)" if drawn and (name, False) in found else name)
            for (name, drawn), scores in found.items()
        )

    @property
    def places_by_kind(self) -> dict[str, tuple[SceneScores, ...]]:
        """``real`` and ``drawn`` places, as far as there are any; scores of one kind say nothing of the other."""
        kinds = {
            kind: tuple(place for place in self.places if place.drawn == drawn)
            for kind, drawn in (("real", False), ("drawn", True))
        }
        return {kind: places for kind, places in kinds.items() if places}

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

    def summary(self, scores: SceneScores) -> dict[str, float]:
        """A few numbers that tell most of one place: means over the classes that are no background."""
        means = self.means(scores, background=False)
        objects = mean_of([shares_of(found) for found in scores.matchings.values()])
        return {name: means[name] for name in ("iou", "precision", "sensitivity", "boundary_iou")} | objects

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
                "temperature": None if self.temperature is None else self.temperature.model_dump(mode="json"),
                "objects": {name: chance.model_dump(mode="json") for name, chance in self.objects.items()},
                "mean_over_places": {kind: self._mean_over(places) for kind, places in self.places_by_kind.items()},
                "places": [
                    {
                        "name": place.name,
                        "drawn": place.drawn,
                        "scenes": [s.name for s in self.scenes if (s.place, s.drawn) == (place.place, place.drawn)],
                        **self._scores(place),
                    }
                    for place in self.places
                ],
                "scenes": [
                    {"name": scene.name, "place": scene.place, "drawn": scene.drawn, **self._scores(scene)}
                    for scene in self.scenes
                ],
                "windows": {"worst": [_window(w) for w in total.worst], "best": [_window(w) for w in total.best]},
                "notices": list(self.notices),
            }.items()
        }

    def _mean_over(self, places: Sequence[SceneScores]) -> dict[str, Any]:
        """Scores as means over places, of which each counts alike; those that a place does not have are left out."""
        tables = [self.by_class(place) for place in places]
        return {
            "places": len(places),
            "mean": mean_of([self.means(place) for place in places]),
            "mean_without_background": mean_of([self.means(place, background=False) for place in places]),
            "by_class": {
                info.name: mean_of([{name: float(values[i]) for name, values in table.items()} for table in tables])
                for i, info in enumerate(self.classes)
            },
            "polygons": {
                self.classes[label].name: mean_of([shares_of(place.matchings[label]) for place in places])
                for label in places[0].matchings
            },
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
            "expected_calibration_error": (
                None if scores.calibration is None else float(scores.calibration.expected_error[0])
            ),
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


def mean_of(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the tables that have it (NaN: they have not)."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: pixels.mean(np.array([table.get(name, math.nan) for table in tables])) for name in names}


def _distances(found: Sequence[Distances], unit: str) -> dict[str, Scores]:
    return {
        f"hausdorff_{unit}": np.array([d.hausdorff() for d in found]),
        f"hausdorff95_{unit}": np.array([d.hausdorff(95) for d in found]),
    }


def shares_of(found: ObjectMatches) -> dict[str, float]:
    """What of matched polygons can be averaged, over classes or places."""
    names = (f"{name}_at_iou_{THRESHOLDS[0]:g}" for name in _SHARES)
    return {
        **dict(zip(names, found.scores(), strict=True)),
        "mean_iou": found.mean_iou,
        "mean_iou_of_matches": found.mean_iou_of_matches,
        "split_share": found.split_share,
        "merged_share": found.merged_share,
        "median_vertices": found.predicted_outlines.median_vertices,
        "right_angles": found.predicted_outlines.share_right,
    }


def _polygons(found: ObjectMatches) -> dict[str, Any]:
    return {
        "true": found.truths,
        "predicted": found.predictions,
        "matched": len(found.matched),
        f"at_iou_{THRESHOLDS[0]:g}": dict(zip(_SHARES, found.scores(), strict=True)),
        f"mean_over_iou_{THRESHOLDS[0]:g}_to_{THRESHOLDS[-1]:g}": dict(zip(_SHARES, found.mean_scores, strict=True)),
        "mean_iou": found.mean_iou,
        "mean_iou_of_matches": found.mean_iou_of_matches,
        "split": found.split,
        "merged": found.merged,
        "true_in_merged": found.in_merged,
        "outlines": {"true": _outlines(found.true_outlines), "predicted": _outlines(found.predicted_outlines)},
    }


def _outlines(found: Outlines) -> dict[str, Any]:
    return {"median_vertices": found.median_vertices, "corners": found.corners, "right_angles": found.share_right}


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
