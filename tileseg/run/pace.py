"""How fast this machine was, and how long a run will take by that.

A run that computed all of its blocks undisturbed leaves a line in the user's caches. Time is taken to be that of the
start, of loading the network, and of work: per GFLOP of the network, and per pixel of what follows the last block.
"""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tileseg.cluster import hardware
from tileseg.storage.local import cache_folder, until_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tileseg.run.prepare import PreparedRun
    from tileseg.run.report import RunReport

_KEPT, _USED = 400, 8
"""Lines of the file; runs of one kind that an estimate is made from, the last ones."""
_APART = 0.25
"""How far from the estimate a run may end on a machine that has nothing else to do: the goal, and the least range."""


class Pace(BaseModel):
    """What a run took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Runs of one kind cost alike per unit of work: engine, form, device, workers, what is kept."""
    gflop: float
    megapixels: float
    start: float
    """Seconds until the first block."""
    load: float
    """Of them that the network took to be there, within the time of the blocks."""
    blocks: float
    finish: float

    @classmethod
    def of(cls, prepared: PreparedRun, report: RunReport) -> Self | None:
        """That of a run; None where it was not done in one go."""
        seconds = report.seconds
        if report.computed != prepared.wanted[0] or report.only_polygons or not {"start", "blocks"} <= seconds.keys():
            return None
        load = min(seconds.get("blocks: load", 0.0), seconds["blocks"])
        work = work_of(prepared)
        return cls(
            kind=kind_of(prepared), gflop=work[0], megapixels=work[1], start=seconds["start"], load=load,
            blocks=seconds["blocks"] - load, finish=seconds.get("finish", 0.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run will take."""

    seconds: float
    low: float
    high: float
    runs: int
    """Of this kind that it was made from."""

    def to_json(self) -> dict[str, float]:
        """JSON values."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


def kind_of(prepared: PreparedRun) -> str:
    """What runs have to have in common to be compared."""
    plan, spec = prepared.plan, prepared.spec
    cpu = hardware.cpu()
    where = "elsewhere" if spec.remote is not None else "gpu" if prepared.sizing.gpu else "cpu"
    options = [plan.engine, plan.precision, plan.workers, plan.keep, plan.disagreement, spec.regularize]
    return "; ".join(map(str, [prepared.card.form(plan.form).sha256[:12], *options, where, cpu.cores, cpu.model]))


def work_of(prepared: PreparedRun) -> tuple[float, float]:
    """GFLOP and megapixels of the blocks that are wanted."""
    plan = prepared.plan
    blocks, tiles = prepared.wanted
    pixels = plan.scene[0] * plan.scene[1] * blocks / plan.blocks
    return plan.flops / 1e9 * tiles / plan.tile_count, pixels / 1e6


def remember(prepared: PreparedRun, report: RunReport) -> None:
    """Keep what a run took; nothing happens where that is not possible."""
    if (pace := Pace.of(prepared, report)) is None:
        return
    with suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [each.model_dump_json() for each in [*_read(file), pace][-_KEPT:]]
        with until_whole(file) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def estimate(prepared: PreparedRun) -> Estimate | None:
    """How long a run will take by what runs of its kind took on this machine; None where there was none."""
    kind = kind_of(prepared)
    known = [pace for pace in _read(_file()) if pace.kind == kind][-_USED:]
    return by_paces(known, *work_of(prepared)) if known else None


def by_paces(known: Sequence[Pace], gflop: float, megapixels: float) -> Estimate:
    """How long so much work takes. Large runs count for more: small ones have hardly any work to go by."""
    fixed = statistics.median(pace.start + pace.load for pace in known)

    def rate(paces: Sequence[Pace]) -> tuple[float, float]:
        work, pixels = sum(pace.gflop for pace in paces), sum(pace.megapixels for pace in paces)
        return sum(pace.blocks for pace in paces) / max(work, 1e-9), sum(pace.finish for pace in paces) / max(
            pixels, 1e-9
        )

    def seconds(paces: Sequence[Pace]) -> float:
        per_gflop, per_megapixel = rate(paces)
        return fixed + per_gflop * gflop + per_megapixel * megapixels

    middle = seconds(known)
    largest = max(pace.gflop for pace in known)
    single = [seconds([pace]) for pace in known if pace.gflop >= largest / 4]
    return Estimate(middle, min(middle * (1 - _APART), *single), max(middle * (1 + _APART), *single), len(known))


def _file() -> Path:
    return cache_folder("pace") / "runs.jsonl"


def _read(file: Path) -> list[Pace]:
    """What was kept; lines of other versions, and damaged ones, are left out."""
    found: list[Pace] = []
    with suppress(OSError, UnicodeDecodeError):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValidationError):
                found.append(Pace.model_validate_json(line))
    return found
