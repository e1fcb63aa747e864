"""Objects of stores and files of web servers, by obstore."""

from __future__ import annotations

import errno
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

from tileseg.errors import Unreachable, UsageError
from tileseg.storage.environment import is_yes, s3_endpoint, silent_seconds
from tileseg.storage.patience import T, patiently
from tileseg.storage.place import Url
from tileseg.storage.protocol import AccessDenied, Stamp

if TYPE_CHECKING:
    from obstore.store import ObjectStore


_CONNECT_SECONDS = 10.0

_RETRIES, _RETRY_SECONDS, _LONGEST_PAUSE = 5, 60.0, 5.0

_AT_ONCE = 16
"""Requests at the same time where many small objects are wanted: each is mostly waiting."""

_REMEDIES = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (public buckets: AWS_NO_SIGN_REQUEST=YES), and AWS_REGION "
    "or AWS_ENDPOINT_URL where needed",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS (public buckets: GS_NO_SIGN_REQUEST=YES)",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (public containers: AZURE_NO_SIGN_REQUEST=YES)",
    "https": "see whether the address is right and still valid",
    "http": "see whether the address is right and still valid",
}

_MISSING = "no such object or bucket"

_ANONYMOUS = {"s3": "AWS_NO_SIGN_REQUEST", "gs": "GS_NO_SIGN_REQUEST", "az": "AZURE_NO_SIGN_REQUEST"}
"""Environment variable, as GDAL knows it, by which requests go without credentials."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder on an object store or a web server."""

    url: Url

    @property
    def _key(self) -> str:
        """Key in the store. For a web address the store is all of it, with its percent signs as they are."""
        return self.url.key if self.url.writable else ""

    def _ask(self, question: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a function of obstore, or another one of its store, gives."""
        function = getattr(_obstore(self.url), question) if isinstance(question, str) else question
        return ask(self.url, lambda: function(_store_of(self.url), *args, **options))

    def _look(self, most: int | None) -> tuple[bytes, Any]:
        # Not a HEAD request: signed addresses are good for GET only.
        options = None if most is None else {"range": (0, most)}

        def look(store: ObjectStore) -> tuple[bytes, Any]:
            obstore = _obstore(self.url)
            try:
                found = obstore.get(store, self._key, options=options)
                return bytes(found.bytes()), found.meta
            except obstore.exceptions.BaseError as error:
                if re.search(r"\b416\b", str(error)) is None:
                    raise
                return b"", obstore.head(store, self._key)  # empty, so it has no first byte

        found: tuple[bytes, Any] = self._ask(look)
        return found

    def read(self, most: int | None = None) -> bytes:
        if most is None and not self.url.writable:
            return patiently(lambda: _page(self.url))
        return self._look(most)[0]

    def stamp(self) -> Stamp:
        meta = self._look(1)[1]
        return meta["size"], round(meta["last_modified"].timestamp() * 1e9), meta["e_tag"] or ""

    def write(self, data: bytes) -> None:
        self._ask("put", self._key, data)

    def create(self, data: bytes) -> None:
        try:
            self._ask("put", self._key, data, mode="create", use_multipart=False)
        except (FileExistsError, Unreachable):
            # It may have been created, and the answer lost on the way.
            with suppress(FileNotFoundError):
                if self.read() == data:
                    return
            raise

    def renew(self, data: bytes) -> None:
        meta = self._ask("head", self._key)
        known = {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}
        self._ask("put", self._key, data, mode=known, use_multipart=False)

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            self._ask("delete", self._key)

    def remove_tree(self) -> None:
        keys = [f"{self._key}/{name}" for name in self.names()]
        for start in range(0, len(keys), 1000):
            with suppress(FileNotFoundError):
                self._ask("delete", keys[start : start + 1000])

    def make_folder(self) -> None:
        """Keys need no folder."""

    def exists(self) -> bool:
        try:
            self._ask("head", self._key)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> Iterator[str]:
        def collect(store: ObjectStore) -> Any:
            return _obstore(self.url).list(store, self._key).collect()

        metas = self._ask(collect)
        return (meta["path"].removeprefix(f"{self._key}/") for meta in metas)

    def listed(self) -> tuple[list[str], list[str]]:
        found = self._ask("list_with_delimiter", self._key)
        files = [meta["path"] for meta in found["objects"]]
        return [_last(key) for key in files], [_last(prefix) for prefix in found["common_prefixes"]]

    def remove_partial(self) -> None:
        """Objects appear whole, or not at all."""

    def check_writable(self) -> None:
        probe = Remote(self.url / f"writable-{uuid4().hex}")
        probe.write(b"")
        probe.remove()

    def contents(self) -> Iterator[tuple[str, bytes]]:
        names = sorted(self.names())
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(names), 2 * _AT_ONCE):
                some = names[start : start + 2 * _AT_ONCE]  # few, because contents wait in memory
                yield from zip(some, pool.map(lambda name: Remote(self.url / name).read(), some), strict=True)

    def deliver(self, write: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
            path = Path(folder) / self.url.name
            write(path)
            self._upload(path)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
            yield Path(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    Remote(self.url / path.relative_to(folder).as_posix())._upload(path)  # noqa: SLF001 - our own

    @contextmanager
    def copied(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
            for name, data in self.contents():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            yield Path(folder)

    def _upload(self, path: Path) -> None:
        self._ask("put", self._key, path)


def _last(key: str) -> str:
    return key.rstrip("/").rpartition("/")[2]


def _page(url: Url) -> bytes:
    """The whole of a web address. Not by obstore, which takes only answers that say in advance how long they are."""
    address = quote(f"{url}?{url.query}" if url.query else str(url), safe="%/:?&=+,;@!$'()*~[]")
    problem: OSError
    try:
        with urllib.request.urlopen(address, timeout=silent_seconds()) as answer:  # noqa: S310 - https or http
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        problem = _of_status(url, error.code, f" {error.reason}")
    except (OSError, http.client.HTTPException):
        problem = _silent(url)
    raise problem


def object_store(url: Url) -> ObjectStore:
    """The folder at an address as a store of obstore, for Zarr. Raises UsageError where obstore is missing."""
    with _explained(url):
        return _bucket(url.root, url.key)


def ask(place: Path | Url, question: Callable[[], T]) -> T:
    """What a question about a place gives: asked again where a server fails, and complaints explained."""

    def explain() -> T:
        with _explained(place):
            return question()

    return patiently(explain)


@contextmanager
def _explained(place: Path | Url) -> Iterator[None]:
    """Turn what obstore complains of into errors of files, or into one line for the user."""
    if isinstance(place, Path):
        yield
        return
    obstore = _obstore(place)
    try:
        yield
    except (obstore.exceptions.BaseError, FileNotFoundError) as error:
        raise _explanation(place, error) from (None if place.query else error)


def _obstore(url: Url) -> Any:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise UsageError(f'{url}: addresses need obstore: pip install "tileseg[cloud]"') from None
    return obstore


def _explanation(url: Url, error: Exception) -> OSError:
    from obstore import exceptions

    if isinstance(error, exceptions.NotFoundError | FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, _MISSING, str(url))
    if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
        return FileExistsError(errno.EEXIST, "another process wrote it", str(url))
    remedy = _REMEDIES[url.scheme]
    text = str(error)
    if "169.254" in text or "metadata.google" in text or "credential" in text.lower():
        return AccessDenied(f"{url}: no credentials found; {remedy}")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return AccessDenied(f"{url}: access denied (or not there, and not allowed to be asked for); {remedy}")
    if isinstance(error, exceptions.NotSupportedError) and "Range" in text:
        return AccessDenied(
            f"{url}: the server does not serve parts of files (byte ranges); copy the file here, or use another server"
        )
    status = re.search(r"status:? (\d{3})( [A-Z][A-Za-z ]*\w)?", text)
    return _silent(url) if status is None else _of_status(url, int(status[1]), status[2] or "")


def _of_status(url: Url, status: int, words: str) -> OSError:
    """What a server's answer means that is not what was asked for. ``words``: with a blank before them."""
    if status == HTTPStatus.NOT_FOUND:
        # Also of what is removed while it is read: obstore asks again for the rest, and calls what it hears generic.
        return FileNotFoundError(errno.ENOENT, _MISSING, str(url))
    passing = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in passing:
        return AccessDenied(f"{url}: refused by the server ({status}{words}); {_REMEDIES[url.scheme]}")
    return Unreachable(f"{url}: the server fails ({status}{words}); running the same command again may help")


def _silent(url: Url) -> Unreachable:
    return Unreachable(f"{url}: the server does not answer; running the same command again may help")


def _store_of(url: Url) -> ObjectStore:
    return _bucket(url.root) if url.writable else _web(f"{url}?{url.query}" if url.query else str(url))


@lru_cache(maxsize=64)
def _bucket(root: str, prefix: str | None = None) -> ObjectStore:
    """The store of a bucket, or of what begins with a prefix there: one per process, because it keeps connections."""
    from obstore.store import AzureStore, GCSStore, S3Store

    url = Url.parse(root)
    client, retry = _patience()
    config: Any = {"skip_signature": is_yes(_ANONYMOUS[url.scheme])}
    if url.scheme == "s3":
        if (endpoint := s3_endpoint()) is not None:
            config["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        return S3Store(url.bucket, prefix=prefix, config=config, client_options=client, retry_config=retry)
    if url.scheme == "gs":
        return GCSStore(url.bucket, prefix=prefix, config=config, client_options=client, retry_config=retry)
    if account := os.environ.get("AZURE_STORAGE_ACCOUNT"):
        config["account_name"] = account
    return AzureStore(url.bucket, prefix=prefix, config=config, client_options=client, retry_config=retry)


@lru_cache(maxsize=64)
def _web(address: str) -> ObjectStore:
    from obstore.store import HTTPStore

    client, retry = _patience()
    client["allow_http"] = address.startswith("http://")
    return HTTPStore.from_url(address, client_options=client, retry_config=retry)


def _patience() -> tuple[Any, Any]:
    """How long a server is waited for, and how often it is asked: obstore's options of clients and of retries."""
    seconds = silent_seconds()
    client = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, seconds)),
    }
    pauses = {
        "init_backoff": timedelta(seconds=0.2),
        "max_backoff": timedelta(seconds=_LONGEST_PAUSE),
        "base": 2.0,
    }
    return client, {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
        "backoff": pauses,
    }
