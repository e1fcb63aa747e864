"""One run, from options to outputs: what the command line and the Python interface both call."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from tileseg import hardware
from tileseg.errors import (
    BlocksFailed,
    InputError,
    Interrupted,
    OutputsGone,
    TilesegError,
    UsageError,
    disk_full,
    not_writable,
)
from tileseg.ledger import BlockRecord, Ledger, fragment_name
from tileseg.nn.card import ModelCard, Scaling, check_archive, file_sha256, load_card, resolve_model
from tileseg.place import Url
from tileseg.plan import Plan, make_plan
from tileseg.spec import ALGORITHM, RunSpec, VectorFormat
from tileseg.storage import at, write_atomic
from tileseg.tta import View, nearby_scale, view_halo

if TYPE_CHECKING:
    from tileseg.aoi import Aoi
    from tileseg.cluster import Workers
    from tileseg.grid import Grid
    from tileseg.mosaic import Mosaic
    from tileseg.scene import Scene
    from tileseg.schedule import BlockFailure
    from tileseg.segment import Job
    from tileseg.vectorize import VectorOptions

T = TypeVar("T")

_GIB = 1 << 30
STATE = ".state"
"""Folder, inside a run's, of what makes it resumable."""

MOSAIC = "mosaic.zarr"
"""Folder, inside a run's, of the mosaic."""
_LABELS = "labels.tif"
_QUICKLOOK = "quicklook.png"
SUMMARY = "summary.json"
"""File, inside a run's folder, whose presence means done."""
_QUICKLOOK_PIXELS = 900
"""Longest side of a quicklook's pictures."""

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


class Listener(Protocol):
    """Is told how a run gets on."""

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, prepared: Prepared, done: int) -> None:
        """Blocks are about to be computed; ``done`` of them are finished already."""

    def block(self, record: BlockRecord, pixels: int) -> None:
        """A block of ``pixels`` pixels is finished."""

    def stage(self, name: str) -> None:
        """What is done once all blocks are."""


class Silent:
    """Tells nobody."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def start(self, prepared: Prepared, done: int) -> None:
        """Nothing."""

    def block(self, record: BlockRecord, pixels: int) -> None:
        """Nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Prepared:
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


@dataclass(frozen=True)
class Begun:
    """A run whose folder is held by this process, and what is left to compute."""

    prepared: Prepared
    """With the sizes that an earlier call chose, if there was one."""
    ledger: Ledger
    pending: tuple[int, ...]
    """Blocks that are not done yet."""
    done: int
    """Blocks that earlier calls finished."""
    preview: Future[npt.NDArray[np.uint8]]
    """The scene's picture (y, x, 3), read while blocks are computed."""


