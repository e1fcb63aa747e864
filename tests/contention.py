"""Threads that want the same folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tileseg.errors import LockedError
from tileseg.storage.lease import hold
from tileseg.storage.place import Url


def contend(folder: Path | Url, threads: int, attempts: int, pause: float) -> tuple[int, int]:
    """How many held the folder at once at the most, and how often it was held.

    Each of ``threads`` tries ``attempts`` times, and holds it, or waits, for ``pause`` seconds.
    """
    inside, most, turns = 0, 0, [0] * threads
    count = threading.Lock()

    def one(me: int) -> None:
        nonlocal inside, most
        for _ in range(attempts):
            try:
                with hold(folder):
                    with count:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(pause)
                    with count:
                        inside -= 1
                    turns[me] += 1
            except LockedError:
                time.sleep(pause)

    running = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return most, sum(turns)
