"""Serve the viewer on this machine alone, and open the browser."""

from __future__ import annotations

import asyncio
import errno
import socket
import webbrowser
from collections.abc import Callable, Sequence

import uvicorn

from tileseg.errors import TilesegError, UsageError
from tileseg.view.app import Viewer, make_app
from tileseg.view.viewed import ViewedRun

HOST = "127.0.0.1"
PORT = 8777
"""Where nothing else is said; the next ones where it is taken."""
_TRIES = 20


def listening(port: int | None) -> socket.socket:
    """A socket on this machine. ``port``: which; None: the usual one, or one of the next. Raises UsageError."""
    wanted = range(PORT, PORT + _TRIES) if port is None else [port]
    for number in wanted:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, number))
            found.listen()  # until then, others may have the same one
        except OSError as error:
            found.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise UsageError(f"--port {number}: may not be used by you; choose one from 1024 on") from error
            continue
        return found
    if port is None:
        raise TilesegError(f"ports {PORT} to {PORT + _TRIES - 1} are all in use; choose another with --port")
    raise UsageError(f"--port {port}: is in use; choose another, or leave it out")


def serve(
    runs: Sequence[ViewedRun], port: int | None = None, *, browse: bool = True, tell: Callable[[str], object] = print
) -> None:
    """Serve until stopped by Ctrl-C. ``tell`` gets lines for the user."""
    taken = listening(port)
    address = f"http://{HOST}:{taken.getsockname()[1]}/"

    def ready() -> None:
        tell(f"the viewer is at {address} (Ctrl-C ends it)")
        if browse and not _browse(address):
            tell("no browser could be opened here: open that address in one on this machine")

    config = uvicorn.Config(make_app(Viewer(runs)), log_level="warning", timeout_graceful_shutdown=1)
    _Server(config, ready).run(sockets=[taken])


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await asyncio.to_thread(self._ready)


def _browse(address: str) -> bool:
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False
