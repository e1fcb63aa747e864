"""Corners of polygons too large for memory, in files without a name."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tileseg.polygons.memory import JOIN_CORNERS
from tileseg.polygons.rings import Array


@dataclass(frozen=True, slots=True)
class Scratch:
    """Makes arrays of corners: large ones are mapped from files that are gone when nothing refers to them."""

    folder: Path | None
    """Where the files lie; None: where the system keeps temporary files, which may be in memory."""
    in_memory: int = JOIN_CORNERS
    """Corners up to which memory will do, and worked on before what is mapped is given back."""

    def corners(self, amount: int) -> Array:
        """(amount, 2) int32, not initialised. Raises OSError where the disk has no room."""
        if amount <= self.in_memory:
            return np.empty((amount, 2), np.int32)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            # Reserved, since writing to a mapped file on a full disk kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 8 * amount)
            else:
                for low in range(0, 8 * amount, 1 << 24):
                    file.write(bytes(min(1 << 24, 8 * amount - low)))
                file.flush()
            return np.frombuffer(mmap.mmap(file.fileno(), 8 * amount), np.int32).reshape(-1, 2)


def release(array: Array) -> None:
    """Give back the memory behind an array that is mapped from a file; it is read again when touched."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
