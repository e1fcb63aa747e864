"""Tables that list what is compared with what: predictions, their truths, and where on Earth they lie."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tileseg.errors import InputError

_NEEDED, _OPTIONAL = ("prediction", "truth"), ("place", "drawn")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0", "")


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two label rasters, vector files or run folders that are compared."""

    prediction: Path
    truth: Path
    place: str | None = None
    """Where on Earth they lie; None: a place of their own."""
    drawn: bool = False
    """Whether a program made the scene instead of a camera."""


def read_pairs(path: Path) -> tuple[LabelPair, ...]:
    """Read a CSV table with the columns prediction and truth (paths, from the table's folder), and maybe place, drawn.

    Raises InputError in one line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            pairs = tuple(_pairs(path, csv.DictReader(file, skipinitialspace=True)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from error
    if not pairs:
        raise InputError(f"{path}: lists no pairs; expected a line for each under {','.join(_NEEDED)},place")
    return pairs


def _pairs(path: Path, rows: csv.DictReader[str]) -> Iterator[LabelPair]:
    columns = rows.fieldnames or ()
    missing = [name for name in _NEEDED if name not in columns]
    strange = [name for name in columns if name not in (*_NEEDED, *_OPTIONAL)]
    if missing or strange:
        what = f"has no column {missing[0]!r}" if missing else f"has a column {strange[0]!r}"
        raise InputError(f"{path}: {what}; expected {', '.join(_NEEDED)} and maybe {', '.join(_OPTIONAL)}")
    for row in rows:
        prediction, truth, place, drawn = ((row.get(name) or "").strip() for name in (*_NEEDED, *_OPTIONAL))
        if not prediction or not truth or drawn.casefold() not in (*_YES, *_NO) or None in row:
            raise InputError(
                f"{path}: line {rows.line_num}: expected a prediction and its truth, maybe a place, and true or false "
                "for drawn"
            )
        folder = path.parent
        yield LabelPair(folder / prediction, folder / truth, place or None, drawn.casefold() in _YES)
