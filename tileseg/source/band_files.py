"""Which files are the bands of a scene: named one by one, by a pattern, or by items of STAC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.errors import InputError, UsageError
from tileseg.source.bands import same_band
from tileseg.source.protocol import ReadRequest
from tileseg.source.search import objects_named
from tileseg.source.values import Measure
from tileseg.storage.place import BAND, Url

if TYPE_CHECKING:
    import pystac

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class BandFile:
    """A file of a band."""

    name: str
    place: Path | Url
    told: Measure | None = None
    """What its numbers stand for, where whoever names it says so."""


def chosen(
    named: object, files: Sequence[BandFile], wanted: ReadRequest, *, in_order: bool = False
) -> tuple[list[BandFile], list[BandFile]]:
    """The files of the bands that are wanted, in their order, and those of the bands of quality.

    By name; with ``in_order``, where none is called so, in the order that they are given in. Raises UsageError.
    """
    masks = [_called(named, files, rule.band) for rule in wanted.joining.mask]
    data = [file for file in files if file not in masks]
    if wanted.bands is not None:
        if len(wanted.bands) != wanted.expected:
            words = wanted.words
            raise UsageError(f"{words.option} names {len(wanted.bands)} bands; {words.taker} {wanted.expected}")
        return [_numbered(named, files, band) for band in wanted.bands], masks
    found = [next((file for file in data if same_band(file.name, name)), None) for name in wanted.names]
    if found and all(found):
        return [file for file in found if file is not None], masks
    if any(found) or len(data) != wanted.expected or not in_order:
        listed = f" ({', '.join(wanted.names)})" if wanted.names else ""
        raise UsageError(
            f"{named}: has the bands {_listed(files)}; {wanted.words.taker} {wanted.expected}{listed}; "
            f"say which are which with {wanted.words.option}"
        )
    return data, masks


def _numbered(named: object, files: Sequence[BandFile], band: int | str) -> BandFile:
    if isinstance(band, str):
        return _called(named, files, band)
    if band > len(files):
        raise UsageError(f"{named}: has no band {band}; it has {_listed(files)}")
    return files[band - 1]


def _called(named: object, files: Sequence[BandFile], name: str) -> BandFile:
    exact = [file for file in files if file.name.casefold() == name.casefold()]
    found = exact or [file for file in files if same_band(file.name, name)]
    if not found:
        raise UsageError(f"{named}: has no band called {name}; it has {_listed(files)}")
    return found[0]


def _listed(files: Sequence[BandFile]) -> str:
    names = list(dict.fromkeys(file.name for file in files))
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def by_pattern(pattern: Path | Url) -> dict[str, list[BandFile]]:
    """Files of a pattern such as ``{tile}_{band}.tif`` by what stands for all but the band, sorted."""
    text = str(pattern)
    masked = _PLACEHOLDER.sub("*", text)
    expression, fields = _expression(text)
    names = glob(masked, recursive=True) if isinstance(pattern, Path) else objects_named(Url.parse(masked))  # noqa: PTH207
    found: dict[str, list[BandFile]] = {}
    for name in sorted(names):
        if match := expression.fullmatch(name):
            place = Path(name) if isinstance(pattern, Path) else Url.parse(name)
            key = " ".join(match[field] for field in fields if field != "band") or match.string
            found.setdefault(key if len(fields) > 1 else "", []).append(BandFile(match["band"], place))
    if not found:
        raise InputError(f"{pattern}: no files there that are called so")
    return found


def _expression(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    """A pattern as a regular expression, and its placeholders."""
    fields: list[str] = []
    parts = []
    for part in re.split(r"(\{\w+\}|\*\*/|\*|\?)", pattern):
        if match := _PLACEHOLDER.fullmatch(part):
            again = match[1] in fields
            parts.append(f"(?P={match[1]})" if again else f"(?P<{match[1]}>[^/]+)")
            fields += [] if again else [match[1]]
        else:
            parts.append({"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)))
    return re.compile("".join(parts)), fields


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern of files of single bands."""
    return BAND in text


def of_item(source: str, item: pystac.Item) -> Iterator[BandFile]:
    """The assets of an item of STAC by their common names, and by their keys."""
    from tileseg.source.stac import address_of
    from tileseg.storage.place import parse_place

    for key, asset in item.get_assets().items():
        described = _described(asset.extra_fields)
        common = described.get("common_name") or described.get("eo:common_name")
        told = _measure(described, item.properties)
        place = parse_place(address_of(source, item, key))
        for name in dict.fromkeys(str(name) for name in (common, described.get("name"), key) if name):
            yield BandFile(name, place, told)


def _described(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What an asset of one band says of it: by the extensions eo and raster, or as STAC 1.1 does."""
    found: dict[str, Any] = {name.removeprefix("raster:"): value for name, value in fields.items()}
    for name in ("eo:bands", "raster:bands", "bands"):
        bands = fields.get(name)
        if isinstance(bands, list) and len(bands) == 1 and isinstance(bands[0], dict):
            found |= {key.removeprefix("raster:"): value for key, value in bands[0].items()}
    return found


def _measure(described: Mapping[str, Any], properties: Mapping[str, Any]) -> Measure | None:
    scale, offset = described.get("scale"), described.get("offset")
    if not isinstance(scale, int | float) and not isinstance(offset, int | float):
        return None
    applied = properties.get("earthsearch:boa_offset_applied") is True
    return Measure(float(1 if scale is None else scale), float(0 if offset is None or applied else offset))
