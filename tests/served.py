"""The viewer's server, and requests to it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from tileseg.view.app import Viewer, make_app
from tileseg.view.serve import listening
from tileseg.view.viewed import ViewedRun


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    address: str

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, data, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers.items()), error.read())

    def wait_for(self, path: str, key: str) -> Any:
        """The JSON of a path once it has a value for a key."""
        for _ in range(600):
            if (found := self.ask(path).json)[key]:
                return found
            time.sleep(0.05)
        raise TimeoutError(path)


@contextmanager
def serving(runs: Sequence[ViewedRun]) -> Iterator[Served]:
    with serving_app(make_app(Viewer(runs))) as served:
        yield served


@contextmanager
def serving_app(app: Any) -> Iterator[Served]:
    with listening(0) as taken:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(f"http://127.0.0.1:{taken.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()
