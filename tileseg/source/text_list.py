"""Lists of files: text with a path or an address on each line."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tileseg.errors import InputError, Unreachable, UsageError
from tileseg.storage.place import Url, is_address, with_file
from tileseg.storage.store import at


def listed_in(path: Path | Url) -> Iterator[str]:
    """A file on each line, relative to the list; empty lines and those that begin with # are passed over."""
    lines = text_of(path).splitlines()
    return (beside(path, s) for line in lines if (s := line.strip()) and not s.startswith("#"))


def beside(manifest: Path | Url, text: str) -> str:
    """A file named in another: relative to that one."""
    if is_address(text) or text.startswith("/vsi"):
        return text
    if isinstance(manifest, Url):
        # Keys have no "..": whoever wrote the list meant folders. One that leads out of the bucket is refused as it is.
        return f"{manifest.root}/{posixpath.normpath(str(PurePosixPath(manifest.parent.key, text)))}"
    return with_file(text, lambda file: _tidy(str(manifest.parent / file)))


def _tidy(path: str) -> str:
    """A path without detours, unless that leads elsewhere: after a link to a folder, ``..`` is not the way back."""
    plain = os.path.normpath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else path


def text_of(path: Path | Url) -> str:
    """The text of a file, in UTF-8. Raises InputError, UsageError."""
    try:
        return at(path).read().decode("utf-8-sig")
    except (InputError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
