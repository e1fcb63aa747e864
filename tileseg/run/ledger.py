"""Which blocks are done, who works on the folder, and with what options: what makes a run resumable.

``.state/`` beside the mosaic holds ``lock`` and ``lease-<number>`` (:mod:`tileseg.storage.lease`), ``run.json``
(fingerprint, and which beginning this is), ``done/<thousand>/<block>.json`` (a block's record, written last and
atomically) and ``fragments/`` (polygons of single blocks). Safe against killed processes; not against a power cut:
nothing is forced to disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tileseg.errors import TilesegError
from tileseg.storage.lease import hold
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic


class Superseded(TilesegError):
    """The folder belongs to a run that began later."""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What one finished block reports."""

    index: int
    valid: int
    """Pixels with data (and inside the area of interest); 0: the network was not asked."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as a window halved for want of memory."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state folder of one run; picklable."""

    root: Path | Url
    begun: str = ""
    """Which beginning of the run in this folder is meant: ``begun`` of ``run.json``. Another one is none of ours."""

    @property
    def run_file(self) -> Path | Url:
        """Options and fingerprint of the run."""
        return self.root / "run.json"

    @property
    def fragments(self) -> Path | Url:
        """Folder of the polygons of single blocks."""
        return self.root / "fragments"

    def fragment(self, index: int) -> Path | Url:
        """Where the polygons of a block are kept until all blocks are done."""
        return self.fragments / fragment_name(index)

    def _record(self, index: int) -> Path | Url:
        return self.root / "done" / f"{index // 1000:06d}" / f"{index:09d}.json"

    def record_done(self, record: BlockRecord) -> None:
        """Note a block as done: atomic, and after everything else of the block is written. Raises Superseded."""
        self.check()
        path = self._record(record.index)
        at(path.parent).make_folder()
        write_atomic(path, json.dumps(asdict(record)))

    def done(self) -> set[int]:
        """Indices of the finished blocks: one listing per thousand, no file is opened."""
        return _indices(self.root / "done", ".json")

    def take_back(self) -> None:
        """Remove the records of blocks whose polygons are gone, so that they are computed again."""
        kept = _indices(self.fragments, ".npz")
        for index in self.done() - kept:
            if (record := self.record(index)) is not None and record.valid:
                at(self._record(index)).remove()

    def records(self) -> Iterator[BlockRecord]:
        """All records, by index."""
        for name, data in at(self.root / "done").contents():
            if name.endswith(".json"):
                yield _parse(data)

    def record(self, index: int) -> BlockRecord | None:
        """The record of a block, or None if it is not finished."""
        try:
            return _parse(at(self._record(index)).read())
        except FileNotFoundError:
            return None

    def read_run(self) -> dict[str, Any] | None:
        """Options and fingerprint of the run that the folder belongs to, or None."""
        try:
            text = at(self.run_file).read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(text)  # type: ignore[no-any-return]
        except ValueError:
            return None

    def check(self) -> None:
        """Raise Superseded if the folder was begun anew: a worker may outlive its driver by a block."""
        begun = ""
        with suppress(FileNotFoundError):
            begun = json.loads(at(self.run_file).read()).get("begun", "")
        if begun != self.begun:
            raise Superseded(f"{self.root.parent}: was begun anew by another process")

    def lock(self, lost: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Hold the folder for this process: see :func:`tileseg.storage.lease.hold`. Raises LockedError."""
        return hold(self.root, lost)


def fragment_name(index: int) -> str:
    """Name of a block's polygons within the ledger's folder of them."""
    return f"{index // 1000:06d}/{index:09d}.npz"


def _indices(folder: Path | Url, ending: str) -> set[int]:
    """Of the blocks that have a file in a folder."""
    names = (name for name in at(folder).names() if name.endswith(ending))
    return {int(name.rpartition("/")[2].removesuffix(ending)) for name in names}


def _parse(data: bytes) -> BlockRecord:
    record = json.loads(data)
    return BlockRecord(record["index"], record["valid"], record["seconds"], tuple(record["notes"]))
