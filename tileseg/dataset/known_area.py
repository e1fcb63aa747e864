"""Where the labels of a scene are complete, when only parts of it were labelled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tileseg.errors import InputError
from tileseg.grid import Grid
from tileseg.source.aoi import Aoi
from tileseg.source.protocol import Mask
from tileseg.window import Window


@dataclass(frozen=True, slots=True)
class KnownArea:
    """Polygons of a vector file, on a grid; picklable and small."""

    path: Path
    grid: Grid
    identity: tuple[int, int]
    """Size and time of change of the file."""

    @classmethod
    def open(cls, path: Path, grid: Grid) -> KnownArea:
        """Raises InputError in one line: no vector file, no polygon in it, or none on the grid."""
        try:
            facts = path.stat()
        except OSError as error:
            what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            raise InputError(f"{path}: {what}; expected polygons within which labels are complete (known)") from error
        found = cls(path, grid, (facts.st_size, facts.st_mtime_ns))
        _polygons(found)
        return found

    def mask(self, window: Window) -> Mask:
        """(y, x) True where the centre of a pixel lies within the polygons."""
        return _polygons(self).mask(window)


@lru_cache(maxsize=256)
def _polygons(area: KnownArea) -> Aoi:
    return Aoi.from_file(area.path, area.grid)