@dataclass(frozen=True)
class RunReport:
    """What a run gave."""

    folder: Path | Url
    outputs: dict[str, Path | Url]
    """``mosaic``, ``labels``, ``quicklook``, ``summary`` and the vector formats."""
    blocks: int
    computed: int
    """Blocks computed by this call; the others were finished before."""
    empty: int
    """Blocks without a valid pixel, which the network was not asked for."""
    polygons: dict[str, int]
    """Class name -> polygons."""
    pixels: dict[str, int]
    """Class name -> pixels."""
    seconds: dict[str, float]
    """``start``, ``blocks``, ``finish``: as they passed; ``blocks: ...``: summed over all threads of all workers (of
    earlier calls too); ``finish: ...``: parts that run side by side."""
    wall_seconds: float
    megapixels_per_second: float
    """Of the scene, over the whole call."""
    peak_memory: int
    """Resident bytes over all processes."""
    projected_memory: int
    """Bytes that the plan said would be enough."""
    notices: tuple[str, ...] = ()
    finished_before: bool = field(default=False)
    """The folder was finished already, so nothing was done."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self)
        values["folder"] = str(self.folder)
        values["outputs"] = {name: str(path) for name, path in self.outputs.items()}
        return values


def prepare(spec: RunSpec) -> Prepared:
    """Decide everything about a run. Raises UsageError or InputError in one line."""
    from tileseg.scene import open_scene
    from tileseg.vectorize import VectorOptions, ignored_classes

    notices: list[str] = []
    model = resolve_model(spec.model)
    card = load_card(model)
    check_archive(card, model)
    scene = open_scene(spec.scene, bands=spec.bands, expected=len(card.bands), names=card.bands, warp=spec.warp)
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
        from tileseg.aoi import Aoi

        aoi = Aoi.from_file(spec.aoi, scene.grid)
    return Prepared(
        spec, spec.folder, model, card, scene, plan, base, identity, vectors, ignore, aoi, tuple(notices), max_memory
    )  # fmt: skip


def _base_scale(spec: RunSpec, card: ModelCard, grid: Grid) -> tuple[Fraction, list[str]]:
    """Scale at which things look as large to the model as those that it was trained on, and what to say about it."""
    have, native = grid.ground_sample_distance, Fraction(1)
    target = _wanted(spec, card)
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


def _wanted(spec: RunSpec, card: ModelCard) -> float | None:
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


def run(spec: RunSpec, listener: Listener | None = None, stop: threading.Event | None = None) -> RunReport:
    """Segment a scene into ``spec.folder``, going on where an earlier run stopped.

    ``stop``: when set, blocks in flight are finished and kept, then Interrupted is raised. Raises UsageError (2),
    InputError (42), LockedError (75), BlocksFailed (1 or 42).
    """
    started = time.perf_counter()
    listener = listener or Silent()
    stop = stop or threading.Event()
    prepared = prepare(spec)
    if not spec.overwrite and (before := finished(prepared)):
        return before
    for notice in prepared.notices:
        listener.notice(notice)
    with hold(prepared, stop.set) as ledger, hardware.PeakMemory() as memory:
        if not spec.overwrite and (before := finished(prepared)):
            return before  # by another process, meanwhile
        # While the workers start, which leaves processors idle, the scene's picture is read.
        begun = begin(prepared, ledger)
        clock = Stopwatch(started)
        with contextlib.ExitStack() as workers:
            computed = _compute(begun, listener, stop, clock, workers)
            # The workers end while the driver finishes: that takes a second or two of waiting.
            ending = threading.Thread(target=workers.pop_all().close, name="end-workers")
            ending.start()
        report = finish(begun, listener, clock, computed, memory)
        ending.join()
        return report


def finished(prepared: Prepared) -> RunReport | None:
    """The report of a run that is finished and had the same options, or None.

    None, too, where outputs were removed since that its mosaic gives again: :func:`begin` and :func:`finish` make them.
    Raises UsageError where the options differ, OutputsGone where what was removed cannot be made again.
    """
    path = prepared.folder / SUMMARY
    try:
        text = at(path).read()
    except FileNotFoundError:
        return None
    except (TilesegError, TimeoutError):
        raise
    except OSError as error:  # a file where the folder should be, or a folder that may not be read
        raise not_writable(prepared.folder, error) from error
    try:
        summary = json.loads(text)
    except ValueError:
        raise InputError(f"{path}: damaged; start anew with --overwrite") from None
    _same_or_refuse(prepared, summary["identity"], summary["scene"]["path"])
    report = dict(summary["report"])
    report["folder"] = prepared.folder
    report["outputs"] = {name: prepared.folder / Path(path).name for name, path in report["outputs"].items()}
    report["notices"] = tuple(report["notices"])
    files, folders = at(prepared.folder).listed()
    if gone := sorted({path.name for path in report["outputs"].values()} - {*files, *folders}):
        # Of labels alone, polygons would have no probabilities.
        if MOSAIC in gone or prepared.spec.keep == "labels" or Ledger(prepared.folder / STATE).read_run() is None:
            raise OutputsGone(
                f"{prepared.folder}: was finished, but {', '.join(gone)} is not there any more; put it back, or start "
                "anew with --overwrite"
            )
        return None
    return RunReport(**{**report, "computed": 0, "finished_before": True})


def differences(prepared: Prepared) -> list[str]:
    """What was otherwise when the folder was made: names of the identity; empty where it is new. Raises InputError."""
    earlier = Ledger(prepared.folder / STATE).read_run()
    return [] if earlier is None else _differing(prepared, earlier["identity"])


def _differing(prepared: Prepared, before: dict[str, Any]) -> list[str]:
    now = json.loads(json.dumps(prepared.identity))
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


def _same_or_refuse(prepared: Prepared, before: dict[str, Any], scene: str | None) -> None:
    """``scene``: of which the folder was made, as far as that is known."""
    differ = _differing(prepared, before)
    if not differ:
        return
    what = "made with other options"
    if "scene" in differ:
        same = scene == str(prepared.spec.scene)
        what = "made of the scene as it was before it changed" if same else f"belongs to {scene or 'another scene'}"
        differ = [name for name in differ if name not in ("scene", "scale")]  # which follows from the scene's pixels
    told = [_difference(name, before.get(name), prepared.identity.get(name)) for name in differ]
    why = f" ({'; '.join(told)})" if told else ""
    raise UsageError(f"{prepared.folder}: {what}{why}; choose another --out, or start anew with --overwrite")


def _difference(name: str, was: Any, now: Any) -> str:
    """What differs, in the user's words: areas, models and versions are known by digests, which say nothing."""
    match name:
        case "aoi" if was is None or now is None:
            return f"it was made {'without' if was is None else 'with'} --aoi"
        case "aoi":
            return "the area of interest was another"
        case "model":
            return "the model was another"
        case "algorithm":
            return "it was made by another version of tileseg"
        case "scale":
            return f"the scene was resampled by {was}, is by {now}"
        case _:
            option = "format" if name == "formats" else name.replace("_", "-")
            return f"{option} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 32 else f"{text[:12]}..."


