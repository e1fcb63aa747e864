"""Items of STAC: item collections, items, collections and static catalogues with all that they link to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.source.search import ENDINGS
from tileseg.storage.place import parse_place
from tileseg.storage.store import at

if TYPE_CHECKING:
    import pystac


def read_items(source: str) -> list[pystac.Item]:
    """The items of an ItemCollection, an Item, a Collection or a static Catalog with all that it links to.

    Raises UsageError, InputError.
    """
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
                    item.set_self_href(source if "://" in source else str(Path(source).absolute()))
            return items
        root = pystac.read_file(source, stac_io=reader)
        return [root] if isinstance(root, pystac.Item) else list(cast(pystac.Catalog, root).get_items(recursive=True))
    except (InputError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or source}: {error.strerror}") from error
    except (OSError, ValueError, KeyError, pystac.STACError, pystac.STACTypeError) as error:
        raise UsageError(f"{source}: not a STAC item, collection or catalog that can be read: {error}") from error


def scene_of(source: str, item: pystac.Item, wanted: str | None) -> str:
    """The path or address of the asset that is the scene: the one of a key or role, or else the only raster."""
    assets = item.get_assets()
    if wanted is not None:
        chosen = [wanted] if wanted in assets else [k for k, a in assets.items() if a.has_role(wanted)]
    else:
        chosen = _rasters(item)
    if len(chosen) != 1:
        problem = "no asset" if not chosen else f"{len(chosen)} assets"
        which = "for a raster" if wanted is None else f"with the key or role {wanted!r}"
        raise UsageError(f"{source}: item {item.id}: {problem} {which}; --asset: one of {', '.join(assets) or 'none'}")
    return address_of(source, item, chosen[0])


def is_one_raster(item: pystac.Item) -> bool:
    """Whether an item has one asset that is a raster, so that nobody has to say which."""
    return len(_rasters(item)) == 1


def _rasters(item: pystac.Item) -> list[str]:
    assets = item.get_assets()
    rasters = [k for k, a in assets.items() if _raster_asset(a)]
    return [k for k in rasters if assets[k].has_role("data")] or rasters


def address_of(source: str, item: pystac.Item, key: str) -> str:
    """The path or address of an asset. Raises InputError where it has none."""
    href = item.get_assets()[key].get_absolute_href()
    if href is None:
        raise InputError(f"{source}: item {item.id}: asset {key} has no address")
    return _local(href)


def moment_of(item: pystac.Item) -> datetime | None:
    """When an item was taken, or begun."""
    return item.datetime or item.common_metadata.start_datetime


def _raster_asset(asset: Any) -> bool:
    kind = asset.media_type or ""
    roles = set(asset.roles or ())
    if roles & {"thumbnail", "overview", "metadata"}:
        return False
    return kind.startswith("image/") or Path(urlsplit(asset.href).path).suffix.lower() in ENDINGS


def _local(href: str) -> str:
    """A path where the address is one of this machine."""
    return unquote(urlsplit(href).path) if href.startswith("file://") else href


def _stac_reader() -> pystac.StacIO:
    """Reads as all else is read: a server that fails is asked again, and is not taken for a file that is not there."""
    from pystac.stac_io import DefaultStacIO

    class Reader(DefaultStacIO):
        def read_text_from_href(self, href: str) -> str:
            return at(parse_place(_local(href))).read().decode()

    return Reader()
