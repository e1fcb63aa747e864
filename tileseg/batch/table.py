"""Lists and tables of scenes: text with a scene per line, CSV with a column of scenes and columns of options."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tileseg.batch.entry import Entry, plain_entries
from tileseg.errors import UsageError, did_you_mean
from tileseg.source.text_list import beside, listed_in, text_of
from tileseg.spec import RunSpec, option_name
from tileseg.storage.place import Url

_NOT_PER_SCENE = {
    "scene",
    "out",
    "model",
    "workers",
    "max_memory",
    "overwrite",
    "scheduler",
    "scheduler_file",
    "cluster",
}

_NAMES = ("scene", "path", "file")
"""What a table may call its column of scenes."""
_MARKS = (",", ";", "\t")
"""What may stand between columns: spreadsheets of half of Europe write semicolons."""


def read_list(path: Path | Url) -> Iterator[Entry]:
    """A scene on each line; empty lines and those that begin with # are passed over."""
    return plain_entries(listed_in(path))


def read_table(path: Path | Url) -> Iterator[Entry]:
    """A table with a header: a column of scenes, ``datetime`` if known, others are options of ``tileseg run``.

    Raises UsageError, naming the line, where a value makes no sense.
    """
    text = text_of(path)
    header = text.partition("\n")[0]
    between = next((mark for mark in _MARKS if any(n.strip(' "\r') in _NAMES for n in header.split(mark))), ",")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=between)
    names = [name.strip() for name in rows.fieldnames or ()]
    column = next((name for name in _NAMES if name in names), None)
    if column is None:
        raise UsageError(
            f"{path}: no column of scenes in its header {header.strip()[:80]!r}: expected one of {', '.join(_NAMES)}, "
            "and commas, semicolons or tabs between columns"
        )
    options = {name: option_name(name) for name in names if name not in (column, "datetime")}
    for name, option in options.items():
        if option not in RunSpec.model_fields or option in _NOT_PER_SCENE:
            raise UsageError(
                f"{path}: column {name!r} is no option of a scene{did_you_mean(name, _columns())}; expected some of "
                f"{', '.join(_columns())}"
            )
    for row in rows:
        values = {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
        if values.get(column):
            scene, taken = beside(path, values[column]), values.get("datetime") or None
            given = {option: values[name] for name, option in options.items() if values.get(name)}
            if "aoi" in given:
                given["aoi"] = beside(path, given["aoi"])
            where = f"{path}: line {rows.line_num}"
            if taken is not None and moment(taken) is None:
                raise UsageError(f"{where}: datetime: {taken!r}: expected RFC 3339, such as 2024-05-06T07:08:09Z")
            try:
                RunSpec.parse({**given, "scene": scene})
            except UsageError as error:
                raise UsageError(f"{where}: {str(error).removeprefix('--')}") from error
            yield Entry(scene, "", given, taken)


def moment(text: str) -> datetime | None:
    """A moment as the catalogue takes it, in UTC where no zone is given; None where the text is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _columns() -> list[str]:
    known = {name: field.alias or name for name, field in RunSpec.model_fields.items()}
    return sorted(shown for name, shown in known.items() if name not in _NOT_PER_SCENE)
