"""What tracing and joining take is what they declare, on the labels that are hardest for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tileseg.polygons.memory import MIB, join_bytes, trace_bytes

REPOSITORY = Path(__file__).resolve().parents[2]

MEASURE = """
import sys
import tracemalloc
from functools import partial
from pathlib import Path
import numpy as np
import tileseg.polygons.join
from tileseg.polygons.fragment import load_fragments, save_fragments
from tileseg.polygons.scratch import Scratch
from tileseg.polygons.trace import trace_block
from tileseg.run.vectorize import warm_up
from tileseg.window import Window, tile

folder, in_memory = Path(sys.argv[1]), int(sys.argv[2])
tileseg.polygons.join.Scratch = partial(Scratch, in_memory=in_memory)
warm_up()

def resident(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return 1024 * int(line.split()[1])

def peak(work, *args):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = resident("VmRSS")
    found = work(*args)
    return resident("VmHWM") - before, found

def trace(labels, cores):
    confidence = np.full(labels.shape, 50_000, np.uint16)
    extent = Window(0, 0, *labels.shape)
    for i, core in enumerate(cores):
        part = trace_block(labels[core.slices], confidence[core.slices], core, extent, ignore=ignore)
        save_fragments(folder / str(i), part)

def put_together(cores):
    load = lambda i: load_fragments(folder / str(i))
    return max(len(batch.coordinates) for batch in tileseg.polygons.join.join(cores, load, 4, scratch=folder))

rng = np.random.default_rng(1)
rows, cols = 928, 1152
for case in ("0.25", "0.5", "0.75", "eight", "checkerboard"):
    if case == "checkerboard":
        labels = (np.indices((rows, cols)).sum(0) % 2).astype(np.uint8)
    elif case == "eight":
        labels = rng.integers(0, 8, (rows, cols)).astype(np.uint8)
    else:
        labels = (rng.random((rows, cols)) < float(case)).astype(np.uint8)
    ignore = {0} if case.startswith("0") else set()
    print(peak(trace, labels, [Window(0, 0, rows, cols)])[0])

labels, ignore = (rng.random((rows, cols)) < 0.6).astype(np.uint8), {0}
cores = tile(Window(0, 0, rows, cols), 256, 256)
trace(labels, cores)
print(*peak(put_together, cores))

tileseg.polygons.join.Scratch = partial(Scratch, in_memory=1 << 11)
for rows in (100, 320, 1280):  # the first time, what is compiled is loaded
    labels = (np.random.default_rng(1).random((rows, 360)) < 0.6).astype(np.uint8)
    cores = tile(Window(0, 0, rows, 360), 64, 60)
    trace(labels, cores)
    tracemalloc.start()
    batches = tileseg.polygons.join.join(cores, lambda i: load_fragments(folder / str(i)), 4, scratch=folder)
    rings = max(len(batch.ring_offsets) for batch in batches)
    print(rings, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
"""

IN_MEMORY = 1 << 16


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What ``MEASURE`` prints: in a process of its own, where no other thread allocates."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks are Linux's")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path_factory.mktemp("measured")), str(IN_MEMORY)],
        check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def test_tracing_and_joining_take_what_they_declare(measured) -> None:
    """Noise and a checkerboard traced in one block, which is twice what a band may hold; a class that percolates."""
    *traced, (joined, corners) = measured[:6]
    assert max(traced)[0] <= trace_bytes(928, 1152) < 120 * MIB
    assert corners > 4 * IN_MEMORY, "the largest polygon should not fit the memory that is allowed for it"
    assert joined <= join_bytes(IN_MEMORY)


def test_memory_of_joining_does_not_grow_with_the_scene(measured) -> None:
    """A scene four times as high: under two bytes more per ring of its largest polygon; Python allots by steps."""
    _, (rings, peak), (more_rings, higher_peak) = measured[6:]
    assert more_rings - rings > 20_000
    assert higher_peak - peak < 2 * (more_rings - rings)


def test_what_joining_may_take_is_modest() -> None:
    assert join_bytes() < 128 * MIB


def test_bands_bound_tracing_whatever_the_block() -> None:
    assert trace_bytes(2048, 2048) == trace_bytes(8192, 8192)
    assert trace_bytes(256, 300) < trace_bytes(2048, 2048)
    assert trace_bytes(1, 1 << 22) > trace_bytes(2048, 2048), "a band has a row at least"
