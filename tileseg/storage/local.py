"""Files and folders of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tileseg.storage.protocol import Stamp


def is_file(path: Path) -> bool:
    """Whether there is such a file: no, where its name is longer than the file system takes."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises OSError there


def cache_folder(name: str) -> Path:
    """A folder of the user's caches (``XDG_CACHE_HOME``); it need not be there, nor be one that can be made."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody's home is known
        return Path(tempfile.gettempdir()) / f"tileseg-{os.getuid()}" / name
    return caches / "tileseg" / name


@contextmanager
def until_whole(path: Path, ending: str = "") -> Iterator[Path]:
    """Give a temporary name beside a file to write it under; rename it once that ends without an error.

    The name is random, because threads share their process's number, and containers on several machines often do too.
    ``ending``: its last part, where the writer goes by it.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial{ending}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@dataclass(frozen=True, slots=True)
class Local:
    """A file or folder on this machine, or on a file system that it has mounted."""

    path: Path

    def read(self, most: int | None = None) -> bytes:
        with self.path.open("rb") as file:
            return file.read(-1 if most is None else most)

    def stamp(self) -> Stamp:
        # Opened, because network file systems ask the server only then.
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
        return found.st_size, found.st_mtime_ns

    def write(self, data: bytes) -> None:
        with until_whole(self.path) as partial:
            partial.write_bytes(data)

    def create(self, data: bytes) -> None:
        with self.path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:
                self.path.unlink(missing_ok=True)
                raise

    def renew(self, data: bytes) -> None:  # noqa: ARG002 - the time alone can be set
        os.utime(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def remove_tree(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if os.path.lexists(self.path):
            shutil.rmtree(self.path)  # again, for the reason

    def make_folder(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        return self.path.is_file()

    def names(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.path):
            inside = os.path.relpath(folder, self.path)
            for name in files:
                yield name if inside == "." else f"{inside}/{name}"

    def listed(self) -> tuple[list[str], list[str]]:
        files: list[str] = []
        folders: list[str] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
        return files, folders

    def remove_partial(self) -> None:
        for left in self.path.rglob("*.partial"):
            left.unlink(missing_ok=True)

    def check_writable(self) -> None:
        self.make_folder()
        with (self.path / "lock").open("a"):
            pass

    def contents(self) -> Iterator[tuple[str, bytes]]:
        for name in sorted(self.names()):
            yield name, (self.path / name).read_bytes()

    def deliver(self, write: Callable[[Path], object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        # Of a name that no other process has: one that lost the folder may still be writing into its own.
        workplace = self.path / f".{uuid4().hex}.partial"
        workplace.mkdir(parents=True)
        try:
            yield workplace
            for path in sorted(workplace.iterdir()):
                path.replace(self.path / path.name)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)

    @contextmanager
    def copied(self) -> Iterator[Path]:
        yield self.path
