"""Headers of many files, kept between runs: reading ten thousand takes half a minute, looking which changed a second.

A row is used while the file and all that lies beside it under its name (world files, masks, overviews, ``.aux.xml``)
have the size and the time of change that they had; of files on servers, while size, time and ETag are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from affine import Affine

from tileseg.errors import InputError, Unreachable
from tileseg.grid import Grid
from tileseg.source.formats import RasterFile
from tileseg.source.protocol import ReadRequest
from tileseg.source.raster import RasterScene
from tileseg.storage.local import cache_folder, until_whole
from tileseg.storage.place import Url
from tileseg.storage.store import at

_FORMAT = 2
"""Raised when a row means something else than before."""
_KEPT = 32
"""Sets of files whose headers are kept; the least recently written go first."""

Stamps = Mapping[Path | Url, str]
"""Of each file that may be kept, what is different when its header may be."""


def cache_file(places: Sequence[Path | Url], wanted: ReadRequest) -> Path:
    """Where the headers of these files, read for this, are kept."""
    facts = [_FORMAT, wanted.expected, wanted.bands, wanted.names, wanted.warp, wanted.trust_vrt]
    text = json.dumps([facts, sorted(str(p.absolute()) for p in places)])
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder("headers") / f"{digest[:32]}.parquet"


def stamps_of(places: Sequence[Path | Url]) -> Stamps:
    """What tells whether a header is still what it was, without opening the files of this machine."""
    folders: dict[Path, dict[str, list[Any]]] = {}
    found: dict[Path | Url, str] = {}
    for place in places:
        if isinstance(place, Url):
            if not place.query:  # it may be a signature, which must not be written down
                with suppress(OSError, InputError, Unreachable):  # whoever opens it says what is wrong
                    found[place] = json.dumps(at(place).stamp())
            continue
        if place.parent not in folders:
            folders[place.parent] = _by_stem(place.parent)
        if beside := folders[place.parent].get(place.stem):
            found[place] = json.dumps(sorted(beside))
    return found


def _by_stem(folder: Path) -> dict[str, list[Any]]:
    """Files of a folder with size and time of change, by what their names may begin with, up to a dot."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            stat = entry.stat()
            parts = entry.name.split(".")
            for count in range(1, len(parts)):
                found[".".join(parts[:count])].append((entry.name, stat.st_size, stat.st_mtime_ns))
    return found


def load(file: Path, stamps: Stamps) -> dict[Path | Url, RasterScene]:
    """The headers that are kept and may be used."""
    if not file.is_file():
        return {}
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as table:
            rows = table.read().to_pylist()
    except (ArrowException, OSError):
        return {}  # of a disk that was full, say; it is written anew
    kept = {row["place"]: row for row in rows}
    found = {}
    for place, stamp in stamps.items():
        row = kept.get(str(place.absolute()))
        if row is not None and row["stamp"] == stamp:
            found[place] = _scene(place, row)
    return found


def save(file: Path, stamps: Stamps, scenes: Mapping[Path | Url, RasterScene]) -> None:
    """Keep headers. Where that cannot be written, they are read again next time."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"place": str(place.absolute()), "stamp": stamps[place], **_row(scene)}
        for place, scene in scenes.items()
        if place in stamps and scene.file.text is None  # virtual rasters depend on others
    ]
    if not rows:
        return
    with suppress(OSError, UnicodeEncodeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with until_whole(file) as partial:
            parquet.write_table(pa.Table.from_pylist(rows), partial)
        old = sorted(file.parent.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in old[_KEPT:]:
            path.unlink(missing_ok=True)


_PLAIN = ("dtype", "alpha", "palette", "identity", "warp_to", "orientation")
_LISTS = ("bands", "nodata", "masks", "block", "scales", "offsets", "notes")


def _row(scene: RasterScene) -> dict[str, Any]:
    return {
        "driver": scene.file.driver,
        "name": scene.file.name,
        "height": scene.grid.height,
        "width": scene.grid.width,
        "transform": list(tuple(scene.grid.transform)[:6]),
        "crs": scene.grid.crs_wkt,
        **{name: getattr(scene, name) for name in _PLAIN},
        **{name: json.dumps(getattr(scene, name)) for name in _LISTS},
    }


def _scene(place: Path | Url, row: Mapping[str, Any]) -> RasterScene:
    values: dict[str, Any] = {name: row[name] for name in _PLAIN}
    values |= {name: tuple(json.loads(row[name])) for name in _LISTS}
    return RasterScene(
        path=str(place),
        file=RasterFile(row["name"], row["driver"], (place.absolute(),)),
        grid=Grid(row["height"], row["width"], Affine(*row["transform"]), row["crs"]),
        **values,
    )
