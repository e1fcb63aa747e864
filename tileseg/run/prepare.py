"""Decide everything about a run before anything is written: scene, model, scale, sizes, memory."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileseg.card import ModelCard
from tileseg.cluster import hardware
from tileseg.errors import (
    UsageError,
)
from tileseg.nn.folder import check_archive, load_card, resolve_model
from tileseg.plan import Plan, make_plan
from tileseg.spec import ALGORITHM, RunSpec
from tileseg.storage.digest import file_sha256
from tileseg.storage.place import Url
from tileseg.tta import View, nearby_scale, view_halo

if TYPE_CHECKING:
    from tileseg.grid import Grid
    from tileseg.run.vectorize import VectorOptions
    from tileseg.source.aoi import Aoi
    from tileseg.source.scene import Scene


_GIB = 1 << 30

_DEFAULT_MEMORY = 5 * _GIB
"""Allowed per worker where the user does not say: room for the largest window of a network as large as the embedded."""

_LARGER_MEMORY = 8 * _GIB
"""The same for networks that would see too small windows.

Of a full VGG16-Unet in bfloat16, 5 GiB hold 1312 x 1664 pixels, and 8 hold 1664 x 2336.
"""

_SMALL_WINDOW = 1536
"""Pixels on a side, below which much of the network's work is at the edges of its windows, and cropped away."""

_SAME_SIZE = 1.2
"""Factor up to which pixels are taken to be as large as those that the model was trained on."""

_THREADS = 2
"""Blocks in flight in a worker: one on the device, one being read or written."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is decided but not begun. Making it reads the scene's header, and loads no network."""

    spec: RunSpec
    folder: Path | Url
    model: Path
    card: ModelCard
    scene: Scene
    plan: Plan
    base: Fraction
    """Scale at which the model sees the scene; those of the spec are relative to it."""
    identity: dict[str, Any]
    """What must be the same for a run to go on in a folder: scene, model, options, algorithm."""
    vectors: VectorOptions
    ignore: frozenset[int]
    """Class ids that do not become polygons."""
    aoi: Aoi | None
    notices: tuple[str, ...]
    max_memory: int

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