@contextlib.contextmanager
def hold(prepared: Prepared, lost: Callable[[], None]) -> Iterator[Ledger]:
    """Make the folder and hold it for this process. Raises InputError, LockedError; ``lost`` is as of a lease."""
    _check_writable(prepared.folder)
    ledger = Ledger(prepared.folder / STATE)
    with ledger.lock(lost):
        yield ledger


def begin(prepared: Prepared, ledger: Ledger) -> Begun:
    """Begin anew, or go on with the sizes that the earlier run chose. The folder is held.

    Raises UsageError where the folder was made with other options.
    """
    prepared, ledger = _claim(prepared, ledger)
    if at(prepared.folder / SUMMARY).exists():  # it was finished, and outputs were removed since
        _trace_again(prepared, ledger)
    ledger.take_back()
    preview = _in_background(partial(_get_ready, prepared))
    done = ledger.done()
    pending = tuple(i for i in range(prepared.plan.blocks) if i not in done)
    return Begun(prepared, ledger, pending, len(done), preview)


def _trace_again(prepared: Prepared, ledger: Ledger) -> None:
    """Make the polygons of the blocks again, which a finished run keeps no more, as the blocks made them."""
    from tileseg.mosaic import Mosaic
    from tileseg.vectorize import Classes, trace

    mosaic, classes = Mosaic(prepared.folder / MOSAIC), Classes({}, prepared.ignore)
    for record in ledger.records():
        fragment = trace(mosaic, prepared.plan[record.index].core, classes, prepared.vectors) if record.valid else None
        if fragment is not None:
            place = ledger.fragment(record.index)
            at(place.parent).make_folder()
            at(place).deliver(fragment.save)


def _check_writable(folder: Path | Url) -> None:
    """Make the folder. Raises InputError where it cannot be written, OSError where the disk is full."""
    try:
        at(folder / STATE).check_writable()
    except TilesegError:
        raise
    except OSError as error:
        if disk_full(error):
            raise
        raise not_writable(folder, error) from error


