"""Which form of a network is computed, by which engine and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tileseg.card import EXACT_BY, Form, ModelCard
from tileseg.engine.kinds import ENGINES, engine_kind, how_to_get, no_engine
from tileseg.errors import InputError, UsageError
from tileseg.plan import Precision

LEAST_LOSS = 0.005
"""IoU that a form may lose against float32 to be taken without being asked for: half a point."""
_WHOLE_NUMBERS = frozenset({"avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""Instruction sets with which int8 is faster than float32: 1.7 to 2 times with AVX2 alone, more with the others."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a network is computed on, as far as the choice depends on it."""

    gpu: bool
    precision: Precision
    """The fastest for floating-point numbers that it has in hardware."""
    flags: frozenset[str]
    """Instruction sets of its processor, in the kernel's spelling."""

    def has(self, precision: Precision) -> bool:
        """Whether it computes in a precision at the speed that the registry states."""
        if precision == "int8":
            return not self.gpu and not self.flags.isdisjoint(_WHOLE_NUMBERS)
        return precision in ("float32", self.precision)


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes a run."""

    engine: str
    form: Form
    precision: Precision
    why: str
    """In the user's words."""


def choose(card: ModelCard, engine: str, precision: Precision | Literal["auto"], device: Device) -> Choice:
    """The fastest form, engine and precision of those that were asked for, or of all.

    What was not asked for is taken only where the device has it in hardware, its package is installed, and its form's
    recorded loss is at most :data:`LEAST_LOSS`. The network itself is always good enough.

    Raises:
        UsageError: In one line with the remedy, if what was asked for is not to be had.
        InputError: If no engine computes any file of the model.
    """
    if engine != "auto":
        _check(engine, device)
    known = [c for c in _candidates(card, device) if engine == c.engine or not ENGINES[c.engine].only_asked]
    if not known:
        raise InputError(f"model {card.name}, {_files(card)}: {no_engine()}")
    asked = [c for c in known if engine in ("auto", c.engine) and precision in ("auto", c.precision)]
    if not asked:
        raise UsageError(_not_there(card, engine, precision, known))
    there = [c for c in asked if not ENGINES[c.engine].missing]
    if not there:
        raise UsageError(f"model {card.name}: {how_to_get(asked[0].engine)}")
    taken = [c for c in there if c.exact] or there
    good = [c for c in taken if c.good or precision == "int8"]
    quick = [c for c in good if device.has(c.precision) or precision != "auto"]
    on_gpu = [c for c in quick if c.gpu]
    for better in (good, quick, on_gpu):
        taken = better or taken
    best = max(taken, key=lambda c: c.speed)  # the first of equals
    return Choice(best.engine, best.form, best.precision, _why(best, engine, precision, len(taken)))


@dataclass(frozen=True, slots=True)
class _Candidate:
    engine: str
    form: Form
    precision: Precision
    speed: float
    itself: bool
    """Whether it is the network itself, not a form that was made from it."""
    gpu: bool
    """Whether a GPU computes it."""

    @property
    def exact(self) -> bool:
        """Whether nothing is known that keeps tiles from equalling the whole."""
        known = self.form.calibration.get(EXACT_BY)
        return not isinstance(known, list) or self.engine in known

    @property
    def good(self) -> bool:
        return self.itself or self.form.precision == "float32" or self.little_lost

    @property
    def little_lost(self) -> bool:
        return self.form.loss is not None and self.form.loss.iou <= LEAST_LOSS


def _check(engine: str, device: Device) -> None:
    """Raise UsageError where an engine is not known, or computes nothing here for want of a package or a GPU."""
    kind = engine_kind(engine)
    if kind.float32 or kind.int8:
        return
    if kind.missing:
        raise UsageError(how_to_get(engine))
    if not device.gpu:
        raise UsageError(
            f"--engine {engine}: needs an NVIDIA GPU, and tileseg sees none here (tileseg doctor says why); "
            f"expected auto, {', '.join(name for name, each in ENGINES.items() if each.float32)}"
        )


def _candidates(card: ModelCard, device: Device) -> Iterator[_Candidate]:
    for form in card.forms:
        for name, kind in ENGINES.items():
            if form.suffix not in kind.suffixes:
                continue
            on_gpu = device.gpu and form.precision != "int8" and kind.on_gpu()
            speeds = kind.int8 if form.precision == "int8" else kind.gpu if on_gpu else kind.float32
            for precision, speed in speeds.items():
                yield _Candidate(name, form, precision, speed, form == card.forms[0], on_gpu)


def _why(best: _Candidate, engine: str, precision: str, among: int) -> str:
    if engine != "auto" and precision != "auto":
        return "as asked for"
    loss = best.form.loss
    lost = "" if loss is None else f"; it {loss.told} ({loss.data})"
    if engine != "auto" or precision != "auto":
        return f"the fastest here of what was asked for{lost}"
    return f"{'the fastest here' if among > 1 else 'what the model has'}{lost}"


def _files(card: ModelCard) -> str:
    return " and ".join(form.file for form in card.forms)


def _not_there(card: ModelCard, engine: str, precision: str, known: list[_Candidate]) -> str:
    """What is said where the model has no form for an engine or a precision."""
    options = " ".join(f"--{n} {v}" for n, v in (("engine", engine), ("precision", precision)) if v != "auto")
    had = dict.fromkeys(f"{c.engine} in {c.precision}" for c in known)
    remedy = ""
    if precision == "int8":
        remedy = "; make an int8 form: tileseg model quantize MODEL --with SCENES"
    elif engine != "auto" and all(c.engine != engine for c in known):
        remedy = f"; {engine} computes {' and '.join(f'model{suffix}' for suffix in ENGINES[engine].suffixes)}"
    return f"{options}: model {card.name} has {_files(card)}; expected auto, or {', '.join(had)}{remedy}"
