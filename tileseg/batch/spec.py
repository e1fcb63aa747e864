"""What a batch is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tileseg.batch.entry import Entry
from tileseg.spec import RunSpec
from tileseg.storage.place import Url


@dataclass(frozen=True)
class BatchSpec:
    """A batch: which scenes, and how."""

    entries: tuple[Entry, ...]
    """Scenes of this process: the shard has been chosen before."""
    out: Path | Url
    """Folder of all outputs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``tileseg run``, checked for each scene."""
    retries: int = 1
    """How often a scene that failed is tried again once all others were tried."""
    max_failures: int | None = None
    """Stop when more scenes than that have failed or are unusable."""
    stem: str = "batch"
    """Name of the lists, without ending."""

    @property
    def overwrite(self) -> bool:
        """Whether folders that were made with other options are begun anew."""
        return bool(self.options.get("overwrite"))

    def run_of(self, entry: Entry) -> RunSpec:
        """The run of one scene. Raises UsageError where an option makes no sense."""
        out = self.out / entry.folder
        return RunSpec.parse({**self.options, **entry.options, "scene": entry.scene, "out": out, "overwrite": False})
