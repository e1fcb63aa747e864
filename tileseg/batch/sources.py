"""Which scenes a batch is about: files, globs, folders, lists, tables and STAC catalogues."""

from __future__ import annotations

import csv
import fnmatch
import glob
import hashlib
import os
import posixpath
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.spec import RunSpec, option_name
from tileseg.storage.place import Url, file_of, is_address, parse_place, shown, stem_of, with_file
from tileseg.storage.store import at

if TYPE_CHECKING:
    import pystac

ENDINGS = (
    ".tif", ".tiff", ".jp2", ".j2k", ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".img", ".ntf", ".nitf", ".gpkg", ".vrt",
)  # fmt: skip
"""What rasters in folders are called."""

_NOT_FROM_SERVERS = (".gpkg", ".vrt")
"""Of these, those that are only read as files."""

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


@dataclass(frozen=True)
class Entry:
    """One scene of an archive."""

    scene: str
    """Path or address."""
    folder: str
    """Name of its output folder, as far as the sources decide it (see :mod:`tileseg.batch.folders`); no other scene of
    the batch has it."""
    options: dict[str, str] = field(default_factory=dict)
    """Options of a run that a table gives this scene alone."""
    taken: str | None = None
    """When it was taken (RFC 3339), where the source says so."""

    @property
    def shown(self) -> str:
        """The scene as it may be written down: an address without its signature."""
        return shown(self.scene)

    @property
    def place(self) -> str:
        """The scene as it may be written down, absolute."""
        return absolute(self.scene)

    @property
    def names(self) -> tuple[str, str]:
        """What its folder may be called: after its stem, and with a digest of where it lies and of its options."""
        stem = stem_of(self.shown)
        text = f"{self.place} {sorted(self.options.items())}"
        return f"{stem}.tileseg", f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.tileseg"


def read_sources(sources: Sequence[str | Path], asset: str | None = None) -> tuple[Entry, ...]:
    """All scenes, each once, in the order of the sources; those of globs and folders sorted by name.

    ``asset``: key or role of the asset that is the scene, in STAC sources. Raises UsageError where a source is none,
    or holds no scene, InputError where an address is not there.
    """
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Entry] = {}
    for source in sources:
        before = len(found)
        entries = list(_entries(str(source), asset))
        for entry in entries:
            found.setdefault((entry.place, tuple(sorted(entry.options.items()))), entry)
        if not entries and len(found) == before:
            raise UsageError(f"{source}: no scenes there")
    return _with_folders(list(found.values()))


def shard(entries: Sequence[Entry], part: str) -> tuple[Entry, ...]:
    """Every n-th scene, beginning with the i-th (from 1): ``i/n``. Raises UsageError."""
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {part}: expected i/n with i from 1 to n, such as 2/8")
    return tuple(entries[int(number) - 1 :: int(count)])


def storage(scene: str) -> str:
    """What has to be reachable for a scene to be read: a file system, or a server and a bucket of it."""
    if "://" in scene:
        address = urlsplit(scene)
        return f"{address.scheme}://{address.netloc}"
    if scene.startswith("/vsi"):
        return "/".join(scene.split("/")[:3])
    return _device(str(Path(file_of(scene)).absolute().parent))


@cache
def _device(folder: str) -> str:
    try:
        return f"device {Path(folder).stat().st_dev}"
    except OSError:
        return folder


def _entries(source: str, asset: str | None) -> Iterator[Entry]:
    if is_address(source):
        yield from _far(source, asset)
        return
    path = Path(source)
    ending = path.suffix.lower()
    if path.is_dir():
        yield from _plain(p for p in sorted(_files_below(path)) if _is_raster(p, path))
    elif path.is_file() and ending == ".txt":
        yield from _lines(path)
    elif path.is_file() and ending == ".csv":
        yield from _table(path)
    elif path.is_file() and ending in (".json", ".geojson"):
        yield from _stac(source, asset)
    elif path.exists() or Path(file_of(source)).is_file():
        yield Entry(source, "")
    elif glob.has_magic(source):
        matches = map(Path, sorted(glob.glob(source, recursive=True)))  # noqa: PTH207 - pathlib's takes no absolute ones
        yield from _plain(m for m in matches if m.is_file() and not _is_written(m.parents) and not _is_index(m))
    else:
        raise UsageError(f"{source}: no such file, folder or pattern")


def _far(source: str, asset: str | None) -> Iterator[Entry]:
    """An address: a scene, a list, a table, STAC; on object stores also a folder (it ends with ``/``) or a pattern."""
    url = Url.parse(source)
    ending = url.suffix.lower()
    if url.writable and (source.endswith("/") or not url.key):
        yield from _plain(str(url / name) for name in sorted(_below(url)) if _is_raster_name(name))
    elif url.writable and glob.has_magic(url.key):
        parts = url.key.split("/")
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = Url(url.root, "/".join(parts[:fixed]))
        yield from _plain(str(base / name) for name in sorted(_below(base)) if _matches(name.split("/"), parts[fixed:]))
    elif ending == ".txt":
        yield from _lines(url)
    elif ending == ".csv":
        yield from _table(url)
    elif ending in (".json", ".geojson"):
        yield from _stac(source, asset)
    else:
        yield Entry(source, "")


def _below(url: Url) -> Iterator[str]:
    """Names of all objects below an address: nothing hidden, and nothing that tileseg wrote."""
    try:
        names = at(url).names()
    except FileNotFoundError as error:
        raise InputError(f"{url}: {error.strerror}") from error
    for name in names:
        parts = name.split("/")
        if not any(part.startswith(".") for part in parts) and not any(p.endswith(".tileseg") for p in parts[:-1]):
            yield name


