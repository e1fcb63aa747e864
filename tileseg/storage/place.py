"""Where something lies: a path of this machine, or an address on an object store or a web server."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from tileseg.errors import UsageError, did_you_mean

BAND = "{band}"
"""What stands for the name of a band in a pattern of files that have one band each."""
BUCKETS = ("s3", "gs", "az")
"""Schemes of object stores, which are read and written."""
_WEB = ("https", "http")
"""Schemes of web servers, which are read only."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME_BYTES = 255
"""Longest name that file systems take."""
_SUBDATASET = re.compile(
    r"(?P<kind>GTIFF_DIR|DICOM):(?P<page>\d+|off:\d+):(?P<file>.+)|GPKG:(?P<gpkg>.+):(?P<table>[^:/\\]+)"
)


@dataclass(frozen=True, slots=True)
class Url:
    """An address, with the few properties of a path that are used of places. Text never shows its query."""

    root: str
    """Scheme and bucket (or container, or server): ``s3://bucket``."""
    key: str = ""
    """What follows, without slashes at its ends; of web addresses with their percent signs."""
    query: str = field(default="", repr=False)
    """Query of a web address. It may be a signature, which must not be written down anywhere."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError in one line."""
        scheme, _, rest = text.partition("://")
        if scheme not in (*BUCKETS, *_WEB):
            known = ", ".join(f"{s}://" for s in (*BUCKETS, *_WEB))
            raise UsageError(f"{text.partition('?')[0]}: not an address that tileseg knows; expected {known} or a path")
        if scheme in _WEB:
            parts = urlsplit(text)
            if "@" in parts.netloc:
                raise UsageError(f"{scheme}://{parts.hostname}: has a user or a password in it; leave them out")
            host, key, query = parts.netloc, parts.path, parts.query
        else:
            host, _, key = rest.partition("/")
            query = ""
        if not host or host.startswith("."):
            raise UsageError(f"{text.partition('?')[0]}: names no {'bucket' if scheme in BUCKETS else 'server'}")
        if any(part in (".", "..") for part in key.split("/")) or "//" in key.strip("/") or "\0" in key:
            raise UsageError(f"{text.partition('?')[0]}: has an empty part, '.' or '..' in it; write it without")
        return cls(f"{scheme}://{host}", key.strip("/"), query)

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.root, f"{self.key}/{name}".strip("/"))

    @property
    def scheme(self) -> str:
        """``s3``, ``gs``, ``az``, ``https`` or ``http``."""
        return self.root.partition("://")[0]

    @property
    def bucket(self) -> str:
        """Name of the bucket, container or server."""
        return self.root.partition("://")[2]

    @property
    def writable(self) -> bool:
        """Whether it lies on an object store."""
        return self.scheme in BUCKETS

    @property
    def name(self) -> str:
        """Last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> Self:
        """What it lies in."""
        return type(self)(self.root, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Self:
        """Another name in the same folder."""
        return self.parent / name

    def resolve(self) -> Self:
        """Itself: it is absolute."""
        return self

    def absolute(self) -> Self:
        """Itself."""
        return self


@dataclass(frozen=True, slots=True)
class Places:
    """Several places that are one scene, in their order."""

    places: tuple[Path | Url, ...]

    def __post_init__(self) -> None:
        if not self.places:
            raise UsageError("a scene of several files needs at least one")

    def __str__(self) -> str:
        more = f" and {len(self.places) - 1} more" if len(self.places) > 1 else ""
        return f"{self.places[0]}{more}"

    @property
    def name(self) -> str:
        """That of the first."""
        return self.places[0].name


@dataclass(frozen=True, slots=True)
class BandFiles:
    """The files of one scene that has one for each band, by what the user calls the bands."""

    bands: tuple[tuple[str, Path | Url], ...]

    def __str__(self) -> str:
        return ", ".join(f"{band}={place}" for band, place in self.bands)

    @property
    def name(self) -> str:
        """That of the first file."""
        return self.bands[0][1].name


@dataclass(frozen=True, slots=True)
class SubDataset:
    """One raster of several in a file, by GDAL's name for it: ``GTIFF_DIR:2:scene.tif``, ``GPKG:scene.gpkg:table``.

    Frames of a scan are named alike: ``DICOM:3:ct.dcm``.
    """

    kind: str
    """``GTIFF_DIR``, ``DICOM`` or ``GPKG``."""
    file: str
    """The file, as the name has it."""
    part: str
    """Number of the page (or ``off:`` and its place in the file) or of the frame, or name of the table."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None where the text is no such name. A file may be called so all the same: whoever opens it looks first."""
        match = _SUBDATASET.fullmatch(text)
        if match is None:
            return None
        return cls(match["kind"] or "GPKG", match["file"] or match["gpkg"], match["page"] or match["table"])

    def __str__(self) -> str:
        return f"GPKG:{self.file}:{self.part}" if self.kind == "GPKG" else f"{self.kind}:{self.part}:{self.file}"


