"""Imports without what they would bring along in vain: that can take longer than they do themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_own: list[bool] = []


def own_process() -> None:
    """Say that this process is tileseg's alone: nobody else in it will miss what is spared (see :func:`spared`)."""
    _own.append(True)


@contextmanager
def spared(*names: str, always: bool = False) -> Iterator[None]:
    """Modules of these names cannot be imported inside, as if they were not installed; those that are there stay.

    Nothing is spared in processes that are not tileseg's own, such as a notebook's, unless ``always``: whoever looks
    for these modules but once would go on without them.
    """
    hidden = [name for name in names if name not in sys.modules] if _own or always else []
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: Python's own word for it
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, name) is None:
                del sys.modules[name]


@contextmanager
def silent() -> Iterator[None]:
    """Nothing reaches stderr inside, what libraries in C write neither: some report themselves, whatever is asked."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
