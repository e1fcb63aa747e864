"""Which blocks are done, who works on the folder, and with what options: what makes a run resumable.

``.state/`` beside the mosaic holds ``lock`` and ``lease-<number>`` (:mod:`tileseg.storage.lease`), ``run.json``
(:class:`tileseg.run.identity.Record`), ``done/<thousand>/<block>.json`` (a block's record, written last and
atomically), ``fragments/`` (polygons of single blocks), and ``in-process`` while blocks are computed without worker
processes. Safe against killed processes; not against a power cut: nothing is forced to disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tileseg.errors import InputError, TilesegError
from tileseg.run.names import DONE, FRAGMENTS, IN_PROCESS, RECORD
from tileseg.storage.lease import Hold, hold
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
    """``begun`` of ``run.json``, a token of this run. A folder with another one belongs to another run."""

    @property
    def run_file(self) -> Path | Url:
        """What the folder's run is: see :class:`tileseg.run.identity.Record`."""
        return self.root / RECORD

    @property
    def fragments(self) -> Path | Url:
        """Folder of the polygons of single blocks."""
        return self.root / FRAGMENTS

    def fragment(self, index: int) -> Path | Url:
        """Where the polygons of a block are kept until all blocks are done."""
        return self.fragments / fragment_name(index)

    def _record(self, index: int) -> Path | Url:
        return self.root / DONE / f"{index // 1000:06d}" / f"{index:09d}.json"

    def record_done(self, record: BlockRecord) -> None:
        """Note a block as done: atomic, and after everything else of the block is written. Raises Superseded."""
        self.check()
        path = self._record(record.index)
        at(path.parent).make_folder()
        write_atomic(path, json.dumps(asdict(record)))

    def done(self) -> set[int]:
        """Indices of the finished blocks: one listing per thousand, no file is opened."""
        return _indices(self.root / DONE, ".json")

    def without_polygons(self) -> list[BlockRecord]:
        """Records of finished blocks with data whose polygons are not kept any more, by index."""
        missing = sorted(self.done() - _indices(self.fragments, ".npz"))
        records = (self.record(index) for index in missing)
        return [record for record in records if record is not None and record.valid]

    def take_back(self, index: int) -> None:
        """Remove the record of a block, so that it is computed again."""
        at(self._record(index)).remove()

    def records(self) -> Iterator[BlockRecord]:
        """All records, by index. Raises InputError where one is damaged, or not of tileseg."""
        for name, data in at(self.root / DONE).contents():
            if _index(name, ".json") is not None:
                yield _parse(self.root / DONE / name, data)

    def record(self, index: int) -> BlockRecord | None:
        """The record of a block, or None if it is not finished. Raises InputError where it is damaged."""
        path = self._record(index)
        try:
            return _parse(path, at(path).read())
        except FileNotFoundError:
            return None

    def read_run(self) -> Any:
        """The JSON value that describes the folder's run, None where none has begun. Raises InputError."""
        try:
            text = at(self.run_file).read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        with suppress(ValueError):
            if (values := json.loads(text)) is not None:
                return values
        raise InputError(f"{self.run_file}: damaged: not a JSON object; start anew with --overwrite")

    def check(self) -> None:
        """Raise Superseded if the folder was begun anew: a worker may outlive its driver by a block."""
        begun = ""
        with suppress(FileNotFoundError, ValueError, AttributeError):
            begun = json.loads(at(self.run_file).read()).get("begun", "")
        if begun != self.begun:
            raise Superseded(f"{self.root.parent}: was begun anew by another process")

    @contextmanager
    def in_process(self) -> Iterator[None]:
        """This process computes blocks: what says so is left behind only where it is killed meanwhile."""
        mark = at(self.root / IN_PROCESS)
        mark.write(b"computes blocks\n")
        try:
            yield
        finally:
            with suppress(OSError):
                mark.remove()

    def killed_in_process(self) -> bool:
        """Whether a process that computed blocks itself was killed, and they are not all done since."""
        return at(self.root / IN_PROCESS).exists()

    def forget_killed(self) -> None:
        """All blocks are done: none of them can kill anything any more."""
        at(self.root / IN_PROCESS).remove()

    def lock(self, lost: Callable[[], None] | None = None) -> AbstractContextManager[Hold]:
        """Hold the folder for this process: see :func:`tileseg.storage.lease.hold`. Raises LockedError."""
        return hold(self.root, lost)


def fragment_name(index: int) -> str:
    """Name of a block's polygons within the ledger's folder of them."""
    return f"{index // 1000:06d}/{index:09d}.npz"


def _indices(folder: Path | Url, ending: str) -> set[int]:
    """Indices of the blocks that have a file in a folder."""
    return {index for name in at(folder).names() if (index := _index(name, ending)) is not None}


def _index(name: str, ending: str) -> int | None:
    """Index of the block that a file belongs to, or None where it is no file of ours."""
    stem = name.rpartition("/")[2].removesuffix(ending)
    return int(stem) if name.endswith(ending) and stem.isascii() and stem.isdigit() else None


def _parse(path: Path | Url, data: bytes) -> BlockRecord:
    try:
        record = json.loads(data)
        seconds = {str(stage): float(spent) for stage, spent in record["seconds"].items()}
        return BlockRecord(int(record["index"]), int(record["valid"]), seconds, tuple(map(str, record["notes"])))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{path}: damaged, or not of tileseg: expected the record of a block; remove it, and the block is computed "
            "again, or start anew with --overwrite"
        ) from None
