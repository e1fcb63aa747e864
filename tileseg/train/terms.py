"""The terms of losses, on the device: scalars from labels and logits, by Keras' operations, in float32.

Logits in float64 are left so, for checks of gradients; those of fewer bits are widened first.

All of them are 0, with gradients of 0, where no pixel is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tileseg.labels import NODATA
from tileseg.nn.backend import keras

ops = keras.ops

_SMOOTH = 0.5
"""Pixels added above and below: a class of a few pixels cannot swing its share from 0 to 1."""

_EDGE = 3
"""Side of the neighbourhood that makes a pixel inner edge: it has another class next to it."""

_TOLERANCE = 5
"""Side of the neighbourhood within which an edge counts as found: two pixels off is near enough."""


@dataclass(frozen=True, slots=True)
class KnownPixels:
    """Labels and logits of one batch, made ready for all terms: unknown pixels are neutral everywhere."""

    mask: Any
    """(n, y, x) float: 1 where the label is known."""
    truth: Any
    """(n, y, x, class) float: 1 for the label's class; all 0 where unknown."""
    log_probability: Any
    """(n, y, x, class) float; its gradient is exactly 0 where unknown, whatever the logits are there."""


def prepare(labels: Any, logits: Any, classes: int, temperature: float = 1.0) -> KnownPixels:
    """Labels (n, y, x), integers with 255 for unknown; logits (n, y, x, class), or one channel for two classes.

    Logits are divided by the ``temperature``.
    """
    channels = logits.shape[-1]
    if channels != classes and (channels, classes) != (1, 2):
        raise ValueError(f"logits have {channels} channels for {classes} classes")
    dtype = "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else "float32"
    labels = ops.cast(labels, "int32")
    known = labels != NODATA
    # Chosen, not multiplied: 0 times an infinite logit would be NaN, and so would its gradient.
    z = ops.where(known[..., None], ops.cast(logits, dtype), ops.zeros((), dtype))
    if channels == 1 and classes == 2:
        z = ops.concatenate([ops.zeros_like(z), z], axis=-1)  # the softmax of (0, z) is the sigmoid of z
    z = z if temperature == 1 else z / temperature
    mask = ops.cast(known, dtype)
    truth = ops.one_hot(ops.where(known, labels, 0), classes, dtype=dtype) * mask[..., None]
    return KnownPixels(mask, truth, ops.log_softmax(z, axis=-1))


def cross_entropy(known: KnownPixels, weights: Sequence[float] | None, smoothing: float) -> Any:
    """Mean of -log p over known pixels, weighted by class: Σ w log p / Σ w, as PyTorch's ``CrossEntropyLoss`` has it.

    With ``smoothing`` s a pixel's target is 1 - s for its class plus s / classes for each (Szegedy et al. 2016,
    section 7), and class weights apply to the classes of the target.
    """
    classes = known.truth.shape[-1]
    target = known.truth * (1 - smoothing) + known.mask[..., None] * (smoothing / classes)
    if weights is None:
        return _share(-ops.sum(target * known.log_probability), ops.sum(known.mask))
    weight = ops.convert_to_tensor(weights, known.truth.dtype)
    return _share(-ops.sum(weight * target * known.log_probability), ops.sum(weight * known.truth))


def focal(known: KnownPixels, alpha: Sequence[float] | None, gamma: float) -> Any:
    """Mean of -alpha (1 - p)^gamma log p over known pixels (Lin et al. 2017, equation 5, with the softmax's p)."""
    log_p = ops.sum(known.truth * known.log_probability, axis=-1)
    cost = -log_p
    if gamma > 0:
        # Kept off 0, where the gradient of a power below 1 is infinite.
        cost = cost * ops.maximum(1 - ops.exp(log_p), 1e-7) ** gamma
    if alpha is not None:
        cost = cost * ops.sum(known.truth * ops.convert_to_tensor(alpha, known.truth.dtype), axis=-1)
    return _share(ops.sum(cost * known.mask), ops.sum(known.mask))


