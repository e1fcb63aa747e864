"""Which blocks are done, who works on the folder, and with what options: what makes a run resumable.

``.state/`` beside the mosaic holds ``lock`` and ``lease-<number>`` (:mod:`tileseg.lease`), ``run.json``
(fingerprint, and which beginning this is), ``done/<thousand>/<block>.json`` (a block's record, written last and
atomically) and ``fragments/`` (polygons of single blocks). Safe against killed processes; not against a power cut:
nothing is forced to disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tileseg.errors import TilesegError
from tileseg.lease import hold


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

    root: Path
    begun: str = ""
    """Which beginning of the run in this folder is meant: ``begun`` of ``run.json``. Another one is none of ours."""

    @property
    def run_file(self) -> Path:
        """Options and fingerprint of the run."""
        return self.root / "run.json"

    def fragment(self, index: int) -> Path:
        """Where the polygons of a block are kept until all blocks are done."""
        return self.root / "fragments" / f"{index // 1000:06d}" / f"{index:09d}.npz"

    def _record(self, index: int) -> Path:
        return self.root / "done" / f"{index // 1000:06d}" / f"{index:09d}.json"

    def finish(self, record: BlockRecord) -> None:
        """Note a block as done: atomic, and after everything else of the block is written. Raises Superseded."""
        self.check()
        path = self._record(record.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(record)))

    def done(self) -> set[int]:
        """Indices of the finished blocks: one listing per thousand, no file is opened."""
        return {int(path.stem) for path in (self.root / "done").glob("*/*.json")}

    def take_back(self) -> None:
        """Remove the records of blocks whose polygons are gone, so that they are computed again."""
        kept = {int(path.stem) for path in (self.root / "fragments").glob("*/*.npz")}
        for index in self.done() - kept:
            if (record := self.record(index)) is not None and record.valid:
                self._record(index).unlink(missing_ok=True)

    def records(self) -> Iterator[BlockRecord]:
        """All records, by index."""
        for path in sorted((self.root / "done").glob("*/*.json")):
            yield _read(path)

    def record(self, index: int) -> BlockRecord | None:
        """The record of a block, or None if it is not finished."""
        try:
            return _read(self._record(index))
        except FileNotFoundError:
            return None

    def read_run(self) -> dict[str, Any] | None:
        """Options and fingerprint of the run that the folder belongs to, or None."""
        try:
            return json.loads(self.run_file.read_text())  # type: ignore[no-any-return]
        except (OSError, ValueError):
            return None

    def check(self) -> None:
        """Raise Superseded if the folder was begun anew: a worker may outlive its driver by a block."""
        begun = ""
        with suppress(FileNotFoundError):
            begun = json.loads(self.run_file.read_text()).get("begun", "")
        if begun != self.begun:
            raise Superseded(f"{self.root.parent}: was begun anew by another process")

    def lock(self, lost: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Hold the folder for this process: see :func:`tileseg.lease.hold`. Raises LockedError."""
        return hold(self.root, lost)


def _read(path: Path) -> BlockRecord:
    record = json.loads(path.read_text())
    return BlockRecord(record["index"], record["valid"], record["seconds"], tuple(record["notes"]))


def write_atomic(path: Path, text: str) -> None:
    """Write a small text file under a temporary name, then rename: readers see all of it or none."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
