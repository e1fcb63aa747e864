"""An int8 form of a model: calibrated on windows of real scenes, and measured on others."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tileseg.card import Form, Loss, ModelCard
from tileseg.cluster import hardware
from tileseg.engine.choice import LEAST_LOSS
from tileseg.engine.protocol import Network
from tileseg.errors import InputError, UsageError
from tileseg.export.int8 import METHODS, TARGETS, Calibration, Int8, To
from tileseg.export.loss import Labeller, SceneLoss, compare, pooled
from tileseg.export.scenes import Seen, SeenScene, open_scenes
from tileseg.export.windows import Places, choose
from tileseg.labels import Labels
from tileseg.nn.folder import add_form, load_card, resolve_model
from tileseg.storage.digest import file_sha256

if TYPE_CHECKING:
    from pydantic import JsonValue

FILE = TARGETS["onnx"].file
HELD_OUT = 96
"""Windows that the loss is measured on, where there are so many."""
_MOST_NAMED = 8
"""Scenes that a card names."""


@dataclass(frozen=True, slots=True)
class QuantiseSpec:
    """What is quantised, and on what."""

    model: str
    """``embedded`` or a model folder."""
    scenes: tuple[str, ...]
    """Rasters, folders, patterns and lists, or one dataset."""
    to: To = "onnx"
    """The format of the form."""
    calibration: Calibration | Literal["auto"] = "auto"
    """How ranges are found; ``auto``: by the way that loses least."""
    windows: int = 32
    """Windows to calibrate with."""
    seed: int = 0
    out: Path | None = None
    """A new folder for the model with its forms; None: the form is added to the model's own folder."""
    overwrite: bool = False
    """Whether an int8 form that is there already is replaced."""
    trust_vrt: bool = False

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise UsageError(f"--windows {self.windows}: expected 1 or more")
        known = TARGETS[self.to].methods
        if self.calibration not in ("auto", *known):
            raise UsageError(f"--calibration {self.calibration}: {self.to} finds ranges by {' or '.join(known)} alone")

    @property
    def file(self) -> str:
        """Name of the form."""
        return TARGETS[self.to].file

    @property
    def partial(self) -> str:
        """Its name while it is written."""
        return f".partial-{self.file}"


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A form that was made."""

    folder: Path
    form: Form
    scenes: tuple[SceneLoss, ...]
    """What it loses, scene by scene."""

    def to_json(self) -> dict[str, Any]:
        """Numbers for a script."""
        return {
            "folder": str(self.folder),
            "form": self.form.model_dump(mode="json"),
            "scenes": [
                {
                    "scene": scene.name,
                    "against": "labels" if scene.truth else "float32",
                    "iou_float32": _number(scene.score(scene.first)),
                    "iou_int8": _number(scene.score(scene.second)),
                    "labels": scene.differ / max(1, scene.pixels),
                    "ece_float32": _number(scene.first.calibration_error) if scene.truth else None,
                    "ece_int8": _number(scene.second.calibration_error) if scene.truth else None,
                }
                for scene in self.scenes
            ],
        }


def quantise(spec: QuantiseSpec) -> Quantised:
    """Add a form in int8 to a model, with what it was calibrated on and what it loses.

    Where ``model.int8.onnx`` is wanted, a model without ``model.onnx`` gets that first. Nothing is left half-written.

    Raises:
        InputError: If model or scenes cannot be used, or the network cannot be quantised.
        UsageError: If the form is there already, or the folder cannot be written.
    """
    source = resolve_model(spec.model)
    card = load_card(source)
    _check_target(spec, source, card)
    scenes = open_scenes(spec.scenes, card, trust_vrt=spec.trust_vrt)
    with _workplace(spec, source) as folder:
        form, losses = _made(spec, scenes, card, folder)
        add_form(folder, folder / spec.partial, form)
    return Quantised(spec.out or source, form, tuple(losses))


def _made(
    spec: QuantiseSpec, scenes: Sequence[SeenScene], card: ModelCard, folder: Path
) -> tuple[Form, list[SceneLoss]]:
    """Write the form's file beside the others, under a name of its own, and measure it."""
    float32, quantised = TARGETS[spec.to].open(folder, card, hardware.cpu().cores)
    labellers: dict[int, Labeller] = {}

    def labeller(side: int) -> Labeller:
        if side not in labellers:
            labellers[side] = Labeller(float32, side)
        return labellers[side]

    def labels_of(scene: SeenScene, seen: Seen) -> Labels:
        if scene.truth is not None:
            return seen.labels
        return labeller(len(seen.image)).labels(seen.image, seen.valid)

    counts = (spec.windows, HELD_OUT)
    places = choose(scenes, labels_of, classes=len(card.classes), stride=card.stride, counts=counts, seed=spec.seed)
    images = [place.scene.read(place.window, places.side).image for place in places.calibration]

    def measured(network: Network) -> list[SceneLoss]:
        second = Labeller(network, places.side)
        return compare(labeller(places.side), second, places.held_out, places.side, card.classes)

    best, losses, tried = _best(spec, lambda method: quantised(images, method), measured, places)
    partial = folder / spec.partial
    best.write(partial)
    calibration: dict[str, JsonValue] = {
        "method": best.method,
        "windows": len(places.calibration),
        "side": places.side,
        "scenes": [*sorted({place.scene.name for place in places.calibration})],
        "seed": spec.seed,
        **best.facts,
    }
    if len(tried) > 1:
        calibration["points_lost_by_method"] = {method: round(100 * loss.iou, 3) for method, loss in tried.items()}
    form = Form(
        file=spec.file, sha256=file_sha256(partial), precision="int8", calibration=calibration, loss=tried[best.method]
    )
    return form, losses


