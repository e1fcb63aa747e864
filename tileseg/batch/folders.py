"""Whose a folder of an archive is: no scene takes one that belongs to another.

Each folder names its scene in ``.state/source.json``. A scene alone with its stem gets ``<stem>.tileseg``, unless that
is another's; those that share a stem get ``<stem>-<digest>.tileseg``, but for one that had the plain name before. So
names depend neither on the order of the sources nor on who comes first, and processes that begin at different times
agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tileseg.batch.entry import Entry, absolute
from tileseg.errors import InputError, TilesegError
from tileseg.run.identity import Record
from tileseg.run.names import STATE, SUMMARY
from tileseg.storage.place import Url, file_of, is_address
from tileseg.storage.store import at, write_atomic

SOURCE = "source.json"
"""File in the state folder of a scene that says which scene it is."""


@dataclass(frozen=True)
class SceneRecord:
    """What a batch notes of the scene in a folder."""

    scene: str
    """As the user named it, without a signature."""
    place: str
    """The same, absolute."""
    options: dict[str, str] = field(default_factory=dict)
    """Options that a table gives this scene alone."""
    taken: str | None = None
    """When it was taken (RFC 3339)."""

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """What is noted of a scene."""
        return cls(entry.shown, entry.place, entry.options, entry.taken)

    @classmethod
    def read(cls, folder: Path | Url) -> Self | None:
        """What was noted in a folder; None where nothing was, or it is damaged."""
        values = _json(folder / STATE / SOURCE)
        if "scene" not in values:
            return None
        scene = str(values["scene"])
        # Of earlier versions, which noted neither of them.
        place, options = values.get("place") or absolute(scene), values.get("options") or {}
        return cls(scene, place, options, values.get("datetime"))

    def write(self, folder: Path | Url) -> None:
        """Note it in a folder, whose state folder is there."""
        values = {"scene": self.scene, "place": self.place, "options": self.options, "datetime": self.taken}
        write_atomic(folder / STATE / SOURCE, json.dumps(values))


def folder_of(entry: Entry, out: Path | Url, identity: Callable[[], str | None]) -> str:
    """Name of the folder of a scene below ``out``, as things stand there.

    ``identity``: that of the scene's file; asked for only where it may have been moved.
    """
    plain, own = entry.names
    alone = entry.folder == plain
    owner = _owner_of(out / plain)
    if owner is None:
        return plain if alone and SceneRecord.read(out / own) is None else own
    if not alone and owner.options != entry.options:  # the same scene may be there with several options
        return own
    return plain if owner.place == entry.place or _was_moved(out / plain, owner, identity) else own


def _owner_of(folder: Path | Url) -> SceneRecord | None:
    """The scene that a folder belongs to; None where nobody has finished anything in it that is known."""
    found = SceneRecord.read(folder)
    if found is None and isinstance(scene := _json(folder / SUMMARY).get("scene"), dict):  # by `tileseg run`
        path = str(scene.get("path"))
        found = SceneRecord(path, absolute(path))
    return found


def _was_moved(folder: Path | Url, owner: SceneRecord, identity: Callable[[], str | None]) -> bool:
    """Whether a folder's scene is this one, which lay elsewhere before: the same file, and none there any more.

    An address is not asked for: its identity holds the server's time and, mostly, a digest of the content.
    """
    if not is_address(owner.place) and Path(file_of(owner.place)).exists():
        return False
    record = Record.read(folder)
    return record is not None and record.identity.get("scene") == identity()


def _json(path: Path | Url) -> dict[str, Any]:
    """The values of a file; none where it is missing or damaged. Raises InputError where it may not be read."""
    try:
        text = at(path).read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except TilesegError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; choose another --out") from error
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
