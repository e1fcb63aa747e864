"""The choice of blocks, windows and batches for a scene: the largest tile that memory allows, cut evenly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tileseg.card import ModelCard
from tileseg.errors import UsageError
from tileseg.plan import MIB, Keep, Plan, Precision, Stitch, align_of, halo_of, window_of
from tileseg.tta import Flips

LARGEST_TILE = 2048
"""Pixels of what the network sees: past it, redundancy falls by little and memory grows by much."""

WAITING = 1.25
"""How much more pixels the network may see for a block to be read while the one before is computed."""


@dataclass(frozen=True, slots=True)
class SceneShape:
    """What a plan needs to know about a scene."""

    size: tuple[int, int]
    """Pixels: rows, columns."""
    bands: int
    itemsize: int
    """Bytes of one value of one band."""


@dataclass(frozen=True, slots=True)
class ViewChoice:
    """The views that are averaged."""

    scales: tuple[Fraction, ...] = (Fraction(1),)
    """Scales relative to the scene's own pixels."""
    base: Fraction = Fraction(1)
    """The scale in whose pixels windows are meant: that at which the model sees the scene as it was trained."""
    flips: Flips = "none"


@dataclass(frozen=True, slots=True)
class TilingChoice:
    """How a scene is cut, as far as somebody wishes; None: chosen."""

    stitch: Stitch = "exact"
    overlap: float = 0.5
    """Share of a window, where windows are blended."""
    halo: int | None = None
    """Context in pixels of each view."""
    block: int | tuple[int, int] | None = None
    """Its side, or (rows, columns), in pixels of the scene; made a multiple of what strides and scales ask for."""
    window: int | None = None
    """Side of the network's input, in pixels of the view at the base scale. Too little memory makes it smaller."""
    batch: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise UsageError(f"--overlap {self.overlap}: expected a share of the window from 0 to below 1")

    def block_size(self, align: int) -> tuple[int, int] | None:
        """The block wished for, as a multiple of ``align``."""
        if self.block is None:
            return None
        rows, cols = (self.block, self.block) if isinstance(self.block, int) else self.block
        return -(-rows // align) * align, -(-cols // align) * align


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use."""

    precision: Precision = "float32"
    engine: str = "keras"
    form: str = "model.keras"
    workers: int = 1
    """Processes; 0: everything in one."""
    threads: int = 2
    """Blocks in flight in one process."""
    max_memory: int | None = None
    """Bytes of all processes; None: any."""


def make_plan(
    scene: SceneShape,
    card: ModelCard,
    views: ViewChoice | None = None,
    tiling: TilingChoice | None = None,
    resources: Resources | None = None,
    *,
    keep: Keep = "logits",
    disagreement: bool = False,
) -> Plan:
    """The plan with the largest tile that memory allows. Raises UsageError where nothing fits or a size cannot be."""
    views, tiling, resources = views or ViewChoice(), tiling or TilingChoice(), resources or Resources()
    if tiling.halo is not None and (tiling.halo < 0 or tiling.halo % card.stride):
        raise UsageError(f"--halo {tiling.halo}: expected a multiple of the model's stride {card.stride}")
    candidates: list[Plan] = []
    for block, tile in _cuts(scene.size, card, views, tiling):
        align = align_of(card, views.scales)
        step = tile
        if tiling.stitch != "exact":
            step = (_stride(tile[0], tiling.overlap, align), _stride(tile[1], tiling.overlap, align))
        largest = max(views.scales)
        each = window_of(tile, largest, halo_of(card, tiling.stitch, tiling.halo, largest))
        per_block = math.prod(-(-b // s) for b, s in zip(block, step, strict=True))
        candidate = Plan(
            scene=scene.size,
            bands=scene.bands,
            itemsize=scene.itemsize,
            card=card,
            scales=views.scales,
            flips=views.flips,
            stitch=tiling.stitch,
            precision=resources.precision,
            engine=resources.engine,
            form=resources.form,
            keep=keep,
            block=block,
            tile=tile,
            step=step,
            halo=tiling.halo,
            batch=tiling.batch or min(per_block, max(1, 1024**2 // math.prod(each))),
            workers=resources.workers,
            threads=resources.threads,
            disagreement=disagreement,
        )
        candidates.append(candidate)
        if resources.max_memory is None or candidate.memory.total <= resources.max_memory:
            break
    return candidates[-1] if resources.max_memory is None else _cheaper(candidates, resources.max_memory)


def _cheaper(candidates: Sequence[Plan], memory: int) -> Plan:
    """The last of the candidates, the only one that may fit, or a larger one with one window and one block at a time.

    Smaller tiles go in larger batches and may spare nothing, while the network sees ever more of their halos.
    """
    last = candidates[-1]
    single = [replace(candidate, batch=1, threads=1) for candidate in candidates]
    fitting = next((plan for plan in single if plan.memory.total <= memory), None)
    if fitting is None:
        raise _too_little(single[-1], memory)
    if last.memory.total <= memory and last.redundancy <= WAITING * fitting.redundancy:
        return last
    return fitting


def _cuts(
    scene: tuple[int, int], card: ModelCard, views: ViewChoice, tiling: TilingChoice
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Sizes of (blocks, tiles), from the largest tiles to the smallest."""
    align = align_of(card, views.scales)
    fixed = tiling.block_size(align)
    context = halo_of(card, tiling.stitch, tiling.halo, views.base)
    largest = max(align, int(LARGEST_TILE / views.base))
    limit = largest if tiling.window is None else _tile_of(tiling.window, align, views.base, context)
    sizes = [limit, *(size for size in (int(s / views.base) for s in _SIZES) if size < limit), align]
    for size in _shapes([max(align, s // align * align) for s in sizes]):
        if tiling.window and size == (limit, limit):
            # A window by wish is kept as it is, and blocks are whole numbers of them.
            yield fixed or _whole_tiles(scene, limit, largest), size
        else:
            block = fixed or (_even(scene[0], size[0], align), _even(scene[1], size[1], align))
            yield block, _cheapest(scene, block, size, align, math.ceil(context / views.base))


def _too_little(plan: Plan, memory: int) -> UsageError:
    """``plan``: the smallest that there is, one tile at a time."""
    allowed = f"{memory / MIB:.0f} MiB" if memory >= MIB else f"{memory} bytes (without a unit such as GiB)"
    return UsageError(
        f"--max-memory {allowed} is too little: even with tiles of {plan.tile[0]}x{plan.tile[1]} "
        f"and blocks of {plan.block[0]}x{plan.block[1]} pixels about {plan.memory.total / MIB:.0f} MiB are needed "
        f"{f'on {plan.workers} worker(s)' if plan.workers else 'in one process'}; "
        f"raise it, or lower {'--workers, ' if plan.workers > 1 else ''}--block or --scales"
    )


_SIZES = (1792, 1536, 1280, 1024, 896, 768, 640, 512, 448, 384, 320, 256, 192, 128, 64, 32)


def _shapes(sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Rows and columns of squares that become smaller, and between two of them of what is as wide as the one before."""
    before: int | None = None
    for size in dict.fromkeys(sizes):
        if before is not None:
            yield size, before
        yield size, size
        before = size


def _even(extent: int, largest: int, align: int) -> int:
    """Side of equal pieces of ``extent``, at most ``largest``, a multiple of ``align``."""
    pieces = -(-extent // largest)
    return -(-extent // (pieces * align)) * align


def _whole_tiles(scene: tuple[int, int], size: int, largest: int) -> tuple[int, int]:
    """A block of as many tiles as fit the largest tile's side, and no more than the scene has."""
    height, width = (min(-(-extent // size), max(1, largest // size)) * size for extent in scene)
    return height, width


def _cheapest(
    scene: tuple[int, int], block: tuple[int, int], largest: tuple[int, int], align: int, halo: int
) -> tuple[int, int]:
    """Tile size that makes the network see the fewest rows and columns over all blocks."""

    def side(extent: int, cut: int, largest: int) -> int:
        full, rest = divmod(extent, cut)
        least = -(-min(cut, extent) // largest)
        options = {_even(min(cut, extent), largest, align)} | {
            -(-min(cut, extent) // (pieces * align)) * align for pieces in range(least, least + 4)
        }
        return min(
            (t for t in options if t <= max(largest, align)),
            key=lambda t: ((full * -(-cut // t) + -(-rest // t)) * (t + 2 * halo), -t),
        )

    return side(scene[0], block[0], largest[0]), side(scene[1], block[1], largest[1])


def _tile_of(window: int, align: int, base: Fraction, halo: int) -> int:
    """Core, in pixels of the scene, of a window of a given size in pixels of the view at ``base``."""
    core = int((window - 2 * halo) / base) // align * align
    if core < align:
        raise UsageError(
            f"--window {window} leaves no core: the halo takes {halo} pixels on each side; "
            f"expected at least {2 * halo + math.ceil(align * base)}"
        )
    return core


def _stride(tile: int, overlap: float, align: int) -> int:
    return min(tile, max(align, round(tile * (1 - overlap) / align) * align))