def _is_raster_name(name: str) -> bool:
    ending = Path(name).suffix.lower()
    return ending in ENDINGS and ending not in _NOT_FROM_SERVERS


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name fits a pattern, part by part; ``**`` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _lines(path: Path | Url) -> Iterator[Entry]:
    lines = _text(path).splitlines()
    return _plain(_beside(path, s) for line in lines if (s := line.strip()) and not s.startswith("#"))


def _plain(paths: Iterator[Path] | Iterator[str]) -> Iterator[Entry]:
    return (Entry(str(path), "") for path in paths)


def _files_below(root: Path) -> Iterator[Path]:
    """All files in a folder and below. Links to folders are followed, but not to one that leads there."""
    above: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, inside, files in os.walk(root, followlinks=True):
        way = above.pop(folder)
        for name in tuple(inside):
            path = os.path.join(folder, name)  # noqa: PTH118 - as os.walk will call it
            if (real := os.path.realpath(path)) in way:
                inside.remove(name)
            else:
                above[path] = (*way, real)
        yield from (Path(folder, name) for name in files)


def _is_written(folders: Sequence[Path]) -> bool:
    """Whether one of the folders that a file lies in is the output of a run."""
    return any(folder.suffix == ".tileseg" for folder in folders)


def _is_raster(path: Path, root: Path) -> bool:
    """Whether a file in a folder is taken for a scene: not what tileseg wrote, and nothing hidden."""
    inside = path.relative_to(root)
    hidden = any(part.startswith(".") for part in inside.parts)
    written = _is_written([*inside.parents, *root.absolute().parents, root.absolute()])
    return path.suffix.lower() in ENDINGS and not hidden and not written and path.is_file() and not _is_index(path)


def _is_index(path: Path) -> bool:
    """Whether it is a GeoPackage without raster tiles, such as a batch's index or a merged layer.

    Goes by its table of contents (OGC 12-128r19, section 1.1.3).
    """
    if path.suffix.lower() != ".gpkg":
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            kinds = {kind for (kind,) in database.execute("SELECT data_type FROM gpkg_contents")}
    except sqlite3.Error:
        return False  # whatever it is, reading it says what is wrong
    return not any("tile" in kind or "coverage" in kind for kind in kinds)


def _beside(manifest: Path | Url, text: str) -> str:
    """A scene named in a file: relative to that file."""
    if is_address(text) or text.startswith("/vsi"):
        return text
    if isinstance(manifest, Url):
        # Keys have no "..": whoever wrote the list meant folders. One that leads out of the bucket is told of as it is.
        return f"{manifest.root}/{posixpath.normpath(str(PurePosixPath(manifest.parent.key, text)))}"
    return with_file(text, lambda file: _tidy(str(manifest.parent / file)))


def _tidy(path: str) -> str:
    """A path without detours, unless that leads elsewhere: after a link to a folder, ``..`` is not the way back."""
    plain = os.path.normpath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else path


def _table(path: Path | Url) -> Iterator[Entry]:
    """A table with a header: a column of scenes, ``datetime`` if known, others are options of ``tileseg run``.

    Raises UsageError, naming the line, where a value makes no sense.
    """
    rows = csv.DictReader(_text(path).splitlines())
    names = [name.strip() for name in rows.fieldnames or ()]
    column = next((name for name in _NAMES if name in names), None)
    if column is None:
        raise UsageError(f"{path}: no column of scenes: expected a header with {', '.join(_NAMES)}")
    options = {name: option_name(name) for name in names if name not in (column, "datetime")}
    for name, option in options.items():
        if option not in RunSpec.model_fields or option in _NOT_PER_SCENE:
            raise UsageError(f"{path}: column {name!r} is no option of a scene; expected some of {_columns()}")
    for row in rows:
        values = {(k or "").strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
        if values.get(column):
            scene, taken = _beside(path, values[column]), values.get("datetime") or None
            given = {option: values[name] for name, option in options.items() if values.get(name)}
            if "aoi" in given:
                given["aoi"] = _beside(path, given["aoi"])
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


def _columns() -> str:
    known = {name: field.alias or name for name, field in RunSpec.model_fields.items()}
    return ", ".join(sorted(shown for name, shown in known.items() if name not in _NOT_PER_SCENE))


def _text(path: Path | Url) -> str:
    try:
        return at(path).read().decode("utf-8-sig")
    except (InputError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _stac(source: str, asset: str | None) -> Iterator[Entry]:
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
        told = "for a raster" if wanted is None else f"with the key or role {wanted!r}"
        raise UsageError(f"{source}: item {item.id}: {problem} {told}; --asset: one of {', '.join(assets) or 'none'}")
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
    """Reads as all else is read, so that a server that fails is asked again, and told from what is not there."""
    from pystac.stac_io import DefaultStacIO

    class Reader(DefaultStacIO):
        def read_text_from_href(self, href: str) -> str:
            return at(parse_place(_local(href))).read().decode()

    return Reader()


def absolute(scene: str) -> str:
    """A scene as it may be written down, absolute: the same by all ways to its folder, links among them."""
    if "://" in scene or scene.startswith("/vsi"):
        return shown(scene)
    return with_file(scene, _absolute)


def _absolute(file: str) -> str:
    path = Path(file).absolute()
    return str(_resolved(path.parent) / path.name)


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _with_folders(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Name the output folders: those of scenes that share a stem all get a digest, so that their order is no matter."""
    stems = Counter(entry.names[0] for entry in entries)
    return tuple(replace(entry, folder=entry.names[stems[entry.names[0]] > 1]) for entry in entries)
