"""What a run reports on the way, and its result."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tileseg.cluster import hardware
from tileseg.engine.kinds import engine_kind
from tileseg.run import pace
from tileseg.run.identity import Record
from tileseg.run.ledger import BlockRecord
from tileseg.run.prepare import PreparedRun, wanted_distance
from tileseg.storage.place import Url


class Listener(Protocol):
    """Receives the progress of a run."""

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def start(self, prepared: PreparedRun, done: int) -> None:
        """Blocks are about to be computed; ``done`` of them are finished already."""

    def block(self, record: BlockRecord, pixels: int) -> None:
        """A block of ``pixels`` pixels is finished."""

    def stage(self, name: str) -> None:
        """What is done once all blocks are."""


class Silent:
    """A listener that ignores everything."""

    def notice(self, text: str) -> None:
        """Nothing."""

    def start(self, prepared: PreparedRun, done: int) -> None:
        """Nothing."""

    def block(self, record: BlockRecord, pixels: int) -> None:
        """Nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""


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
    """Pace over the whole call, in pixels of the scene."""
    peak_memory: int
    """Resident bytes over all processes."""
    projected_memory: int
    """Bytes that the plan said would be enough."""
    notices: tuple[str, ...] = ()
    finished_before: bool = False
    """The folder was finished already, so nothing was done."""
    only_polygons: bool = False
    """The folder was finished already, and only its polygons were made anew, by other options."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values = asdict(self)
        values["folder"] = str(self.folder)
        values["outputs"] = {name: str(path) for name, path in self.outputs.items()}
        return values


def summary_of(prepared: PreparedRun, record: Record, report: RunReport) -> dict[str, Any]:
    """What ``summary.json`` keeps: the run, its versions and what came out, in JSON values."""
    plan = prepared.plan
    packages = dict.fromkeys((
        "tileseg", "keras", "tensorflow", "onnxruntime", engine_kind(plan.engine).package, "rasterio", "zarr", "dask",
        "shapely", "pyogrio", "numpy",
    ))  # fmt: skip
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": prepared.identity,
        "sizes": record.sizes.model_dump(mode="json"),
        "earlier_sizes": [sizes.model_dump(mode="json") for sizes in record.earlier_sizes],
        "fingerprint": prepared.fingerprint,
        "spec": prepared.spec.model_dump(mode="json"),
        "scene": {"path": str(prepared.spec.scene), "height": plan.scene[0], "width": plan.scene[1]},
        "model": {
            "name": prepared.card.name,
            "sha256": prepared.card.sha256,
            "credits": prepared.card.credits,
            "distance": prepared.distance,
            "usual_distance": None if (usual := prepared.card.appearance) is None else usual.far,
            "temperature": None if prepared.card.temperature is None else prepared.card.divisor,
        },
        "engine": {
            "name": plan.engine,
            "form": plan.card.form(plan.form).model_dump(mode="json"),
            "precision": plan.precision,
            "why": prepared.sizing.choice.why,
        },
        "plan": describe(prepared),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "estimate": None if (expected := pace.estimate(prepared)) is None else expected.to_json(),
        "report": report.to_json(),
    }


def _version(package: str) -> str:
    """Of a distribution; one that brings a package under another name is found by what it brings."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        brought_by = importlib.metadata.packages_distributions().get(package, ())
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in brought_by) or "missing"


def describe(prepared: PreparedRun) -> dict[str, Any]:
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
        "ground_sample_distance": prepared.scene.grid.ground_sample_distance or prepared.spec.pixel_size,
        "wanted_ground_sample_distance": wanted_distance(prepared.spec, prepared.card),
        "resampled_by": str(prepared.base),
        "scales": [str(scale) for scale in plan.scales],
        "views": len(plan.views),
        "stitch": plan.stitch,
        "exact": plan.exact,
        "engine": plan.engine,
        "form": plan.form,
        "precision": plan.precision,
        "chosen": prepared.sizing.choice.why,
        "redundancy": round(plan.redundancy, 3),
        "gflop": round(plan.flops / 1e9 * tiles / plan.tile_count, 1),
        "workers": plan.workers,
        "memory_bytes": memory.total,
        "memory_bytes_driver": memory.driver,
        "memory_bytes_per_worker": memory.worker,
        "memory_terms": {"driver": dict(memory.driver_terms), "worker": dict(memory.worker_terms)},
        "max_memory_bytes": prepared.max_memory,
        "disk_bytes": plan.disk,
        "disk_free_bytes": hardware.disk_free(prepared.folder) if isinstance(prepared.folder, Path) else None,
        "output": str(prepared.folder),
    }