def _claim(prepared: Prepared, ledger: Ledger) -> tuple[Prepared, Ledger]:
    """The run with the sizes that it is computed with, and its ledger; an empty mosaic if it begins anew."""
    from tileseg.mosaic import Mosaic, create_mosaic

    folder, plan = prepared.folder, prepared.plan
    earlier = None if prepared.spec.overwrite else ledger.read_run()
    if earlier is not None:
        _same_or_refuse(prepared, earlier["identity"], earlier.get("scene"))
        chosen = earlier["plan"]
        Mosaic(folder / MOSAIC).remove_partial()
        # Given by the user or chosen by the first call: the same sizes, so that the result is byte-identical.
        plan = replace(
            plan,
            block=tuple(chosen["block"]),
            tile=tuple(chosen["tile"]),
            step=tuple(chosen["step"]),
            batch=chosen["batch"],
            precision=chosen["precision"],
        )
        return replace(prepared, plan=plan), replace(ledger, begun=earlier.get("begun", ""))
    _clear(folder)
    create_mosaic(
        folder / MOSAIC,
        prepared.scene.grid,
        plan.block,
        prepared.card.classes,
        plan.keep,
        {"model": prepared.card.name, "model_sha256": prepared.card.sha256, "merge": prepared.spec.merge},
    )
    chosen = {name: getattr(plan, name) for name in ("block", "tile", "step", "batch", "precision")}
    at(ledger.root).make_folder()
    ledger = replace(ledger, begun=uuid4().hex)
    facts = {"identity": prepared.identity, "plan": chosen, "begun": ledger.begun, "scene": str(prepared.spec.scene)}
    write_atomic(ledger.run_file, json.dumps(facts))
    return prepared, ledger


def _clear(folder: Path | Url) -> None:
    """Remove what an earlier run wrote, and nothing else; what says that it is finished goes first."""
    from tileseg.vectorize import vector_paths

    vectors = (path.name for path in vector_paths(Path(), get_args(VectorFormat)).values())
    for name in (SUMMARY, f"{STATE}/run.json", _LABELS, f"{_LABELS}.aux.xml", _QUICKLOOK, *vectors):
        at(folder / name).remove()
    for name in (MOSAIC, f"{STATE}/done", f"{STATE}/fragments"):
        at(folder / name).remove_tree()


class Stopwatch:
    """Seconds of the parts of a run, as they pass one after the other."""

    def __init__(self, begun: float) -> None:
        self.begun = self._lap = begun
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Name the part that ends now."""
        now = time.perf_counter()
        self.seconds[name] = now - self._lap
        self._lap = now


def make_job(begun: Begun) -> Job:
    """What workers need for any block. Reads the scene's statistics where the scaling wants them."""
    from tileseg.mosaic import Mosaic
    from tileseg.segment import Job

    prepared = begun.prepared
    return Job(
        # With the folder: an archive may hold the same scene twice.
        key=hashlib.sha256(f"{prepared.fingerprint} {prepared.folder.resolve()}".encode()).hexdigest()[:16],
        scene=prepared.scene,
        plan=prepared.plan,
        model=prepared.model.resolve(),
        scaling=_scaling(prepared),
        merge=prepared.spec.merge,
        mosaic=Mosaic((prepared.folder / MOSAIC).resolve()),
        ledger=replace(begun.ledger, root=begun.ledger.root.resolve()),
        aoi=prepared.aoi,
        ignore=prepared.ignore,
        connectivity=prepared.spec.connectivity,
        compute_threads=compute_threads(prepared),
    )