def file_of(text: str) -> str:
    """The file in which a scene lies: the scene itself, unless it is one raster of several."""
    found = SubDataset.parse(text)
    return text if found is None else found.file


def with_file(text: str, change: Callable[[str], str]) -> str:
    """A scene with the path of its file changed."""
    found = SubDataset.parse(text)
    return change(text) if found is None else str(replace(found, file=change(found.file)))


def stem_of(text: str) -> str:
    """What a scene's outputs are called: its name without ending, and which raster of its file it is.

    Without colons: GDAL would take ``GTIFF_DIR:1:scene.tileseg/labels.tif`` for a page of a file.
    """
    found = SubDataset.parse(text)
    name = file_of(text).rstrip("/").rpartition("/")[2]
    stem = name.removesuffix(PurePosixPath(name).suffix) or "scene"
    return stem if found is None else f"{stem}-{found.part.replace(':', '-')}"


def fitting(stem: str, suffix: str) -> str:
    """A name of a stem and a suffix; a stem for which file systems have no room is cut, and gets a digest."""
    whole = os.fsencode(stem)
    room = _NAME_BYTES - len(suffix)
    if len(whole) <= room:
        return f"{stem}{suffix}"
    digest = f"-{hashlib.sha256(whole).hexdigest()[:8]}"
    return f"{whole[: room - len(digest)].decode(errors='ignore')}{digest}{suffix}"


def is_address(text: str) -> bool:
    """Whether a text is meant as an address, and not as a path."""
    return _ADDRESS.match(text) is not None


def shown(text: str) -> str:
    """What a user wrote for a place, as it may be written down: an address without its query."""
    return text.partition("?")[0] if text.startswith(_WEB) and is_address(text) else text


def printable(text: str) -> str:
    r"""A text that holds names of files, as it may be written down: bytes that are not UTF-8 as ``\xff``.

    Python keeps such bytes of file names as lone surrogates, which neither JSON readers nor terminals take.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def similar_name(path: Path) -> str:
    """`` (did you mean ...?)`` with the name in a path's folder that is most like its own; empty where none is."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


Named = str | Path | Url | Places | BandFiles
"""What a user may name as one scene."""


def named_after(scene: Named) -> str:
    """What the outputs of a scene are called: of several files after the first, of a pattern after its folder."""
    first: Named = scene
    if isinstance(scene, Places):
        first = scene.places[0]
    elif isinstance(scene, BandFiles):
        first = scene.bands[0][1]
    text = str(first)
    if (has_magic(text) or BAND in text) and not Path(file_of(text)).exists():
        parts = text.split("/")
        text = "/".join(parts[: next(i for i, part in enumerate(parts) if has_magic(part) or "{" in part)]) or "."
    return stem_of(text if text.strip("./") else str(Path(text).resolve()))


def parse_places(
    value: Named | Sequence[str | Path | Url] | Mapping[str, str | Path | Url],
) -> Path | Url | Places | BandFiles:
    """A place, or several of a list, or one for each band. Raises UsageError in one line."""
    if isinstance(value, str | Path | Url | Places | BandFiles):
        return value if isinstance(value, Places | BandFiles) else parse_place(value)
    if isinstance(value, Mapping):
        if not value:
            raise UsageError("a scene with a file for each band needs at least one")
        return BandFiles(tuple((band, parse_place(place)) for band, place in value.items()))
    found = Places(tuple(map(parse_place, value)))
    return found if len(found.places) > 1 else found.places[0]


def parse_place(value: str | Path | Url) -> Path | Url:
    """A path or an address of what a user wrote. Raises UsageError in one line."""
    if not isinstance(value, str):
        return value
    return Url.parse(value) if is_address(value) else Path(value)
