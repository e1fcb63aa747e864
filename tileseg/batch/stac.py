"""Scenes of STAC: item collections, items, collections and static catalogues with all that they link to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from tileseg.batch.entry import Entry, absolute
from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.source.search import ENDINGS
from tileseg.storage.place import parse_place
from tileseg.storage.store import at

if TYPE_CHECKING:
    import pystac


def read_stac(source: str, asset: str | None) -> Iterator[Entry]:
    """The items of an ItemCollection, an Item, a Collection or a static Catalog with all that it links to."""
    try:
        import pystac
    except ImportError:
        raise UsageError(f'{source}: STAC needs pystac: pip install "tileseg[stac]"') from None
    try:
        reader = _stac_reader()
        content = reader.read_json(source)
        if content.get("type") == "FeatureCollection":
            items = list(pystac.ItemCollection.from_dict(content))
            for item in items:
                if item.get_self_href() is None:
                    item.set_self_href(absolute(source))
        else:
            root = pystac.read_file(source, stac_io=reader)
            if isinstance(root, pystac.Item):
                items = [root]
            else:
                items = list(cast(pystac.Catalog, root).get_items(recursive=True))
    except (InputError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or source}: {error.strerror}") from error
    except (OSError, ValueError, KeyError, pystac.STACError, pystac.STACTypeError) as error:
        raise UsageError(f"{source}: not a STAC item, collection or catalog that can be read: {error}") from error
    for item in items:
        yield Entry(_local(_chosen(source, item, asset)), "", taken=_taken(item))


def _chosen(source: str, item: pystac.Item, wanted: str | None) -> str:
    """The address of the asset that is the scene."""
    assets = item.get_assets()
    if wanted is not None:
        chosen = [wanted] if wanted in assets else [k for k, a in assets.items() if a.has_role(wanted)]
    else:
        rasters = [k for k, a in assets.items() if _raster_asset(a)]
        chosen = [k for k in rasters if assets[k].has_role("data")] or rasters
    if len(chosen) != 1:
        problem = "no asset" if not chosen else f"{len(chosen)} assets"
        which = "for a raster" if wanted is None else f"with the key or role {wanted!r}"
        raise UsageError(f"{source}: item {item.id}: {problem} {which}; --asset: one of {', '.join(assets) or 'none'}")
    href = assets[chosen[0]].get_absolute_href()
    if href is None:
        raise InputError(f"{source}: item {item.id}: asset {chosen[0]} has no address")
    return href


def _raster_asset(asset: Any) -> bool:
    kind = asset.media_type or ""
    roles = set(asset.roles or ())
    if roles & {"thumbnail", "overview", "metadata"}:
        return False
    return kind.startswith("image/") or Path(urlsplit(asset.href).path).suffix.lower() in ENDINGS


def _local(href: str) -> str:
    """A path where the address is one of this machine."""
    return unquote(urlsplit(href).path) if href.startswith("file://") else href


def _taken(item: pystac.Item) -> str | None:
    moment = item.datetime or item.common_metadata.start_datetime
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _stac_reader() -> pystac.StacIO:
    """Reads as all else is read: a server that fails is asked again, and is not taken for a file that is not there."""
    from pystac.stac_io import DefaultStacIO

    class Reader(DefaultStacIO):
        def read_text_from_href(self, href: str) -> str:
            return at(parse_place(_local(href))).read().decode()

    return Reader()