@contextlib.contextmanager
def connected(prepared: Prepared, blocks: int, listener: Listener, others: Sequence[Scene] = ()) -> Iterator[Workers]:
    """The workers for at most ``blocks`` blocks: on this machine, or where the spec says. The folder is held.

    ``others``: scenes that workers on other machines must be able to read as well. Raises UsageError, InputError or
    TilesegError where no worker can compute them.
    """
    from tileseg.admission import Needs
    from tileseg.cluster import connect, dashboard, local_cluster, performance_report

    spec, plan, remote = prepared.spec, prepared.plan, prepared.spec.remote
    with contextlib.ExitStack() as stack:
        if remote is None:
            gpus = hardware.detect().gpus if hardware.backend_has_cuda() else ()
            devices = [gpu.uuid or str(gpu.index) for gpu in gpus] if len(gpus) > 1 else []
            count = min(plan.workers, blocks)
            client = stack.enter_context(local_cluster(count, plan.threads, compute_threads(prepared) or 1, devices))
        else:
            state = (prepared.folder / STATE).resolve()
            scenes, model = (prepared.scene, *others), prepared.model.resolve()
            needs = Needs(scenes, model, prepared.card.sha256, state, plan.memory.worker, remote.gpu)
            client = stack.enter_context(connect(remote, needs, listener.notice))
        if address := dashboard(client):
            listener.notice(f"dashboard: {address}")
        if spec.performance_report is not None:
            stack.enter_context(performance_report(client, spec.performance_report, listener.notice))
        yield client


