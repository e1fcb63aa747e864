"""Score predicted labels against true ones, block by block.

A block is read once, with as many pixels around it as the widest question needs; what it gives is counts. Contours
and traced polygons wait in a temporary folder. Memory depends on blocks and classes, not on the scene's size; only
polygons that are matched are held at once, and the different distances that occur.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tileseg.card import ClassInfo
from tileseg.cluster.hardware import cpu
from tileseg.evaluate.blocks import BlockCounts, SceneWork
from tileseg.evaluate.scores import Comparison, Options, RankedWindow, SceneScores, rank_windows


def score(
    pair: Comparison,
    classes: Sequence[ClassInfo],
    options: Options | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SceneScores:
    """Score one scene. ``progress`` is called with (blocks done, blocks).

    Raises InputError where something cannot be read, UsageError for options that do not fit the scene.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="tileseg-evaluate-") as folder:
        work = SceneWork.begin(pair, classes, options, Path(folder))
        total: BlockCounts | None = None
        ranked: list[RankedWindow] = []
        for done, counts in enumerate(work.run(), start=1):
            total = counts if total is None else total + counts
            ranked = [w for kept in rank_windows([*ranked, *counts.ranked]) for w in kept]
            if progress is not None:
                progress(done, len(work.cores))
        assert total is not None
        worst, best = rank_windows(ranked)
        pixels, metres, without = work.distances()
        return SceneScores(
            pair.name,
            total.matrix,
            total.band,
            work.width,
            pixels,
            metres,
            without,
            total.calibration,
            work.matchings(),
            total.unknown,
            total.missing,
            worst,
            best,
            pair.place or pair.name,
            pair.drawn,
        )


def default_threads() -> int:
    """One per core that this process may use, four at most."""
    return min(4, cpu().cores)
