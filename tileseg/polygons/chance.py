"""How likely a polygon is a real object: logistic regression on what is known of it where it is written."""

from __future__ import annotations

import numpy as np

from tileseg.polygons.rings import Array

FEATURES = ("one", "log_area", "log_area_squared", "logit_probability", "touches_edge")
"""What the weights of a chance are for, in order."""

_SURE = 1e-4
"""Probabilities are given with four decimals, so none is nearer to 0 or 1 than this."""


def features_of(area: Array, probability: Array, touches_edge: Array) -> Array:
    """(P, 5) of polygons: see FEATURES.

    ``area``: (P,) square metres; ``probability``: (P,) mean over the polygon's pixels; ``touches_edge``: (P,) bool.
    """
    logs = np.log(np.maximum(np.asarray(area, np.float64), 1e-3))
    sure = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.column_stack([np.ones(len(logs)), logs, logs**2, np.log(sure / (1 - sure)), np.asarray(touches_edge)])


def chance_of(features: Array, weights: Array) -> Array:
    """(P,) chance from 0 to 1; ``weights``: (5,)."""
    return np.asarray(1 / (1 + np.exp(-np.clip(features @ weights, -50, 50))))
