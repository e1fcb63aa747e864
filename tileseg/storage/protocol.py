"""What can be done at a place, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tileseg.errors import InputError

Stamp = tuple[int, int] | tuple[int, int, str]
"""Size in bytes, time of change (nanoseconds, by the clock of whoever keeps the file), and ETag where there is one."""


class AccessDenied(InputError, PermissionError):
    """A server does not let us."""


class StoredFile(Protocol):
    """What lies at a place: a file, or a folder of files. Raises FileNotFoundError, AccessDenied or another OSError."""

    def read(self, most: int | None = None) -> bytes:
        """The file, or its first bytes."""

    def stamp(self) -> Stamp:
        """What is different when the file is."""

    def write(self, data: bytes) -> None:
        """Write the file, in a folder that exists: readers see all of it, or what was there before."""

    def create(self, data: bytes) -> None:
        """Make a file that is not there yet; ``data`` is the caller's alone. Raises FileExistsError."""

    def renew(self, data: bytes) -> None:
        """Set the time of change of a file that :meth:`create` made. ``data``: other content, where that needs some."""

    def remove(self) -> None:
        """Remove the file, if it is there."""

    def remove_tree(self) -> None:
        """Remove the folder with all that is in it, if it is there."""

    def make_folder(self) -> None:
        """Make the folder, where folders are made."""

    def exists(self) -> bool:
        """Whether the file is there."""

    def names(self) -> Iterator[str]:
        """All files in the folder and below, relative to it with ``/``, in no order."""

    def listed(self) -> tuple[list[str], list[str]]:
        """Names of the files and of the folders directly in the folder; none where there is none."""

    def remove_partial(self) -> None:
        """Remove what killed writers left, in the folder and below. No writer may be at work."""

    def check_writable(self) -> None:
        """Make the folder, and see that files can be written into it."""

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of all files in the folder and below, by name; for small files."""

    def deliver(self, write: Callable[[Path], object]) -> None:
        """Have a function write the file at a local path. It must not leave it half written."""

    def workspace(self) -> AbstractContextManager[Path]:
        """A local folder. What is written there is in this folder once it ends without an error."""

    def copied(self) -> AbstractContextManager[Path]:
        """A local folder in which all files of this one are to be read."""
