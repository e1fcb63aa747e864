"""A format that the package does not know: classes and areas as text, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tileseg.publish.table import Rows, Table


class Lines:
    """Writes ``class_name area`` lines."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path, self._table = path, table

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: Rows) -> None:
        """Append polygons."""
        for label, area in zip(rows.shapes.label.tolist(), rows.shapes.area.tolist(), strict=True):
            self._file.write(f"{self._table.name(label)} {area}\n")

    def close(self) -> None:
        """Everything is in the file."""
        self._file.flush()
