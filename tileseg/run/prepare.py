"""Decide everything about a run before anything is written: scene, model, scale, sizes, memory."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileseg.card import ModelCard
from tileseg.cluster import hardware
from tileseg.engine.choice import Device, choose
from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import check_archive, load_card, resolve_model
from tileseg.plan import Plan
from tileseg.run.identity import identity_of
from tileseg.run.sizes import Sizing
from tileseg.spec import RunSpec
from tileseg.storage.place import Url
from tileseg.tta import nearby_scale

if TYPE_CHECKING:
    from tileseg.grid import Grid
    from tileseg.hounsfield import ValueWindow
    from tileseg.plan import Stitch
    from tileseg.source.aoi import Aoi
    from tileseg.source.protocol import PixelSource


_SAME_SIZE = 1.2
"""Factor up to which pixels are taken to be as large as those that the model was trained on."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is decided but not begun. Making it reads the scene's header, and loads no network."""

    spec: RunSpec
    folder: Path | Url
    model: Path
    card: ModelCard
    scene: PixelSource
    plan: Plan
    sizing: Sizing
    """What the plan's sizes, engine and precision were chosen from."""
    base: Fraction
    """Scale at which the model sees the scene; those of the spec are relative to it."""
    identity: dict[str, Any]
    """What must be the same for a run to go on in a folder: scene, model, card, options, algorithm."""
    ignore: frozenset[int]
    """Class ids that do not become polygons."""
    aoi: Aoi | None
    distance: float | None
    """How far the scene's looks are from what the model was trained on; None: not known. ``card.appearance``."""
    input_notices: tuple[str, ...]
    """What the user should know of scene, model and machine, a line each."""
    size_notices: tuple[str, ...]
    """What the user should know of the plan's sizes."""
    max_memory: int
    """Bytes that the plan may take over all processes."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know, a line each."""
        return self.input_notices + self.size_notices

    @cached_property
    def wanted(self) -> tuple[int, int]:
        """How many blocks and tiles the area touches: work for the network, where there are data."""
        if self.aoi is None:
            return self.plan.blocks, self.plan.tile_count
        cores = [block.core for block in self.plan if self.aoi.touches(block.core)]
        return len(cores), sum(len(self.plan.tiles(core)) for core in cores)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


def prepare(spec: RunSpec, *, least_workers: int = 0) -> PreparedRun:
    """Decide everything about a run. Raises UsageError or InputError in one line.

    ``least_workers``: processes that are started here where the spec does not say how many.
    """
    from tileseg.run.vectorize import ignored_classes, regular_classes

    model = resolve_model(spec.model)
    card = load_card(model)
    spec, usual = spec.handing_over(card.hands_over)
    scene = open_as_asked(spec, card)
    notices = [*scene.notes, *_scene_notices(spec, scene, card)]
    base, lines = base_scale(spec, card, scene.grid)
    notices += lines
    if spec.pixel_size is not None and scene.grid.pixel_metres is not None:
        notices.append("--pixel-size is not used: the scene says itself how large its pixels are")
    distance, lines = _looks(scene, card, base, spec.value_window)
    notices += lines
    stitch, lines = _stitch_of(spec, card)
    notices += lines
    machine, lines = this_machine()
    notices += lines
    device = device_of(machine, gpu=spec.remote is not None and spec.remote.gpu)
    choice = choose(card, spec.engine, spec.precision, device)
    check_archive(card.using(choice.form.file), model)
    sizing = Sizing(
        spec,
        card,
        (scene.grid.height, scene.grid.width),
        np.dtype(scene.dtype).itemsize,
        base,
        stitch,
        choice,
        _workers(spec, machine, least_workers),
        device.gpu,
    )
    plan, max_memory = sizing.choose(machine)
    notices += spec.vector_notices(scene.grid)
    if usual.given:
        notices.append(f"polygons as the model's users hand them over: {usual.told} (--raw: as the pixels have them)")
    if spec.regularize is not None:
        regular_classes({i: info.name for i, info in enumerate(card.classes)}, spec.regularize, known=True)
    return PreparedRun(
        spec=spec,
        folder=spec.folder,
        model=model,
        card=card,
        scene=scene,
        plan=plan,
        sizing=sizing,
        base=base,
        identity=identity_of(spec, card, scene.identity, base),
        ignore=ignored_classes(card.classes, spec.classes),
        aoi=_area(spec, scene.grid),
        distance=distance,
        input_notices=tuple(notices),
        size_notices=sizing.notices(plan),
        max_memory=max_memory,
    )


def open_as_asked(spec: RunSpec, card: ModelCard) -> PixelSource:
    """The scene of a run, read as its options and the model want it. Raises UsageError or InputError in one line."""
    from tileseg.source.protocol import ReadRequest
    from tileseg.source.scene import open_request

    metres = None if spec.gsd == "native" else wanted_distance(spec, card)
    return open_request(spec.scene, ReadRequest.asked(spec, card.bands, metres))


def _workers(spec: RunSpec, machine: hardware.Hardware, least: int) -> int:
    """How many processes compute; 0: this one does.

    One per GPU; one GPU, or all cores of a processor, need no process of their own: a network uses cores better than
    several smaller ones would. Dask has something to report of processes only.
    """
    if spec.workers is not None:
        return spec.workers
    if spec.remote is not None:
        return 1
    return max(least, len(machine.gpus) if len(machine.gpus) > 1 else int(spec.performance_report is not None))