def _best(
    spec: QuantiseSpec,
    made: Callable[[Calibration], Int8],
    measured: Callable[[Network], list[SceneLoss]],
    places: Places,
) -> tuple[Int8, list[SceneLoss], dict[Calibration, Loss]]:
    """The form whose ranges lose least, what it loses scene by scene, and what each way of finding them lost.

    The slowest way is tried where the others lose too much.
    """
    known = TARGETS[spec.to].methods
    methods = [method for method in METHODS if method in known and spec.calibration in ("auto", method)]
    tried: dict[Calibration, Loss] = {}
    best: tuple[Int8, list[SceneLoss]] | None = None
    for method in methods:
        if method == METHODS[-1] and tried and min(loss.iou for loss in tried.values()) <= LEAST_LOSS:
            break
        form = made(method)
        losses = measured(form.network)
        tried[method] = _loss(losses, len(places.held_out), places.side)
        if best is None or _order(tried[method]) < _order(tried[best[0].method]):
            best = (form, losses)
    assert best is not None
    return (*best, tried)


def _order(loss: Loss) -> tuple[float, float]:
    """Less is better. A gain in IoU is luck, and counts as nothing lost."""
    return max(0.0, loss.iou), loss.labels


def _loss(scenes: Sequence[SceneLoss], windows: int, side: int) -> Loss:
    """What goes into the card. Raises InputError where nothing could be measured."""
    found = [scene.loss for scene in scenes if not math.isnan(scene.loss)]
    if not found:
        raise InputError("no window to measure on has a pixel whose class is known; label more, or give other scenes")
    truth = [scene for scene in scenes if scene.truth]
    ece = pooled([s.second for s in truth]) - pooled([s.first for s in truth]) if truth else None
    names = ", ".join(scene.name for scene in scenes[:_MOST_NAMED]) + (", ..." if len(scenes) > _MOST_NAMED else "")
    return Loss(
        iou=round(sum(found) / len(found), 5),
        worst_iou=round(max(found), 5),
        labels=round(sum(s.differ for s in scenes) / max(1, sum(s.pixels for s in scenes)), 6),
        ece=None if ece is None or math.isnan(ece) else round(ece, 5),
        data=f"{windows} windows of {side} pixels of {names}, against "
        + ("their labels" if truth else "what float32 gives"),
    )


def _check_target(spec: QuantiseSpec, source: Path, card: ModelCard) -> None:
    """Raise UsageError where the form cannot be written, before anything is computed."""
    if spec.out is not None:
        if spec.out.exists():
            raise UsageError(f"--out {spec.out}: is there already; expected a new folder")
        if not spec.out.absolute().parent.is_dir():
            raise UsageError(f"--out {spec.out}: no folder {spec.out.absolute().parent} to make it in")
        return
    if not os.access(source, os.W_OK):
        raise UsageError(f"{source}: cannot be written; --out FOLDER makes a copy of the model with its int8 form")
    if not spec.overwrite and any(form.file == spec.file for form in card.forms):
        raise UsageError(f"{source / spec.file}: is there already; --overwrite replaces it")


@contextmanager
def _workplace(spec: QuantiseSpec, source: Path) -> Iterator[Path]:
    """The folder of the model, or a copy of it that becomes ``out`` when all is done."""
    if (out := spec.out) is None:
        try:
            yield source
        finally:
            (source / spec.partial).unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix=f".partial-{out.name}-", dir=out.absolute().parent) as staging:
        copy = Path(staging) / "model"
        copy.mkdir()
        for name in ("card.json", *(form.file for form in load_card(source).forms)):
            shutil.copyfile(source / name, copy / name)
        yield copy
        copy.rename(out)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
