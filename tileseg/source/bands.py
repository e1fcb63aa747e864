"""Which bands of a file are read: by number, by name, or the first ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rasterio.enums import ColorInterp

from tileseg.errors import InputError, UsageError
from tileseg.source.protocol import ReadRequest

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_SAME = (
    {"red", "r", "b4"},
    {"green", "g", "b3"},
    {"blue", "b", "b2"},
    {"nir", "n", "b8", "nearinfrared", "infrared"},
)
"""Names of one band: of colours, and the numbers that Sentinel-2 gives them."""


@dataclass(frozen=True, slots=True)
class BandChoice:
    """Bands that are read."""

    bands: tuple[int, ...]
    """Numbers, the first is 1; (1, 1, 1) where colours are expanded."""
    palette: bool = False
    """Whether numbers of colours are read as red, green, blue."""
    notes: tuple[str, ...] = ()
    """What there is to say about it."""


def alpha_bands(dataset: DatasetReader) -> list[int]:
    """The bands that say, by what the file calls them, where there is data."""
    return [i for i in dataset.indexes if dataset.colorinterp[i - 1] == ColorInterp.alpha]


def choose_bands(text: str, dataset: DatasetReader, wanted: ReadRequest) -> BandChoice:
    """Choose the bands of a file, which is called ``text`` in messages.

    Raises InputError where it has no such bands, UsageError where more or fewer are chosen than are wanted.
    """
    words, expected, names = wanted.words, wanted.expected, wanted.names
    if wanted.bands is not None:
        if len(wanted.bands) != expected:
            raise UsageError(f"{words.option} names {len(wanted.bands)} bands; {words.taker} {expected}")
        return BandChoice(tuple(_number(text, dataset, band, words.option) for band in wanted.bands))
    alphas = alpha_bands(dataset)
    data = [i for i in dataset.indexes if i not in alphas]
    if len(data) == 1 and dataset.colorinterp[data[0] - 1] == ColorInterp.palette:
        if expected != 3:
            raise InputError(
                f"{text}: stores numbers of colours (a palette), which give 3 bands; {words.taker} {expected}; "
                f"choose another model, or say {words.option} 1 if the numbers themselves are meant"
            )
        return BandChoice((data[0],) * 3, True, ("its colour table is expanded to red, green, blue",))
    if len(data) < expected:
        listed = f" ({', '.join(names)})" if names else ""
        remedy = words.repeat.format(once=",".join(["1"] * expected)) if data == [1] else words.remedy
        raise InputError(
            f"{text}: has {len(data)} band{'s' * (len(data) != 1)} besides alpha; {words.taker} {expected}{listed}; "
            f"{remedy}"
        )
    found = [_called(dataset, name, data) for name in names]
    if len(names) == expected and all(len(matches) == 1 for matches in found):
        chosen = tuple(matches[0] for matches in found)
        note = f"bands {chosen} are its {', '.join(names)}"
        return BandChoice(chosen, notes=() if chosen == tuple(data[:expected]) else (note,))
    chosen = tuple(data[:expected])
    note = f"bands {chosen} of {len(data)} are used; choose others with {words.option}"
    return BandChoice(chosen, notes=(note,) if len(data) > expected else ())


def _number(text: str, dataset: DatasetReader, band: int | str, option: str) -> int:
    """The number of a band that the user chose."""
    if isinstance(band, int):
        if 1 <= band <= dataset.count:
            return band
        raise InputError(f"{text}: has no band {band}: expected {option} with numbers from 1 to {dataset.count}")
    found = _called(dataset, band, list(dataset.indexes))
    if len(found) == 1:
        return found[0]
    what = f"has no band called {band!r}" if not found else f"has {len(found)} bands called {band!r} ({found})"
    raise InputError(f"{text}: {what}; it has {_listed(dataset)}: expected {option} with such names or numbers")


def _listed(dataset: DatasetReader) -> str:
    """The bands with what the file calls them."""
    listed = []
    for i in dataset.indexes[:20]:
        description, color = dataset.descriptions[i - 1], dataset.colorinterp[i - 1].name
        name = description or ("" if color in ("undefined", "gray") else color)
        listed.append(f"{i} ({name[:40]})" if name else f"{i} (no name)")
    return ", ".join(listed) + (", ..." if dataset.count > len(listed) else "")


def _called(dataset: DatasetReader, name: str, among: list[int]) -> list[int]:
    """The bands with a name: by their descriptions, or else by their colours, or else by other names of the same."""
    wanted = _plain(name)
    same = next((names for names in _SAME if wanted in names), {wanted})
    described = {i: _plain(dataset.descriptions[i - 1] or "") for i in among}
    first = {i: _plain(re.split(r"[\s,;:(]", (dataset.descriptions[i - 1] or "").strip())[0]) for i in among}
    colors = {i: dataset.colorinterp[i - 1].name for i in among}
    for names in ({wanted}, same):
        for given in (described, first, colors):
            if found := [i for i in among if given[i] in names]:
                return found
    return []


def same_band(one: str, other: str) -> bool:
    """Whether two names mean one band: red, R and B04 do."""
    plain = {_plain(one), _plain(other)}
    return len(plain) == 1 or any(plain <= names for names in _SAME)


def _plain(name: str) -> str:
    """A name without case, blanks and leading zeros: B04 is b4."""
    plain = re.sub(r"[\s_-]+", "", name.lower())
    return re.sub(r"^(?:b|band)0*(\d+a?)$", r"b\1", plain)
