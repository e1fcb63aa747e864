"""A run as arithmetic: blocks, tiles, halos, memory, disk and work, before any file is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from tileseg.blend import BLENDS
from tileseg.card import ModelCard
from tileseg.errors import UsageError
from tileseg.polygons.memory import join_bytes, trace_bytes
from tileseg.tta import Flips, View, alignment, view_halo, view_margin, views
from tileseg.window import Window

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Stitch = str
"""``exact``, or the name of a blend: see :mod:`tileseg.blend`."""
Precision = Literal["float32", "bfloat16", "float16", "int8"]
Keep = Literal["logits", "probabilities", "labels"]
"""What a mosaic has of each class besides labels; disagreement of views may come on top."""

MIB = 1 << 20

# Resident memory of processes that do nothing yet, and of what a block needs beside its arrays: measured, see
# benchmarks/RESULTS.md (memory), and rounded up.
_DRIVER_BASE = 480 * MIB
_LIBRARIES = {"keras": 920 * MIB}
_SMALL_LIBRARIES = 320 * MIB
_OUTPUTS = 258 * MIB
MEMORY_SHARE: Mapping[Precision, float] = {"float32": 1.0, "bfloat16": 0.6, "float16": 0.6, "int8": 0.4}
"""Memory of a network over that in float32, at most.