def prepare(spec: RunSpec) -> PreparedRun:
    """Decide everything about a run. Raises UsageError or InputError in one line."""
    from tileseg.run.vectorize import VectorOptions, ignored_classes
    from tileseg.source.scene import open_scene

    notices: list[str] = []
    model = resolve_model(spec.model)
    card = load_card(model)
    check_archive(card, model)
    scene = open_scene(
        spec.scene,
        bands=spec.bands,
        expected=len(card.bands),
        names=card.bands,
        warp=spec.warp,
        trust_vrt=spec.trust_vrt,
    )
    notices += scene.notes
    if scene.dtype not in card.dtypes:
        notices.append(
            f"pixels are {scene.dtype}, the model was trained on {' or '.join(card.dtypes)}: "
            "they are standardised by the scene's own mean and standard deviation"
        )
    if scene.grid.crs_wkt is None:
        where = "pixel coordinates" if scene.grid.transform.is_identity else "the file's own coordinates"
        notices.append(f"the scene has no coordinate reference system: polygons are in {where}, areas in pixels")
    base, told = _base_scale(spec, card, scene.grid)
    notices += told
    stitch = spec.stitch
    if stitch == "exact" and not card.local:
        stitch = "hann"
        notices.append(
            f"seams are approximate: the model is not local ({', '.join(card.nonlocal_layers)}), "
            "so overlapping windows are blended"
        )
    machine = hardware.detect()
    if machine.gpus and not hardware.backend_has_cuda():
        notices.append("this machine's GPU is not used: TensorFlow finds no CUDA libraries; see `tileseg doctor`")
        machine = replace(machine, gpus=())
    precision = hardware.default_precision(machine) if spec.precision == "auto" else spec.precision
    # One worker per GPU; without any, one has all cores: a network uses them better than several smaller ones would.
    here = spec.remote is None
    workers = (max(1, len(machine.gpus)) if here else 1) if spec.workers is None else spec.workers
    usual, most = (
        min(memory * max(1, workers), machine.memory.available // 2) if here else memory * max(1, workers)
        for memory in (_DEFAULT_MEMORY, _LARGER_MEMORY)
    )
    max_memory = int(spec.max_memory or usual)
    choose = partial(
        make_plan,
        (scene.grid.height, scene.grid.width),
        len(card.bands),
        np.dtype(scene.dtype).itemsize,
        card,
        scales=_scales(spec, base),
        base=base,
        flips=spec.flips,
        stitch=stitch,
        overlap=spec.overlap,
        halo=None if spec.halo == "auto" else spec.halo,
        block=spec.block,
        window=spec.window,
        batch=spec.batch,
        precision=precision,
        keep=spec.keep,
        workers=workers,
        threads=1 if workers == 0 else _THREADS,
    )
    plan = choose(max_memory=max_memory)
    small = plan.tile_count > 1 and math.prod(plan.window_at(max(plan.scales))) < _SMALL_WINDOW**2
    if spec.max_memory is None and small and most > usual:
        max_memory = most
        plan = choose(max_memory=max_memory)
    notices += _sizes_told(spec, plan, plan if spec.max_memory is None else choose())
    identity = {
        "algorithm": ALGORITHM,
        "scene": scene.identity,
        "model": card.sha256,
        "scale": str(base),
        "aoi": None if spec.aoi is None else file_sha256(spec.aoi),
        **{k: v for k, v in spec.choices().items() if k not in ("model", "aoi")},
        "formats": sorted(spec.formats),  # they are the same files in any order
    }
    vectors = VectorOptions.parse(
        {name: getattr(spec, name) for name in VectorOptions.model_fields if getattr(spec, name) is not None}
    )
    notices += vectors.notices(scene.grid)
    ignore = ignored_classes(card.classes, spec.classes)
    aoi = None
    if spec.aoi is not None:
        from tileseg.source.aoi import Aoi

        aoi = Aoi.from_file(spec.aoi, scene.grid)
    return PreparedRun(
        spec, spec.folder, model, card, scene, plan, base, identity, vectors, ignore, aoi, tuple(notices), max_memory
    )  # fmt: skip


def _base_scale(spec: RunSpec, card: ModelCard, grid: Grid) -> tuple[Fraction, list[str]]:
    """Scale at which things look as large to the model as those that it was trained on, and what to say about it."""
    have, native = grid.ground_sample_distance, Fraction(1)
    target = wanted_distance(spec, card)
    if spec.gsd == "native" or target is None:
        return native, []
    if have is None or grid.pixel_metres is None:
        if spec.gsd != "auto":
            raise UsageError(f"--gsd {target:g}: the scene's pixels have no known size on the ground; see --scales")
        return native, [f"the scene's pixels have no known size on the ground; the model was trained on {target:g} m"]
    wide, high = grid.pixel_metres
    size = f"{_metres(have)} m"
    if max(wide, high) > _SAME_SIZE * min(wide, high):
        size = f"{_metres(wide)} x {_metres(high)} m (geometric mean {_metres(have)} m)"
    told = f"the scene's pixels are {size} on the ground, those for the model {target:g} m"
    if spec.gsd == "auto" and max(have / target, target / have) <= _SAME_SIZE:
        return native, []
    try:
        base = nearby_scale(have / target)
    except UsageError:
        if spec.gsd != "auto":
            raise UsageError(f"--gsd {target:g}: {told}: too far apart to resample") from None
        return native, [f"{told}: too far apart to resample, so the model sees the scene as it is"]
    if base == 1:
        return native, [f"{told}: near enough, so the scene is not resampled"]
    return base, [f"{told}: the model sees the scene resampled by {base} (--gsd native: as it is)"]


def _sizes_told(spec: RunSpec, plan: Plan, unbounded: Plan) -> list[str]:
    """What to say about sizes that are not as they were asked for; ``unbounded``: the plan without --max-memory."""
    told = []
    base = max(plan.scales)
    if plan.tile != unbounded.tile:
        (rows, cols), (more_rows, more_cols) = plan.window_at(base), unbounded.window_at(base)
        told.append(
            f"windows of {cols}x{rows} instead of {more_cols}x{more_rows} pixels, to stay under "
            f"{(spec.max_memory or 0) / _GIB:.2f} GiB (--max-memory)"
        )
    if spec.block is not None and plan.block[0] != spec.block:
        told.append(
            f"blocks of {plan.block[0]} pixels instead of {spec.block}: for this scene, model and scales they are "
            f"multiples of {plan.align}"
        )
    if plan.stitch == "exact" and not plan.exact:
        needed = max(view_halo(plan.card.radius, plan.card.stride, scale) for scale in plan.scales)
        told.append(f"seams are approximate: --halo {spec.halo} is less than the {needed} pixels that are needed")
    return told


def _metres(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def wanted_distance(spec: RunSpec, card: ModelCard) -> float | None:
    """Metres per pixel that the model is meant to see."""
    return card.ground_sample_distance if isinstance(spec.gsd, str) else spec.gsd


def _scales(spec: RunSpec, base: Fraction) -> tuple[Fraction, ...]:
    """The scales wished for, of the scene's own pixels."""
    for scale in spec.scales:
        try:
            View(base * scale)
        except UsageError as error:
            raise UsageError(f"--scales {scale} of a scene that is resampled by {base} (see --gsd): {error}") from None
    return tuple(base * scale for scale in spec.scales)


def compute_threads(prepared: PreparedRun) -> int | None:
    """Processor threads of a worker's network; None: workers on other machines know how many they have."""
    if prepared.spec.remote is not None:
        return None
    return max(1, hardware.cpu().cores // max(1, prepared.plan.workers))
