"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

BLOCKS = ("finishing the blocks in flight", "finished blocks are kept")
"""``ending`` and ``kept`` of whatever computes blocks."""


class Screen(Protocol):
    """Where a command shows how it gets on."""

    def notice(self, text: str) -> None:
        """Print a line that the user should know."""

    def close(self) -> None:
        """End the live line, if there is one."""


@contextmanager
def stop_on_interrupt(screen: Screen, ending: str, kept: str) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second ends the process at once, with exit code 130.

    ``ending``: what is done about the first, such as ``saving the state``; ``kept``: what the second leaves there.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            from tileseg.errors import Interrupted

            screen.close()
            sys.stderr.write(f"tileseg: stopped at once; {kept}\n")
            sys.stderr.flush()
            # Worker processes watch this one and end with it.
            os._exit(Interrupted.exit_code)
        stop.set()
        screen.notice(f"stopping: {ending} (Ctrl-C again stops at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
