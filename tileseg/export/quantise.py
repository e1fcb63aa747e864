"""An int8 form of a model: calibrated on windows of real scenes, and measured on others."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.card import EXACT_BY, Form, Loss, ModelCard
from tileseg.cluster import hardware
from tileseg.engine.onnx import OnnxNetwork
from tileseg.errors import InputError, UsageError
from tileseg.export.loss import Labeller, SceneLoss, compare, pooled
from tileseg.export.scenes import Seen, SeenScene, open_scenes
from tileseg.export.windows import choose
from tileseg.labels import Labels
from tileseg.nn.description import check_card
from tileseg.nn.folder import add_form, load_card, resolve_model
from tileseg.nn.onnx_bundle import ARCHIVE, facts_of, load_graph
from tileseg.nn.onnx_exact import sums_are_whole
from tileseg.nn.onnx_file import write_onnx
from tileseg.nn.onnx_graph import OnnxGraph
from tileseg.storage.digest import file_sha256

if TYPE_CHECKING:
    from pydantic import JsonValue

    from tileseg.nn.onnx_quantise import Calibration

FILE = "model.int8.onnx"
PARTIAL = f".partial-{FILE}"
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
    calibration: Calibration = "percentile"
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
    """Add ``model.int8.onnx`` to a model, with what it was calibrated on and what it loses.

    A model without ``model.onnx`` gets that first. Nothing is left half-written.

    Raises:
        InputError: If model or scenes cannot be used, or the network cannot be quantised.
        UsageError: If the form is there already, or the folder cannot be written.
    """
    source = resolve_model(spec.model)
    card = load_card(source)
    _check_target(spec, source, card)
    scenes = open_scenes(spec.scenes, card, trust_vrt=spec.trust_vrt)
    with _workplace(source, spec.out) as folder:
        graph, card = _float32(folder, card)
        form, losses = _made(spec, scenes, graph, card, folder)
        add_form(folder, folder / PARTIAL, form)
    return Quantised(spec.out or source, form, tuple(losses))


def _made(
    spec: QuantiseSpec, scenes: Sequence[SeenScene], graph: OnnxGraph, card: ModelCard, folder: Path
) -> tuple[Form, list[SceneLoss]]:
    """Write the form's file beside the others, under a name of its own, and measure it."""
    from tileseg.nn.onnx_quantise import quantise as quantise_graph

    threads = hardware.cpu().cores
    labellers: dict[int, Labeller] = {}

    def float32(side: int) -> Labeller:
        if side not in labellers:
            labellers[side] = Labeller(OnnxNetwork(graph, card, threads), side)
        return labellers[side]

    def labels_of(scene: SeenScene, seen: Seen) -> Labels:
        if scene.truth is not None:
            return seen.labels
        return float32(len(seen.image)).labels(seen.image, seen.valid)

    counts = (spec.windows, HELD_OUT)
    places = choose(scenes, labels_of, classes=len(card.classes), stride=card.stride, counts=counts, seed=spec.seed)
    images = [place.scene.read(place.window, places.side).image for place in places.calibration]
    made = OnnxGraph(quantise_graph(graph, images, spec.calibration), graph.bands, graph.name)
    check_card(facts_of(made), card, folder)
    network = OnnxNetwork(made, card, threads)
    losses = compare(float32(places.side), Labeller(network, places.side), places.held_out, places.side, card.classes)
    partial = folder / PARTIAL
    write_onnx(made.model, partial)
    calibration: dict[str, JsonValue] = {
        "method": spec.calibration,
        "windows": len(places.calibration),
        "side": places.side,
        "scenes": [*sorted({place.scene.name for place in places.calibration})],
        "seed": spec.seed,
        "onnxruntime": version("onnxruntime"),
        EXACT_BY: ["onnx", *(["openvino"] if sums_are_whole(made.model) else [])],
    }
    form = Form(
        file=FILE, sha256=file_sha256(partial), precision="int8", calibration=calibration,
        loss=_loss(losses, len(places.held_out), places.side),
    )  # fmt: skip
    return form, losses


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


def _float32(folder: Path, card: ModelCard) -> tuple[OnnxGraph, ModelCard]:
    """The network in float32 as an ONNX graph, which is made where there is none, and the card with it alone."""
    files = [form.file for form in card.forms if form.suffix == ".onnx" and form.precision == "float32"]
    if not files:
        if not any(form.suffix == ".keras" for form in card.forms):
            held = " and ".join(form.file for form in card.forms)
            raise InputError(f"{folder}: holds {held}; expected a network in float32, from which int8 is made")
        from tileseg.nn.onnx_form import add_onnx

        card = add_onnx(folder)
        files = [ARCHIVE]
    alone = card.using(files[0])
    return load_graph(folder, alone), alone


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
    if not spec.overwrite and any(form.file == FILE for form in card.forms):
        raise UsageError(f"{source / FILE}: is there already; --overwrite replaces it")


@contextmanager
def _workplace(source: Path, out: Path | None) -> Iterator[Path]:
    """The folder of the model, or a copy of it that becomes ``out`` when all is done."""
    if out is None:
        try:
            yield source
        finally:
            (source / PARTIAL).unlink(missing_ok=True)
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