def tversky(known: KnownPixels, counted: Sequence[int], beta: float) -> Any:
    """1 - TP / (TP + (1 - beta) FP + beta FN), probabilities for counts (Salehi et al. 2017); at 1/2 it is Dice.

    Counts are those of the whole batch, as in nnU-Net, so that one patch with a corner of a class does not decide;
    the result is the mean over those ``counted`` classes that the batch has.
    """
    probability = _chosen(ops.exp(known.log_probability), counted) * known.mask[..., None]
    truth = _chosen(known.truth, counted)
    hits = ops.sum(probability * truth, axis=(0, 1, 2))
    missed = ops.sum(truth, axis=(0, 1, 2)) - hits
    wrong = ops.sum(probability, axis=(0, 1, 2)) - hits
    loss = 1 - (hits + _SMOOTH) / (hits + (1 - beta) * wrong + beta * missed + _SMOOTH)
    present = ops.cast(ops.any(truth > 0, axis=(0, 1, 2)), truth.dtype)
    return _share(ops.sum(loss * present), ops.sum(present))


def boundary(known: KnownPixels, counted: Sequence[int]) -> Any:
    """1 - F1 of boundaries found within two pixels, with probabilities for masks (Bokhovkin and Burnaev 2019).

    Where known and unknown pixels meet is no boundary. Counts are those of the whole batch, and the result is the mean
    over those ``counted`` classes that have a boundary in it.
    """
    mask = known.mask[..., None]
    found = _edge(_chosen(ops.exp(known.log_probability), counted), mask)
    true = _edge(_chosen(known.truth, counted), mask)
    over = (0, 1, 2)
    all_found, all_true = ops.sum(found, axis=over), ops.sum(true, axis=over)
    precision = (ops.sum(found * _dilated(true, _TOLERANCE), axis=over) + _SMOOTH) / (all_found + _SMOOTH)
    recall = (ops.sum(true * _dilated(found, _TOLERANCE), axis=over) + _SMOOTH) / (all_true + _SMOOTH)
    loss = 1 - 2 * precision * recall / (precision + recall)
    present = ops.cast(all_true > 0, true.dtype)
    return _share(ops.sum(loss * present), ops.sum(present))


def distillation(counted: Any, teacher: Any, logits: Any, temperature: float) -> Any:
    """Mean over counted pixels of KL(teacher || student) at a temperature, times its square (Hinton et al. 2015).

    So it keeps the size of its gradients whatever the temperature. ``counted`` (n, y, x) booleans; ``teacher``
    (n, y, x, class) logits, through which no gradient goes; ``logits`` the student's, as :func:`prepare` takes them.
    """
    classes = teacher.shape[-1]
    counted = ops.cast(counted, "bool")
    student = prepare(ops.where(counted, 0, NODATA), logits, classes, temperature)
    z = ops.where(counted[..., None], ops.cast(teacher, student.mask.dtype), ops.zeros((), student.mask.dtype))
    target = ops.log_softmax(z / temperature, axis=-1)
    divergence = ops.sum(ops.exp(target) * (target - student.log_probability), axis=-1)
    return temperature**2 * _share(ops.sum(divergence * student.mask), ops.sum(student.mask))


def _edge(inside: Any, mask: Any) -> Any:
    """(n, y, x, k): how much a pixel is of a class and has another class next to it."""
    outside = (1 - inside) * mask
    return (_dilated(outside, _EDGE) - outside) * mask


def _dilated(values: Any, side: int) -> Any:
    return ops.max_pool(values, side, strides=1, padding="same")


def _chosen(values: Any, counted: Sequence[int]) -> Any:
    """The channels ``counted``; all of them need no copy."""
    return values if len(counted) == values.shape[-1] else ops.take(values, list(counted), axis=-1)


def _share(part: Any, whole: Any) -> Any:
    """``part / whole``, and 0 with gradients of 0 where the whole is 0."""
    some = whole > 0
    return ops.where(some, part, ops.zeros_like(part)) / ops.where(some, whole, ops.ones_like(whole))