def compute_threads(prepared: Prepared) -> int | None:
    """Processor threads of a worker's network; None: workers on other machines know how many they have."""
    if prepared.spec.remote is not None:
        return None
    return max(1, hardware.cpu().cores // max(1, prepared.plan.workers))


def _compute(
    begun: Begun, listener: Listener, stop: threading.Event, clock: Stopwatch, workers: contextlib.ExitStack
) -> int:
    """Compute the blocks that are not done yet, on worker processes that end with ``workers``; how many they were.

    Raises BlocksFailed or Interrupted once those in flight are finished.
    """
    plan, pending = begun.prepared.plan, begun.pending
    listener.start(begun.prepared, begun.done)
    if not pending:
        clock.lap("start")
        return 0
    job = make_job(begun)
    computed: set[int] = set()

    def on_done(record: BlockRecord) -> None:
        computed.add(record.index)
        for note in record.notes:
            listener.notice(note)
        listener.block(record, plan[record.index].core.pixels)

    if plan.workers == 0:
        from tileseg.schedule import run_serially

        clock.lap("start")
        failures = run_serially(job, pending, on_done, stop)
    else:
        from tileseg.cluster import restore_path
        from tileseg.schedule import run_on_cluster

        path = tuple(sys.path)
        client = workers.enter_context(connected(begun.prepared, len(pending), listener))
        clock.lap("start")
        failures = run_on_cluster(client, job, pending, on_done, stop)
        wait((begun.preview,))  # the one other thread that may be importing
        restore_path(path)
    clock.lap("blocks")
    check_complete(begun, len(computed), failures)
    return len(computed)


def check_complete(begun: Begun, computed: int, failures: Sequence[BlockFailure]) -> None:
    """Raise BlocksFailed if blocks failed, Interrupted if some were not even tried."""
    blocks = begun.prepared.plan.blocks
    if failures:
        reasons = list(dict.fromkeys(map(str, failures)))  # an unreadable model fails all blocks alike
        listed = "\n".join(f"  {reason}" for reason in reasons[:5])
        more = f"\n  and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        untried = len(begun.pending) - computed - len(failures)
        also = f" and {untried} were not tried" if untried else ""
        raise BlocksFailed(
            f"{begun.prepared.spec.scene}: {len(failures)} of {blocks} blocks could not be computed{also}; the others "
            f"are kept, and running the command again tries only these:\n{listed}{more}",
            hopeless=all(failure.hopeless for failure in failures) and not untried,
        )
    if computed < len(begun.pending):
        raise Interrupted(
            f"stopped: {begun.done + computed} of {blocks} blocks are done and kept; "
            "run the same command again to go on"
        )


def _in_background(part: Callable[[], T]) -> Future[T]:
    """Start it in a thread that an interrupted process does not wait for."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(part())
        except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _get_ready(prepared: Prepared) -> npt.NDArray[np.uint8]:
    """Compile or load what the finish needs, and read the scene's picture (y, x, 3) for the quicklook."""
    from tileseg.scene import overview_rgb
    from tileseg.vectorize import warm_up

    warm_up()
    return overview_rgb(prepared.scene, _QUICKLOOK_PIXELS)


def _scaling(prepared: Prepared) -> Scaling:
    """The card's scaling with the scene's own statistics where they are wanted."""
    from tileseg.scene import statistics

    card, scene = prepared.card, prepared.scene
    if card.scaling.kind != "scene" and scene.dtype in card.dtypes:
        return card.scaling
    mean, std = statistics(scene)
    return Scaling(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def finish(begun: Begun, listener: Listener, clock: Stopwatch, computed: int, memory: hardware.PeakMemory) -> RunReport:
    """Everything that needs all blocks: pyramid, COG, quicklook, polygons; the summary last."""
    from tileseg.mosaic import Mosaic
    from tileseg.vectorize import vector_paths

    prepared, ledger = begun.prepared, begun.ledger
    folder, plan, grid = prepared.folder, prepared.plan, prepared.scene.grid
    mosaic = Mosaic(folder / MOSAIC)
    mosaic.remove_partial()
    stages: dict[str, float] = {}
    ledger.check()
    empty = set()
    for record in ledger.records():
        if record.valid == 0:
            empty.add(record.index)
        for stage, spent in record.seconds.items():
            stages[f"blocks: {stage}"] = stages.get(f"blocks: {stage}", 0.0) + spent
    listener.stage("labels, quicklook and polygons")
    mosaic.finish_pyramid()
    with at(folder).workspace() as desk, ThreadPoolExecutor(2) as pool:
        labels = pool.submit(_timed, stages, "labels.tif", partial(_label_cog, prepared, mosaic, desk))
        picture = pool.submit(_timed, stages, "quicklook", partial(_quicklook, prepared, mosaic, desk, begun.preview))
        vectors = _timed(stages, "polygons", partial(_vectors, prepared, ledger, desk, empty))
        pixels = labels.result()
        picture.result()
    clock.lap("finish")
    wall = time.perf_counter() - clock.begun
    outputs: dict[str, Path | Url] = {
        "mosaic": folder / MOSAIC,
        "labels": folder / _LABELS,
        "quicklook": folder / _QUICKLOOK,
        **{str(form): folder / path.name for form, path in vector_paths(Path(), prepared.spec.formats).items()},
        "summary": folder / SUMMARY,
    }
    report = RunReport(
        folder=folder,
        outputs=outputs,
        blocks=plan.blocks,
        computed=computed,
        empty=len(empty),
        polygons=vectors,
        pixels=pixels,
        seconds={stage: round(spent, 3) for stage, spent in {**clock.seconds, **stages}.items()},
        wall_seconds=round(wall, 3),
        megapixels_per_second=round(grid.height * grid.width / wall / 1e6, 3),
        peak_memory=memory.peak,
        projected_memory=plan.memory.total,
        notices=prepared.notices,
    )
    ledger.check()
    write_atomic(folder / SUMMARY, json.dumps(_summary(prepared, report), indent=2) + "\n")
    at(ledger.fragments).remove_tree()
    return report


def _vectors(prepared: Prepared, ledger: Ledger, desk: Path, empty: Container[int]) -> dict[str, int]:
    """Polygons of all blocks, joined and written; how many of each class. ``empty``: blocks without any."""
    from tileseg.polygons.fragment import Fragment
    from tileseg.vectorize import finish, vector_paths

    with at(ledger.fragments).copied() as fragments:

        def load(index: int) -> Fragment | None:
            return None if index in empty else Fragment.load(fragments / fragment_name(index))

        return finish(
            [block.core for block in prepared.plan],
            load,
            prepared.scene.grid,
            {i: info.name for i, info in enumerate(prepared.card.classes)},
            prepared.vectors,
            vector_paths(desk, prepared.spec.formats),
        ).counts


def _timed(seconds: dict[str, float], name: str, part: Callable[[], T]) -> T:
    start = time.perf_counter()
    try:
        return part()
    finally:
        seconds[f"finish: {name}"] = time.perf_counter() - start


def _label_cog(prepared: Prepared, mosaic: Mosaic, desk: Path) -> dict[str, int]:
    """Write the label COG; pixels per class, counted on the way."""
    from tileseg.labels import Labels, count
    from tileseg.publish.cog import write_label_cog
    from tileseg.window import Window

    classes = prepared.card.classes
    counts = np.zeros(256, np.int64)

    def read(window: Window) -> Labels:
        labels = mosaic.read_labels(window)
        count(labels, counts)
        return labels

    cores = (block.core for block in prepared.plan)
    write_label_cog(desk / _LABELS, prepared.scene.grid, classes, read, cores)
    return {info.name: int(counts[i]) for i, info in enumerate(classes)}


def _quicklook(prepared: Prepared, mosaic: Mosaic, desk: Path, preview: Future[npt.NDArray[np.uint8]]) -> None:
    from tileseg.publish.quicklook import metres_per_pixel, write_quicklook

    plan, grid = prepared.plan, prepared.scene.grid
    rgb = preview.result()
    # The coarsest level that still has the picture's pixels.
    level = max(f for f in (1, *mosaic.levels) if f == 1 or min(s // f for s in plan.scene) >= min(rgb.shape[:2]))
    write_quicklook(
        desk / _QUICKLOOK,
        prepared.spec.scene.name,
        rgb,
        mosaic.read_labels(grid.overview(level).extent, level),
        prepared.card.classes,
        metres_per_pixel(grid, rgb.shape[1]),
    )


def _summary(prepared: Prepared, report: RunReport) -> dict[str, Any]:
    packages = ("tileseg", "keras", "tensorflow", "rasterio", "zarr", "dask", "shapely", "pyogrio", "numpy")
    plan = prepared.plan
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": prepared.identity,
        "fingerprint": prepared.fingerprint,
        "spec": prepared.spec.model_dump(mode="json"),
        "scene": {"path": str(prepared.spec.scene), "height": plan.scene[0], "width": plan.scene[1]},
        "model": {"name": prepared.card.name, "sha256": prepared.card.sha256, "credits": prepared.card.credits},
        "plan": describe(prepared),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "report": report.to_json(),
    }


def describe(prepared: Prepared) -> dict[str, Any]:
    """A plan in JSON values: what ``--dry-run`` prints and ``summary.json`` keeps."""
    plan = prepared.plan
    memory = plan.memory
    blocks, tiles = prepared.wanted
    return {
        "height": plan.scene[0],
        "width": plan.scene[1],
        "blocks": plan.blocks,
        "blocks_in_area": blocks,
        "block": list(plan.block),
        "windows": tiles * len(plan.views),
        "window": [list(plan.window_at(scale)) for scale in plan.scales],
        "core": list(plan.tile),
        "halo": [plan.halo_at(scale) for scale in plan.scales],
        "batch": plan.batch,
        "ground_sample_distance": prepared.scene.grid.ground_sample_distance,
        "wanted_ground_sample_distance": _wanted(prepared.spec, prepared.card),
        "resampled_by": str(prepared.base),
        "scales": [str(scale) for scale in plan.scales],
        "views": len(plan.views),
        "stitch": plan.stitch,
        "exact": plan.exact,
        "precision": plan.precision,
        "redundancy": round(plan.redundancy, 3),
        "gflop": round(plan.flops / 1e9 * tiles / plan.tile_count, 1),
        "workers": plan.workers,
        "memory_bytes": memory.total,
        "memory_bytes_driver": memory.driver,
        "memory_bytes_per_worker": memory.worker,
        "max_memory_bytes": prepared.max_memory,
        "disk_bytes": plan.disk,
        "disk_free_bytes": hardware.disk_free(prepared.folder) if isinstance(prepared.folder, Path) else None,
        "output": str(prepared.folder),
    }
