"""What tracing and joining take is what they declare, on the labels that are hardest for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tileseg.polygons.memory import JOIN_CORNERS, MIB, join_bytes, trace_bytes

REPOSITORY = Path(__file__).resolve().parents[2]

MEASURE = """
import sys
from pathlib import Path
import numpy as np
from tileseg.polygons.fragment import load_fragments, save_fragments
from tileseg.polygons.join import join
from tileseg.polygons.trace import trace_block
from tileseg.run.vectorize import warm_up
from tileseg.window import Window, tile

folder, rows, cols, block = Path(sys.argv[1]), *map(int, sys.argv[3:])
rng = np.random.default_rng(1)
if sys.argv[2] == "checkerboard":
    labels = (np.indices((rows, cols)).sum(0) % 2).astype(np.uint8)
elif sys.argv[2] == "eight":
    labels = rng.integers(0, 8, (rows, cols)).astype(np.uint8)
else:
    labels = (rng.random((rows, cols)) < float(sys.argv[2])).astype(np.uint8)
ignore = {0} if sys.argv[2][0] == "0" else set()
confidence = np.full((rows, cols), 50_000, np.uint16)
warm_up()

def resident(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])

def peak(work):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = resident("VmRSS")
    found = work()
    return resident("VmHWM") - before, found

extent = Window(0, 0, rows, cols)
cores = tile(extent, block, block)

def trace():
    for i, core in enumerate(cores):
        part = trace_block(labels[core.slices], confidence[core.slices], core, extent, ignore=ignore)
        save_fragments(folder / str(i), part)

def put_together():
    corners = rings = 0
    for batch in join(cores, lambda i: load_fragments(folder / str(i)), 4, scratch=folder):
        corners, rings = max(corners, len(batch.coordinates)), max(rings, len(batch.ring_offsets))
    return corners, rings

traced, _ = peak(trace)
joined, (corners, rings) = peak(put_together)
print(traced, joined, corners, rings)
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are Linux's")


def measured(folder: Path, case: str, rows: int, cols: int, block: int) -> list[int]:
    """Bytes that tracing and joining took, and corners and rings of the largest batch."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), case, str(rows), str(cols), str(block)],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("case", ["0.25", "0.5", "0.75", "eight", "checkerboard"])
def test_tracing_takes_what_it_declares(tmp_path: Path, case: str) -> None:
    """All in one block, which is twice what a band may hold."""
    traced, *_ = measured(tmp_path, case, 928, 1152, 1152)
    assert traced <= trace_bytes(928, 1152) < 120 * MIB


def test_a_class_that_hangs_together_waits_on_disk(tmp_path: Path) -> None:
    traced, joined, corners, rings = measured(tmp_path, "0.6", 2112, 2304, 768)
    assert traced <= trace_bytes(768, 768)
    assert corners > 2 * JOIN_CORNERS, "the largest polygon should not fit the memory that is allowed for it"
    assert joined <= join_bytes(corners, rings)


def test_bands_bound_tracing_whatever_the_block() -> None:
    assert trace_bytes(2048, 2048) == trace_bytes(8192, 8192)
    assert trace_bytes(256, 300) < trace_bytes(2048, 2048)
    assert trace_bytes(1, 1 << 22) > trace_bytes(2048, 2048), "a band has a row at least"
