"""Polygons too large for memory, in files without a name."""

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

    def pile(self, points: int) -> Pile:
        """For about so many points in all, given in pieces."""
        return Pile() if points <= self.in_memory else FilePile(self.folder)


class Pile:
    """Arrays that come one after the other and become one."""

    def __init__(self) -> None:
        self._parts: list[Array] = []

    def add(self, part: Array) -> None:
        """Append (n, ...), all of a type."""
        self._parts.append(part)

    def whole(self) -> Array:
        """All of it."""
        return self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)


class FilePile(Pile):
    """The same, in a file that is mapped in the end. Raises OSError where the disk has no room."""

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by whole()
        self._like = np.empty(0)

    def add(self, part: Array) -> None:
        """Write it."""
        self._like = part[:0]
        self._file.write(np.ascontiguousarray(part).data)

    def whole(self) -> Array:
        """Map what was written."""
        with self._file as file:
            file.flush()
            # Copy-on-write: what is compiled for arrays that may be written to need not be compiled for others.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return np.frombuffer(data, self._like.dtype).reshape(-1, *self._like.shape[1:])


def release(array: Array) -> None:
    """Give back the memory behind an array that is mapped from a file; it is read again when touched."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
