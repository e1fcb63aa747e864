"""Arrays too large for memory, in files without a name."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from tileseg.polygons.memory import JOIN_CORNERS, table_bytes
from tileseg.polygons.rings import Array


@dataclass(frozen=True, slots=True)
class Scratch:
    """Makes arrays: large ones are mapped from files that are gone when nothing refers to them."""

    folder: Path | None
    """Where the files lie; None: where the system keeps temporary files, which may be in memory."""
    in_memory: int = JOIN_CORNERS
    """Corners up to which memory will do, and worked on before what is mapped is given back."""

    def corners(self, amount: int) -> Array:
        """(amount, 2) int32, not initialised. Raises OSError where the disk has no room."""
        if amount <= self.in_memory:
            return np.empty((amount, 2), np.int32)
        return self._mapped(np.dtype(np.int32), (amount, 2))

    def table(self, dtype: type, *shape: int) -> Array:
        """Zeros. Raises OSError where the disk has no room."""
        kind = np.dtype(dtype)
        return np.zeros(shape, kind) if self.holds(kind, shape) else self._mapped(kind, shape)

    def growing(self, dtype: type, *shape: int) -> GrowingArray:
        """An empty table; ``shape``: of each element."""
        return GrowingArray(np.empty((1, *shape), dtype), self)

    def holds(self, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
        """Whether a table stays in memory."""
        return math.prod(shape) * dtype.itemsize <= table_bytes(self.in_memory)

    def pieces(self, amount: int, most: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of a table of so many elements, to be worked on one after the other."""
        step = self.piece if most is None else most
        for low in range(0, amount, step):
            yield low, min(amount, low + step)

    @property
    def piece(self) -> int:
        """Elements of tables that are worked on before what is mapped is given back. A ring has four corners."""
        return max(1, self.in_memory // 4)

    def pile(self, points: int) -> Pile:
        """For about so many points in all, given in pieces."""
        return Pile() if points <= self.in_memory else FilePile(self.folder)

    def _mapped(self, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return _map(file, dtype, shape)


def _map(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    """A file as an array. Where it becomes longer, zeros follow."""
    size = math.prod(shape) * dtype.itemsize
    # Reserved, since writing to a mapped file on a full disk kills the process.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        for low in range(file.seek(0, os.SEEK_END), size, 1 << 24):
            file.write(bytes(min(1 << 24, size - low)))
        file.flush()
    return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)


@dataclass(slots=True, weakref_slot=True)
class GrowingArray:
    """An array that grows at its end, and moves to a file when it becomes large."""

    array: Array
    scratch: Scratch
    size: int = 0
    file: IO[bytes] | None = None

    def reserve(self, more: int) -> Array:
        """The array, with room for ``more``. Raises OSError where the disk has none."""
        if self.size + more > len(self.array):
            shape = (max(self.size + more, 2 * len(self.array)), *self.array.shape[1:])
            if self.file is not None:
                self.array = _map(self.file, self.array.dtype, shape)  # the same pages, and more
                return self.array
            if self.scratch.holds(self.array.dtype, shape):
                grown = np.empty(shape, self.array.dtype)
            else:
                self.file = tempfile.TemporaryFile(dir=self.scratch.folder)  # noqa: SIM115 - closed with this
                weakref.finalize(self, self.file.close)
                grown = _map(self.file, self.array.dtype, shape)
            grown[: self.size] = self.array[: self.size]
            self.array = grown
        return self.array

    def extend(self, values: Array) -> None:
        """Append values."""
        self.reserve(len(values))[self.size : self.size + len(values)] = values
        self.size += len(values)

    def release(self) -> None:
        """Give back the memory behind it if it is in a file."""
        if self.file is not None:
            release(self.array)

    @property
    def filled(self) -> Array:
        """What has been appended: a view, until the next time that it grows."""
        return self.array[: self.size]


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


def release(*arrays: Array) -> None:
    """Give back the memory behind arrays that are mapped from files; it is read again when touched."""
    for array in arrays:
        base: object = array
        while isinstance(base, np.ndarray | memoryview):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
