"""What training minimises: terms by name, and weighted sums of them, as in ``0.5*ce+1.0*dice``.

Reading the text needs no Keras; the arithmetic is in ``terms.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tileseg.errors import UsageError

TermName = Literal["ce", "dice", "focal", "tversky", "boundary"]
TERMS: tuple[TermName, ...] = get_args(TermName)

_TERM = re.compile(r"\s*(?:(?P<weight>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*\*\s*)?(?P<name>[a-z_]+)\s*")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Loss:
    """A weighted sum of terms: called with labels and logits, it gives what training minimises.

    Labels are (n, y, x) integers: class ids, or 255 where nothing is known; such pixels change neither the loss nor
    any gradient. Logits are (n, y, x, class) of any float type, or (n, y, x, 1) for two classes: the logit of the
    second. The arithmetic is float32. Every term is a mean or a share, so that the size of the batch does not matter;
    where nothing at all is known, the loss and its gradients are 0.
    """

    terms: tuple[tuple[float, TermName], ...]
    """Weight and name, in the order of the text."""
    classes: int
    background: int | None = 0
    """The class that Tversky and boundary terms leave out, for there its mistakes are those of the others turned round;
    ``None``: no class is background, and all count."""
    class_weights: tuple[float, ...] | None = None
    """Cross-entropy, and focal where there is no ``focal_alpha``: how much a pixel of each class counts."""
    label_smoothing: float = 0.0
    """Cross-entropy: the share of certainty that is spread evenly over the classes."""
    focal_alpha: tuple[float, ...] | None = None
    """Focal: how much a pixel of each class counts."""
    focal_gamma: float = 2.0
    """Focal: 0 is cross-entropy; the higher, the less do pixels count that are right already."""
    tversky_beta: float = 0.7
    """Tversky: weight of false negatives; that of false positives is 1 - beta. At 0.5 it is Dice."""

    def __call__(self, labels: Any, logits: Any) -> Any:
        """Return a float32 scalar; see the class for what goes in."""
        values = self.each(labels, logits)
        return sum(weight * values[name] for weight, name in self.terms)

    def each(self, labels: Any, logits: Any) -> dict[str, Any]:
        """The terms by name, float32 scalars without their weights."""
        from tileseg.train import terms

        known = terms.prepare(labels, logits, self.classes)
        foreground = tuple(k for k in range(self.classes) if k != self.background)
        made = {
            "ce": lambda: terms.cross_entropy(known, self.class_weights, self.label_smoothing),
            "dice": lambda: terms.tversky(known, tuple(range(self.classes)), 0.5),
            "focal": lambda: terms.focal(known, self.focal_alpha or self.class_weights, self.focal_gamma),
            "tversky": lambda: terms.tversky(known, foreground, self.tversky_beta),
            "boundary": lambda: terms.boundary(known, foreground),
        }
        return {name: made[name]() for _, name in self.terms}

    def __str__(self) -> str:
        """The text that it was made from, in full."""
        return "+".join(f"{weight:g}*{name}" for weight, name in self.terms)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class DistilledLoss:
    """What a student minimises: ``(1 - alpha) * ordinary + alpha * distillation``.

    Called with a :class:`tileseg.train.teacher.Lesson` in place of the labels, and the student's logits.
    """

    ordinary: Loss
    """Of the labels; where none is known, it is 0."""
    alpha: float
    """Share of the distillation."""
    temperature: float
    """What both logits are divided by before they are compared."""

    def __call__(self, lesson: Any, logits: Any) -> Any:
        """Return a float32 scalar."""
        from tileseg.train import terms

        labels, teacher, counted = lesson
        distilled = terms.distillation(counted, teacher, logits, self.temperature)
        return (1 - self.alpha) * self.ordinary(labels, logits) + self.alpha * distilled


def parse_loss(  # noqa: PLR0913 - one keyword per option of a training run
    text: str,
    *,
    classes: int,
    background: int | None = 0,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    focal_alpha: float | Sequence[float] | None = None,
    focal_gamma: float = 2.0,
    tversky_beta: float = 0.7,
) -> Loss:
    """Make the loss that a text names: ``ce``, ``ce+dice``, ``0.5*ce+1.0*dice``; terms: see ``TERMS``.

    A single ``focal_alpha`` is the weight of all classes but the background, which gets the rest to 1 (Lin et al.).
    ``UsageError`` says what is wrong with the text or an option.
    """
    if not 2 <= classes <= 255:
        raise UsageError(f"a loss needs 2 to 255 classes, not {classes}")
    if background is not None and not 0 <= background < classes:
        raise UsageError(f"background class {background}: class ids are 0 to {classes - 1}")
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label smoothing {label_smoothing:g}: must be at least 0 and less than 1")
    if not 0 <= focal_gamma < math.inf:
        raise UsageError(f"focal gamma {focal_gamma:g}: must be 0 or more")
    if not 0 <= tversky_beta <= 1:
        raise UsageError(f"Tversky beta {tversky_beta:g}: must be between 0 and 1")
    if isinstance(focal_alpha, int | float):
        if not 0 <= focal_alpha <= 1:
            raise UsageError(f"focal alpha {focal_alpha:g}: must be between 0 and 1, or one weight per class")
        focal_alpha = [1 - focal_alpha if k == background else focal_alpha for k in range(classes)]
    return Loss(
        terms=parse_terms(text),
        classes=classes,
        background=background,
        class_weights=_per_class("class weights", class_weights, classes),
        label_smoothing=label_smoothing,
        focal_alpha=_per_class("focal alpha", focal_alpha, classes),
        focal_gamma=focal_gamma,
        tversky_beta=tversky_beta,
    )


OPTIONS: dict[str, tuple[TermName, ...]] = {
    "class_weights": ("ce", "focal"),
    "label_smoothing": ("ce",),
    "focal_alpha": ("focal",),
    "focal_gamma": ("focal",),
    "tversky_beta": ("tversky",),
}
"""Which terms an option changes."""


def refuse_idle_options(text: str, given: Collection[str]) -> None:
    """Raise UsageError for the first option (of ``OPTIONS``) that would change nothing in the loss of this text."""
    terms = {name for _, name in parse_terms(text)}
    for option in given:
        served = OPTIONS[option]
        if not terms.intersection(served):
            raise UsageError(
                f"--{option.replace('_', '-')}: changes nothing in the loss {text}; it is for {' and '.join(served)}: "
                "add such a term to --loss, or leave it out"
            )
    if {"class_weights", "focal_alpha"} <= {*given} and "ce" not in terms:
        raise UsageError("--class-weights and --focal-alpha: both weigh the focal loss; give one of them")


def parse_terms(text: str) -> tuple[tuple[float, TermName], ...]:
    """``0.5*ce+dice`` is ``((0.5, "ce"), (1.0, "dice"))``; ``UsageError`` where it is no such sum."""
    found: list[tuple[float, TermName]] = []
    at = 0
    while True:
        match = _TERM.match(text, at)
        if match is None:
            raise UsageError(f"loss {text!r}: expected a term such as ce or 0.5*dice at {text[at:]!r}")
        name, weight = match["name"], float(match["weight"] or 1)
        term = next((known for known in TERMS if known == name), None)
        if term is None:
            raise UsageError(f"loss {text!r}: no term is called {name!r}; there are {', '.join(TERMS)}")
        if not 0 < weight < math.inf:
            raise UsageError(f"loss {text!r}: the weight of {name} must be more than 0 and finite")
        if any(name == other for _, other in found):
            raise UsageError(f"loss {text!r}: {name} is there twice; give it one weight")
        found.append((weight, term))
        at = match.end()
        if at == len(text):
            return tuple(found)
        if text[at] != "+":
            raise UsageError(f"loss {text!r}: expected a + between terms at {text[at:]!r}")
        at += 1


def _per_class(what: str, values: Sequence[float] | None, classes: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != classes:
        raise UsageError(f"{what}: {len(values)} values for {classes} classes")
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise UsageError(f"{what} {', '.join(f'{value:g}' for value in values)}: must be 0 or more, and not all 0")
    return tuple(float(value) for value in values)
