"""Scenes of STAC: item collections, items, collections and static catalogues with all that they link to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import TYPE_CHECKING

from tileseg.batch.entry import Entry
from tileseg.source.stac import moment_of, read_items, scene_of

if TYPE_CHECKING:
    import pystac


def read_stac(source: str, asset: str | None) -> Iterator[Entry]:
    """The items of an ItemCollection, an Item, a Collection or a static Catalog with all that it links to."""
    for item in read_items(source):
        yield Entry(scene_of(source, item, asset), "", taken=_taken(item))


def _taken(item: pystac.Item) -> str | None:
    moment = moment_of(item)
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
