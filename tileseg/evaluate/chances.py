"""How likely a polygon matches a true object, learned from polygons of which that is known, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tileseg.card import ClassInfo, MatchChance, PlaceCalibration
from tileseg.errors import InputError
from tileseg.evaluate.objects import Floats
from tileseg.evaluate.scores import SceneScores
from tileseg.nn.folder import load_card, save_card
from tileseg.polygons.chance import chance_of

BINS = 10
"""Of equal width, for the calibration error of objects: there are fewer than of pixels."""
FEWEST = 50
"""Polygons of a class at least, and tenth of them that match and that do not: fewer say nothing."""
_RIDGE = 1e-3
"""Of the squares of weights of features with deviation 1, beside the mean loss: what never varies stays at 0."""


@dataclass(frozen=True, slots=True)
class JudgedObjects:
    """Delivered polygons of one class in one place."""

    place: str
    features: Floats
    """(n, features) as :func:`tileseg.polygons.chance.features_of` gives them."""
    matched: Floats
    """(n,) 1 where a true polygon has an IoU of 0.5 or more with it, else 0."""


def set_chances(folder: Path, places: Sequence[SceneScores], classes: Sequence[ClassInfo]) -> dict[str, MatchChance]:
    """Learn the chances of a model's polygons in places, and write them into its card, by class.

    Raises InputError where there are too few polygons of every class.
    """
    found = {}
    for label, info in enumerate(classes):
        judged = [
            JudgedObjects(place.name, match.features, match.hits)
            for place in places
            if (match := place.matchings.get(label)) is not None and len(match.hits)
        ]
        if enough(judged):
            found[info.name] = learn(judged)
    if not found:
        raise InputError(
            f"{folder}: no class has {FEWEST} polygons with a known area in square metres, of which some match a true "
            "one at IoU 0.5 and some do not, so there is nothing to learn their confidence from"
        )
    save_card(load_card(folder).model_copy(update={"objects": found}), folder)
    return found


def enough(judged: Sequence[JudgedObjects]) -> bool:
    """Whether anything can be learned from these polygons."""
    count, hits = sum(len(one.matched) for one in judged), sum(one.matched.sum() for one in judged)
    return count >= FEWEST and min(hits, count - hits) >= FEWEST / 10


def learn(judged: Sequence[JudgedObjects]) -> MatchChance:
    """The chance, and how far it is off in each place when it is learned in the others."""
    places = []
    for one in judged:
        others = [other for other in judged if other is not one]
        weights = fit(others if enough(others) else judged)
        places.append(
            PlaceCalibration(
                place=one.place,
                count=len(one.matched),
                # Without it, all that is known of a polygon is its mean probability.
                ece_before=round(error(_probability(one.features), one.matched), 5),
                ece_after=round(error(chance_of(one.features, weights), one.matched), 5),
            )
        )
    total = sum(len(one.matched) for one in judged)
    return MatchChance(
        weights=tuple(round(float(weight), 6) for weight in fit(judged)),
        data=f"{total:,} polygons of {', '.join(one.place for one in judged)}",
        places=tuple(places),
    )


def fit(judged: Sequence[JudgedObjects]) -> Floats:
    """(features,) weights of the logistic regression in which every place counts alike."""
    from scipy.optimize import minimize
    from scipy.special import expit

    features, matched = (np.concatenate(part) for part in ([j.features for j in judged], [j.matched for j in judged]))
    share = np.concatenate([np.full(len(j.matched), 1 / (len(j.matched) * len(judged))) for j in judged])
    middle, spread = features.mean(axis=0), features.std(axis=0)
    middle[0], spread[spread == 0] = 0, 1
    scaled = (features - middle) / spread
    held = np.ones(scaled.shape[1])
    held[0] = 0  # the share that matches overall is not held back

    def loss(weights: Floats) -> tuple[float, Floats]:
        line = scaled @ weights
        value = share @ (np.logaddexp(0, line) - matched * line) + _RIDGE * (held * weights) @ weights
        slope = scaled.T @ (share * (expit(line) - matched)) + 2 * _RIDGE * held * weights
        return float(value), slope

    found = minimize(loss, np.zeros(scaled.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    weights: Floats = found / spread
    weights[0] = found[0] - float(weights[1:] @ middle[1:])
    return weights


def error(chance: Floats, matched: Floats) -> float:
    """Expected calibration error of objects: mean over them of |share that match - mean chance| of their bin."""
    place = np.clip(np.ceil(chance * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap = np.bincount(place, weights=matched, minlength=BINS) - np.bincount(place, weights=chance, minlength=BINS)
    return float(np.abs(gap).sum() / len(matched))


def _probability(features: Floats) -> Floats:
    """The mean probability that features were made of."""
    return np.asarray(1 / (1 + np.exp(-features[:, 3])))