In 16 bits some operations widen it, and oneDNN reorders: 1.34 to 1.76 times the bytes of what is alive at once were
measured, where float32 has up to 1.47 and counts 1.5. In int8 the ends stay in float32: 0.34 by ONNX Runtime.
"""


@dataclass(frozen=True, slots=True)
class Block:
    """One task: the pixels that it alone writes."""

    index: int
    """Position in the plan, row by row."""
    core: Window
    """What it writes, clipped to the scene."""


@dataclass(frozen=True, slots=True)
class MemoryProjection:
    """Projected peak of resident memory, in bytes, as named terms that add up."""

    driver_terms: Mapping[str, int]
    """Term -> bytes of the process that plans, feeds and writes outputs, and computes where there are no workers."""
    worker_terms: Mapping[str, int]
    """Term -> bytes of one worker process."""
    workers: int
    """How many."""

    @property
    def driver(self) -> int:
        """Bytes of the driver."""
        return sum(self.driver_terms.values())

    @property
    def worker(self) -> int:
        """Bytes of one worker; 0 without workers."""
        return sum(self.worker_terms.values())

    @property
    def total(self) -> int:
        """Over all processes."""
        return self.driver + self.worker * self.workers


@dataclass(frozen=True)
class Plan:
    """Everything about a run that follows from sizes alone. Sizes are (rows, columns) in pixels of the scene."""

    scene: tuple[int, int]
    bands: int
    itemsize: int
    """Bytes of one value of one band."""
    card: ModelCard
    scales: tuple[Fraction, ...]
    flips: Flips
    stitch: Stitch
    precision: Precision
    engine: str
    """What computes the network: a name of :data:`tileseg.engine.registry.ENGINES`."""
    form: str
    """Which file of the card's forms it computes."""
    keep: Keep
    block: tuple[int, int]
    """Size of a block's core; those at the right and the bottom may be smaller."""
    tile: tuple[int, int]
    """Size of a tile's core: what the network is asked for in one go."""
    step: tuple[int, int]
    """From one tile to the next: equal to ``tile`` unless tiles are blended."""
    halo: int | None
    """Context in pixels of each view as the user gave it, or None to derive it from the model."""
    batch: int
    workers: int
    """Worker processes; 0: everything in one process."""
    threads: int
    """Blocks in flight in one process, at most."""
    disagreement: bool = False
    """Whether the disagreement of views is kept."""

    def __post_init__(self) -> None:
        if min(*self.block, *self.tile, *self.step, self.batch) < 1:
            raise UsageError(f"a plan needs blocks, tiles and batches of at least 1: {self.block}, {self.tile}")
        for name, size in (("block", self.block), ("tile", self.tile), ("step", self.step)):
            if any(side % self.align for side in size):
                raise UsageError(
                    f"{name} {size[0]}x{size[1]} is not a multiple of {self.align} pixels "
                    f"(stride {self.card.stride} x the scales' denominators)"
                )

    @cached_property
    def align(self) -> int:
        """Origins and sizes are multiples of it."""
        return align_of(self.card, self.scales)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What the network sees of every tile, in the order of summing."""
        return views(self.scales, self.flips)

    def halo_at(self, scale: Fraction) -> int:
        """Context around a core in pixels of the view at ``scale``."""
        return halo_of(self.card, self.stitch, self.halo, scale)

    @cached_property
    def margin(self) -> int:
        """Source pixels that every tile brings along around its core: enough for all scales, in whole periods."""
        periods = math.lcm(*(s.denominator for s in self.scales))
        most = max(view_margin(self.halo_at(scale), scale) for scale in self.scales)
        return -(-most // periods) * periods

    @property
    def exact(self) -> bool:
        """Whether tiled results equal the network run once over the whole scene (in float32)."""
        return (
            self.stitch == "exact"
            and self.card.local
            and all(self.halo_at(s) >= view_halo(self.card.radius, self.card.stride, s) for s in self.scales)
        )

    # --- Blocks and tiles -------------------------------------------------------------------------------------

    @property
    def lattice(self) -> tuple[int, int]:
        """Blocks down, blocks across."""
        return -(-self.scene[0] // self.block[0]), -(-self.scene[1] // self.block[1])

    @property
    def blocks(self) -> int:
        """How many."""
        return self.lattice[0] * self.lattice[1]

    @property
    def maps(self) -> int:
        """Numbers that a pixel gets from the network: one for each class, and the disagreement of views."""
        return len(self.card.classes) + self.disagreement

    def __getitem__(self, index: int) -> Block:
        """The block at a position."""
        if not 0 <= index < self.blocks:
            raise IndexError(index)
        down, across = divmod(index, self.lattice[1])
        row, col = down * self.block[0], across * self.block[1]
        height, width = min(self.block[0], self.scene[0] - row), min(self.block[1], self.scene[1] - col)
        return Block(index, Window(row, col, height, width))

    def __iter__(self) -> Iterator[Block]:
        """All blocks, row by row."""
        return (self[i] for i in range(self.blocks))

    def tiles(self, core: Window) -> list[Window]:
        """Cores of the tiles that a block computes, row by row; they may reach past the block and the scene."""
        height, width = self.tile
        if self.stitch == "exact":
            rows = range(core.row_off, core.row_stop, height)
            cols = range(core.col_off, core.col_stop, width)
        else:
            # One lattice for the whole scene, so that a pixel's blend does not depend on the blocks.
            rows = _covering(core.row_off, core.row_stop, height, self.step[0])
            cols = _covering(core.col_off, core.col_stop, width, self.step[1])
        return [Window(row, col, height, width) for row in rows for col in cols]

    def read(self, core: Window) -> Window:
        """Source pixels that the tiles of a block need; may reach past the scene."""
        tiles = self.tiles(core)
        first, last = tiles[0], tiles[-1]
        cover = Window(first.row_off, first.col_off, last.row_stop - first.row_off, last.col_stop - first.col_off)
        return cover.buffer(self.margin)

    @property
    def reflect(self) -> int:
        """How far past the scene's edge pixels still matter."""
        return self.margin if self.stitch == "exact" else self.margin + max(self.tile)

    def weights(self, axis: int) -> npt.NDArray[np.float32]:
        """Blending weights along one axis of a tile, summing to 1 over all tiles that cover a pixel."""
        return BLENDS[self.stitch].weights(self.tile[axis], self.step[axis])

    # --- Work, memory, disk -----------------------------------------------------------------------------------

    def window_at(self, scale: Fraction) -> tuple[int, int]:
        """Size of the network's input for one tile, in pixels of the view."""
        return window_of(self.tile, scale, self.halo_at(scale))

    @cached_property
    def tile_count(self) -> int:
        """Tiles over all blocks."""
        return sum(len(self.tiles(block.core)) for block in self)

    @property
    def redundancy(self) -> float:
        """Pixels the network's input has, per pixel of the scene and view, at scale 1's share of the views.

        1 would be the scene itself; halos, overlaps and ragged edges are above it.
        """
        seen = sum(math.prod(self.window_at(s)) for s in self.scales) * self.tile_count
        return seen / (math.prod(self.scene) * float(sum(s * s for s in self.scales)))

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run, before cropping saves some."""
        per_tile = sum(math.prod(self.window_at(v.scale)) for v in self.views)
        return per_tile * self.tile_count * self.card.flops_per_pixel

    @property
    def disk(self) -> int:
        """Bytes of the mosaic before compression."""
        classes = len(self.card.classes)
        per_pixel = {"logits": 2.0 * classes, "probabilities": 2.0 * classes, "labels": 0.0}[self.keep]
        return int(math.prod(self.scene) * (per_pixel + self.disagreement + 4 / 3))

    @property
    def memory(self) -> MemoryProjection:
        """Peak resident memory, projected: an upper bound that tests measure against."""
        block = self._block_terms
        busy = {"network": self._network_bytes} | {
            f"{name}, {self.threads} in flight": size * self.threads for name, size in block.items()
        }
        driver = {
            "driver": _DRIVER_BASE,
            "joining polygons": join_bytes(),
            "other outputs": _OUTPUTS,
            "a block read again": self.memory_in_flight,
        }
        worker = {"libraries": _LIBRARIES.get(self.engine, _SMALL_LIBRARIES), **busy}
        if self.workers == 0:
            # As of one worker: what blocks took may be kept until the outputs are written, and a run that was killed
            # goes on in a process of its own.
            return MemoryProjection({**driver, **worker}, {}, 0)
        return MemoryProjection(driver, worker, self.workers)

    @property
    def memory_in_flight(self) -> int:
        """Bytes of one more block in flight in one process."""
        return sum(self._block_terms.values())

    @property
    def _block_terms(self) -> dict[str, int]:
        """Bytes of a block in flight."""
        maps = self.maps
        height, width = (min(b, s) for b, s in zip(self.block, self.scene, strict=True))
        read = (height + 2 * self.margin + self.tile[0]) * (width + 2 * self.margin + self.tile[1])
        if self.stitch == "exact":
            read = math.prod(-(-b // t) * t + 2 * self.margin for b, t in zip((height, width), self.tile, strict=True))
        blended = 4 * maps if self.stitch != "exact" else 0
        # Pixels and their validity, as read and as put together.
        pixels = read * (self.bands * self.itemsize + 1) * 2
        # Logits as float16 and, a band of rows at a time, float32; labels and confidence; the encoded shard.
        logits = height * width * (2 * maps * 2 + blended + 3 + 12)
        # Polygons are traced when pixels and logits have gone, and labels and confidence are left.
        tracing = height * width * (3 + self.disagreement) + trace_bytes(height, width)
        return {
            "pixels of a block": int(pixels),
            "logits and labels of a block": int(logits),
            "tracing a block, beyond these": max(0, tracing - int(pixels) - int(logits)),
        }

    @property
    def _network_bytes(self) -> int:
        """Bytes of the network on a batch."""
        # What is summed over views: for disagreement, logits and probabilities of classes, and the latter's squares.
        summed = 2 * len(self.card.classes) + 1 if self.disagreement else len(self.card.classes)
        network = max(math.prod(self.window_at(s)) for s in self.scales) * self.batch
        activations = network * self.card.activation_bytes_per_pixel
        activations *= MEMORY_SHARE[self.precision]
        core = math.prod(self.tile) * self.batch
        source = math.prod(side + 2 * self.margin for side in self.tile) * self.batch * 4 * self.bands
        # The tile as float32 on the device, a copy of it with longer edges while it is resampled, before the network
        # has anything; the sum of views, and what is handed back.
        copy = source if any(scale != 1 for scale in self.scales) else 0
        return int(source + max(copy, activations) + core * 3 * 4 * summed + 12 * self.card.parameters)


def align_of(card: ModelCard, scales: tuple[Fraction, ...]) -> int:
    """What origins and sizes of tiles and blocks are multiples of."""
    # At least 16, so that shards divide into chunks and four levels of the pyramid whatever the model's stride.
    return math.lcm(16, alignment(card.stride, scales))


def halo_of(card: ModelCard, stitch: Stitch, halo: int | None, scale: Fraction) -> int:
    """Context around a core in pixels of the view at ``scale``: as asked for, or what the model needs."""
    if halo is not None:
        return halo
    if stitch != "exact" or not card.local:
        return 0
    return view_halo(card.radius, card.stride, scale)


def window_of(tile: tuple[int, int], scale: Fraction, halo: int) -> tuple[int, int]:
    """Size of the network's input for a tile, in pixels of the view at ``scale``."""
    return int(tile[0] * scale) + 2 * halo, int(tile[1] * scale) + 2 * halo


def _covering(start: int, stop: int, size: int, step: int) -> range:
    """Multiples of ``step`` at which a tile of ``size`` touches [start, stop)."""
    return range(((start - size) // step + 1) * step, stop, step)
