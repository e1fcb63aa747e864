"""Mutated headers of scans and slides: each is read or refused in one line, soon, and without memory.

    python benchmarks/headers.py FOLDER_OF_FILES --count 10000

Every mutated file is opened, and all of its pixels read, in a process that is ended after ten seconds and may hold
3 GiB.
Prints how many were read and refused, and the seed of each that crashed, hung or failed otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

MEMORY = 3 << 30
SECONDS = 10.0
HEADER = 3000


def mutated(data: bytes, seed: int) -> bytes:
    """Some bytes of the header changed, words set to extremes, or the end cut off."""
    draw, found = random.Random(seed), bytearray(data)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(min(len(found), HEADER))
        kind = draw.random()
        if kind < 0.5:
            found[place] = draw.randrange(256)
        elif kind < 0.8:
            found[place : place + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\1\0"))
        else:
            found[place] ^= 1 << draw.randrange(8)
    return bytes(found[: draw.randrange(len(found))] if draw.random() < 0.1 else found)


def outcome(path: Path) -> str:
    """What becomes of a file."""
    from tileseg.errors import TilesegError
    from tileseg.source.protocol import ReadRequest
    from tileseg.source.scene import opener_of

    for bands in (3, 1):
        try:
            scene = opener_of(path).open(path, ReadRequest(bands, skips_glass=True))
            if scene.grid.height * scene.grid.width < 4_000_000:
                scene.read(scene.grid.extent)
        except TilesegError as error:
            if "\n" in str(error):
                return f"not one line: {error!r}"
            if "has 1 band" not in str(error):
                return f"refused ({error.exit_code})"
        else:
            return "read"
    return "refused (42)"


def work(orders: Connection, folder: str) -> None:
    """Open what comes in, until nothing does."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        name, data = orders.recv()
        path = Path(folder) / f"{os.getpid()}{name}"
        path.write_bytes(data)
        try:
            orders.send(outcome(path))
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            orders.send(f"failed: {type(error).__name__}: {error}"[:200])
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    files = sorted(path for path in asked.folder.rglob("*") if path.is_file() and path.stat().st_size < 400_000)
    counts: Counter[str] = Counter()
    slowest, bad = 0.0, 0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="tileseg-headers-") as folder:
        process = None
        for seed in range(asked.seed, asked.seed + asked.count):
            if process is None:
                here, there = context.Pipe()
                process = context.Process(target=work, args=(there, folder), daemon=True)
                process.start()
                there.close()
                here.send(("x.dcm", b"x"))
                here.recv()  # it has imported everything
            file = files[seed % len(files)]
            start = time.perf_counter()
            here.send((file.suffix, mutated(file.read_bytes(), seed)))
            try:
                found = here.recv() if here.poll(SECONDS) else "hangs"
            except EOFError:
                process.join()
                found = f"crashes (exit code {process.exitcode})"
            slowest = max(slowest, time.perf_counter() - start)
            counts[found] += 1
            if not found.startswith(("read", "refused")):
                bad += 1
                print(f"{file.name}, seed {seed}: {found}", flush=True)
            if found.startswith(("hangs", "crashes")):
                process.kill()
                process = None
    print(f"{asked.count} files, {bad} bad, the slowest {slowest:.2f} s: {dict(counts.most_common())}")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