def _scene_notices(spec: RunSpec, scene: PixelSource, card: ModelCard) -> list[str]:
    """What to say about a scene that is not as the model expects it."""
    lines = []
    if spec.value_window is None and not card.takes(scene.dtype):
        lines.append(
            f"pixels are {scene.dtype}, the model was trained on {' or '.join(card.dtypes)}: "
            "they are standardised by the scene's own mean and standard deviation"
        )
    if scene.grid.crs_wkt is None and scene.grid.transform.is_identity:
        line = "the scene is a picture without a place on the ground: polygons and areas are in pixels"
        if card.ground_sample_distance is not None and spec.pixel_size is None:
            line += f" (seen from above? the model knows {card.ground_sample_distance:g} m: --pixel-size METRES)"
        lines.append(line)
    elif scene.grid.crs_wkt is None:
        lines.append(
            "the scene has no coordinate reference system: polygons are in the file's own coordinates, areas in pixels"
        )
    return lines


def _looks(
    scene: PixelSource, card: ModelCard, base: Fraction, value_window: ValueWindow | None
) -> tuple[float | None, list[str]]:
    """How far the scene looks from what the model was trained on, and what to say about it."""
    from tileseg.source.appearance import Scaled, distance, look_at
    from tileseg.source.statistics import scaling_for

    usual = card.appearance
    if usual is None:
        return None, []
    scaled = Scaled.by(scene, float(base))
    try:
        windows = look_at(scaled.windows, scaled.read, scaling_for(card, scene, value_window))
    except InputError:
        return None, []  # the blocks that cannot be read are told when they are computed
    found = distance(windows, usual)
    if math.isnan(found):
        return None, []
    if found <= usual.far:
        return found, []
    line = f"the scene looks unlike what the model was trained on (distance {found:.1f}, usual up to {usual.far:.1f})"
    return found, [f"{line}: do not trust its answers before you have looked at them"]


def _stitch_of(spec: RunSpec, card: ModelCard) -> tuple[Stitch, list[str]]:
    """How tiles are put together, and what to say about it."""
    if spec.stitch != "exact" or card.local:
        return spec.stitch, []
    layers = ", ".join(card.nonlocal_layers)
    return "hann", [f"seams are approximate: the model is not local ({layers}), so overlapping windows are blended"]


def this_machine() -> tuple[hardware.Hardware, list[str]]:
    """This machine as far as the network can use it, and what to say about the rest."""
    machine = hardware.detect()
    if not machine.gpus or hardware.backend_has_cuda():
        return machine, []
    return replace(machine, gpus=()), [
        "this machine's GPU is not used: TensorFlow finds no CUDA libraries; see `tileseg doctor`"
    ]


def device_of(machine: hardware.Hardware, *, gpu: bool = False) -> Device:
    """What a network runs on: by this machine, so that others compute the same; ``gpu``: all have one."""
    return Device(gpu or bool(machine.gpus), hardware.default_precision(machine), machine.cpu.flags)


def _area(spec: RunSpec, grid: Grid) -> Aoi | None:
    """The area of interest on the scene's grid. Raises InputError."""
    if spec.aoi is None:
        return None
    from tileseg.source.aoi import Aoi

    return Aoi.from_file(spec.aoi, grid)


def base_scale(spec: RunSpec, card: ModelCard, grid: Grid) -> tuple[Fraction, list[str]]:
    """Scale at which things look as large to the model as those that it was trained on, and what to say about it."""
    have, native = grid.ground_sample_distance, Fraction(1)
    target = wanted_distance(spec, card)
    if spec.gsd == "native" or target is None:
        return native, []
    metres = grid.pixel_metres
    if metres is None and spec.pixel_size is not None:
        have, metres = spec.pixel_size, (spec.pixel_size, spec.pixel_size)
    if have is None or metres is None:
        remedy = "say it with --pixel-size METRES"
        if spec.gsd != "auto":
            raise UsageError(f"--gsd {target:g}: the scene's pixels have no known size on the ground; {remedy}")
        if grid.crs_wkt is None and grid.transform.is_identity:
            return native, []  # a photograph: it is said already that it lies nowhere
        return native, [
            f"the scene's pixels have no known size on the ground, and the model was trained on {target:g} m: {remedy}"
        ]
    wide, high = metres
    unit, name = _unit_for(have)
    size = f"{_digits(have / unit)} {name}"
    if max(wide, high) > _SAME_SIZE * min(wide, high):
        size = f"{_digits(wide / unit)} x {_digits(high / unit)} {name} (geometric mean {size})"
    place = " on the ground" if name == "m" else ""
    fact = f"the scene's pixels are {size}{place}, those for the model {target / unit:g} {name}"
    if spec.gsd == "auto" and max(have / target, target / have) <= _SAME_SIZE:
        return native, []
    try:
        base = nearby_scale(have / target)
    except UsageError:
        if spec.gsd != "auto":
            raise UsageError(f"--gsd {target:g}: {fact}: too far apart to resample") from None
        return native, [f"{fact}: too far apart to resample, so the model sees the scene as it is"]
    if base == 1:
        return native, [f"{fact}: near enough, so the scene is not resampled"]
    return base, [f"{fact}: the model sees the scene resampled by {base} (--gsd native: as it is)"]


def _unit_for(metres: float) -> tuple[float, str]:
    """Metres of the unit in which a length is told, and its name: of scenes of the ground, scans, slides."""
    if metres >= 5e-3:
        return 1.0, "m"
    return (1e-3, "mm") if metres >= 2e-5 else (1e-6, "micrometres")


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def wanted_distance(spec: RunSpec, card: ModelCard) -> float | None:
    """Metres per pixel that the model is meant to see."""
    return card.ground_sample_distance if isinstance(spec.gsd, str) else spec.gsd


def compute_threads(prepared: PreparedRun) -> int | None:
    """Processor threads of a worker's network; None: workers on other machines know how many they have."""
    if prepared.spec.remote is not None:
        return None
    return max(1, hardware.cpu().cores // max(1, prepared.plan.workers))
