"""One scene of an archive: where it lies, what its folder may be called, what has to be reachable to read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from tileseg.storage.place import file_of, fitting, named_after, printable, shown, with_file

_SUFFIX = ".tileseg"


@dataclass(frozen=True)
class Entry:
    """One scene of an archive."""

    scene: str
    """Path or address."""
    folder: str
    """Name of its output folder, as far as the sources decide it (see :mod:`tileseg.batch.folders`); no other scene of
    the batch has it."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of a run that a table gives this scene alone."""
    taken: str | None = None
    """When it was taken (RFC 3339), where the source says so."""

    @property
    def shown(self) -> str:
        """The scene as it may be written down: an address without its signature, a name that is not UTF-8 escaped."""
        return printable(shown(self.scene))

    @property
    def place(self) -> str:
        """The scene as it may be written down, absolute."""
        return printable(absolute(self.scene))

    @property
    def names(self) -> tuple[str, str]:
        """What its folder may be called: after its stem, and with a digest of where it lies and of its options.

        A stem for which file systems have no room is cut.
        """
        stem = named_after(self.shown)
        text = f"{self.place} {sorted(self.options.items())}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return fitting(stem, _SUFFIX), fitting(stem, f"-{digest}{_SUFFIX}")


def storage(scene: str) -> str:
    """What has to be reachable for a scene to be read: a file system, or a server and a bucket of it."""
    if "://" in scene:
        address = urlsplit(scene)
        return f"{address.scheme}://{address.netloc}"
    if scene.startswith("/vsi"):
        return "/".join(scene.split("/")[:3])
    return _device(str(Path(file_of(scene)).absolute().parent))


@cache
def _device(folder: str) -> str:
    try:
        return f"device {Path(folder).stat().st_dev}"
    except OSError:
        return folder


def absolute(scene: str) -> str:
    """A scene as it may be written down, absolute: the same by all ways to its folder, links among them."""
    if "://" in scene or scene.startswith("/vsi"):
        return shown(scene)
    return with_file(scene, _absolute)


def _absolute(file: str) -> str:
    path = Path(file).absolute()
    return str(_resolved(path.parent) / path.name)


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def plain_entries(scenes: Iterable[Path | str]) -> Iterator[Entry]:
    """Scenes of which nothing is known but where they lie; their folders are named later."""
    return (Entry(str(scene), "") for scene in scenes)
