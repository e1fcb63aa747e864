"""What became of the scenes of a batch: ``batch.json`` and ``batch.csv``."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from tileseg.errors import InputError, Interrupted, TilesegError, UsageError
from tileseg.storage.place import Url
from tileseg.storage.store import write_atomic

Status = Literal["done", "skipped", "failed", "unusable", "locked", "pending"]
"""``done`` by this call; ``skipped``: finished before; ``failed``: trying again may help; ``unusable``: it will not;
``locked``: another process is working on it; ``pending``: not finished when the batch was stopped."""


@dataclass(frozen=True)
class SceneResult:
    """What became of one scene."""

    scene: str
    folder: str
    """Name of its output folder."""
    status: Status
    code: int = 0
    """Exit code that ``tileseg run`` would have given."""
    message: str = ""
    """Why it is not done."""
    blocks: int = 0
    computed: int = 0
    """Blocks computed by this call."""
    polygons: int = 0
    seconds: float = 0.0
    """From when it was opened until its last output was there; scenes overlap."""


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch."""

    folder: Path | Url
    results: tuple[SceneResult, ...]
    """In the order of the sources."""
    wall_seconds: float
    peak_memory: int
    """Resident bytes over all processes."""
    interrupted: bool = False
    """The user stopped it."""

    @property
    def counts(self) -> dict[Status, int]:
        """Scenes by status, the absent ones too."""
        found = [result.status for result in self.results]
        return {status: found.count(status) for status in get_args(Status)}

    @property
    def exit_code(self) -> int:
        """0: all is done; 1: running it again may help; 42 or 2: it will not; 130: interrupted."""
        if self.interrupted:
            return Interrupted.exit_code
        codes = {result.code for result in self.results if result.status not in ("done", "skipped")}
        if not codes:
            return 0
        if codes <= {InputError.exit_code, UsageError.exit_code}:
            return max(codes)
        return TilesegError.exit_code

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "tileseg": importlib.metadata.version("tileseg"),
            "counts": self.counts,
            "exit_code": self.exit_code,
            "wall_seconds": round(self.wall_seconds, 3),
            "peak_memory": self.peak_memory,
            "scenes": [asdict(result) for result in self.results],
        }

    def write(self, stem: str) -> None:
        """Write ``<stem>.json`` and ``<stem>.csv`` into the batch's folder."""
        write_atomic(self.folder / f"{stem}.json", json.dumps(self.to_json(), indent=1) + "\n")
        write_atomic(self.folder / f"{stem}.csv", _table(self.results))


def _table(results: Sequence[SceneResult]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(SceneResult)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(result) for result in results)
    return text.getvalue()
