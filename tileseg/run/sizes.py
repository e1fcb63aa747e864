"""Blocks, windows and batches of a run: chosen from memory, and what to say of sizes that are not as asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from tileseg.cluster import hardware
from tileseg.engine.kinds import engine_kind
from tileseg.errors import UsageError
from tileseg.tiling import Resources, SceneShape, TilingChoice, ViewChoice, make_plan
from tileseg.tta import View, view_halo

if TYPE_CHECKING:
    from tileseg.card import ModelCard
    from tileseg.engine.choice import Choice
    from tileseg.plan import Plan, Stitch
    from tileseg.spec import RunSpec

_GIB = 1 << 30

_DEFAULT_MEMORY = 5 * _GIB
"""Allowed per worker where the user does not say: room for the largest window of a network as large as the embedded."""

_LARGER_MEMORY = 8 * _GIB
"""The same for networks that would see too small windows.

Of a full VGG16-Unet in bfloat16, 5 GiB hold 1312 x 1664 pixels, and 8 hold 1664 x 2336.
"""

_SMALL_WINDOW = 1536
"""Pixels on a side, below which much of the network's work is at the edges of its windows, and cropped away."""

_THREADS = 2
"""Blocks in flight in a process: one on the device, one being read or written. On a GPU, more where memory is left."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the sizes of a run are chosen from."""

    spec: RunSpec
    card: ModelCard
    scene: tuple[int, int]
    """Pixels (rows, columns)."""
    itemsize: int
    """Bytes of one value of one band."""
    base: Fraction
    """Scale at which the model sees the scene; those of the spec are relative to it."""
    stitch: Stitch
    choice: Choice
    """What computes the network."""
    workers: int
    gpu: bool = False
    """Whether this machine has a GPU, which engines may use."""

    def plan(self, max_memory: int | None, block: tuple[int, int] | None = None) -> Plan:
        """The plan with the largest windows that ``max_memory`` (bytes, all processes) holds; ``block`` is kept.

        Raises UsageError where nothing fits or a size cannot be.
        """
        spec = self.spec
        plan = make_plan(
            SceneShape(self.scene, len(self.card.bands), self.itemsize),
            self.card,
            ViewChoice(_scales(spec, self.base), self.base, spec.flips),
            TilingChoice(
                stitch=self.stitch,
                overlap=spec.overlap,
                halo=None if spec.halo == "auto" else spec.halo,
                block=block or spec.block,
                window=spec.window,
                batch=spec.batch,
            ),
            Resources(
                precision=self.choice.precision,
                engine=self.choice.engine,
                form=self.choice.form.file,
                workers=self.workers,
                threads=1 if spec.workers == 0 else _THREADS,
                max_memory=max_memory,
            ),
            keep=spec.kept,
            disagreement=spec.keeps_disagreement,
        )
        return self.fed(plan, max_memory)

    def fed(self, plan: Plan, max_memory: int | None) -> Plan:
        """The plan with as many blocks in flight as memory is left for, where a GPU could wait for them.

        A run lets in as many of them as it sees that its device wants (:mod:`tileseg.run.feeding`). More than two for
        each core are none: each of them has work for a core most of the time.
        """
        plan = replace(plan, threads=min(plan.threads, _THREADS))
        if not self.gpu or not engine_kind(plan.engine).on_gpu(plan.precision) or plan.threads < _THREADS:
            return plan
        if self.spec.remote is not None or max_memory is None:
            return plan  # others' workers have two places each
        processes = max(1, plan.workers)
        more = (max_memory - plan.memory.total) // (processes * plan.memory_in_flight)
        most = _THREADS + 2 * hardware.cpu().cores // processes
        return replace(plan, threads=max(plan.threads, min(plan.threads + more, most)))

    def choose(self, machine: hardware.Hardware) -> tuple[Plan, int]:
        """The plan of a new run, and how many bytes of memory it was allowed. Raises UsageError."""
        spec = self.spec
        usual, most = (
            each if spec.remote is not None else min(each, machine.memory.available // 2)
            for each in (memory * max(1, self.workers) for memory in (_DEFAULT_MEMORY, _LARGER_MEMORY))
        )
        allowed = int(spec.max_memory or usual)
        plan = self.plan(allowed)
        small = plan.tile_count > 1 and math.prod(plan.window_at(max(plan.scales))) < _SMALL_WINDOW**2
        if spec.max_memory is None and small and most > usual:
            return self.plan(most), most
        return plan, allowed

    def notices(self, plan: Plan) -> tuple[str, ...]:
        """What to say about sizes of a new run that are not as they were asked for, a line each."""
        spec, unbounded = self.spec, plan if self.spec.max_memory is None else self.plan(None)
        lines = []
        if plan.tile != unbounded.tile:
            lines.append(
                f"windows of {shown_window(plan)} instead of {shown_window(unbounded)} pixels, to stay under "
                f"{(spec.max_memory or 0) / _GIB:.2f} GiB (--max-memory)"
            )
        if spec.block is not None and plan.block[0] != spec.block:
            lines.append(
                f"blocks of {plan.block[0]} pixels instead of {spec.block}: for this scene, model and scales they are "
                f"multiples of {plan.align}"
            )
        if plan.stitch == "exact" and not plan.exact:
            needed = max(view_halo(plan.card.radius, plan.card.stride, scale) for scale in plan.scales)
            lines.append(f"seams are approximate: --halo {spec.halo} is less than the {needed} pixels that are needed")
        return tuple(lines)

    def at(self, choice: Choice) -> Sizing:
        """The same for another engine or arithmetic."""
        return replace(self, choice=choice)


def shown_window(plan: Plan) -> str:
    """The network's input as a user reads it, width first."""
    rows, cols = plan.window_at(max(plan.scales))
    return f"{cols}x{rows}"


def _scales(spec: RunSpec, base: Fraction) -> tuple[Fraction, ...]:
    """The scales wished for, of the scene's own pixels."""
    for scale in spec.scales:
        try:
            View(base * scale)
        except UsageError as error:
            raise UsageError(f"--scales {scale} of a scene that is resampled by {base} (see --gsd): {error}") from None
    return tuple(base * scale for scale in spec.scales)
