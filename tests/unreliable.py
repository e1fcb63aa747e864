"""A web server between a client and another server: now and then it fails, cuts the connection, or says nothing."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Fault = Literal["500", "503", "cut", "silence"]
_NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Unreliable:
    """Passes requests on to ``127.0.0.1:port``, but for a share of them that it spoils."""

    port: int
    share: float = 0.0
    kinds: tuple[Fault, ...] = ("500", "503", "cut", "silence")
    silence: float = 4.0
    """Seconds that nothing is said for."""
    seed: int = 1
    always: int | None = None
    """The one status that all requests are answered with."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by method."""
    spoilt: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    paths: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._random, self._lock = random.Random(self.seed), threading.Lock()
        unreliable = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _pass_on(self) -> None:
                unreliable.serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - the standard library's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """Of this server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _fault(self) -> Fault | None:
        with self._lock:
            return self._random.choice(self.kinds) if self._random.random() < self.share else None

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault()
        with self._lock:
            self.asked[request.command] += 1
            self.paths.append(request.path)
            if fault is not None:
                self.spoilt[fault] += 1
        if self.always is not None or fault in ("500", "503"):
            request.send_response(self.always or int(fault or 0))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if fault == "silence":
            time.sleep(self.silence)
            request.close_connection = True
            return
        status, headers, answer = self._ask(request, body)
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in _NOT_PASSED_ON:
                request.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", str(len(answer)))
        request.send_header("Content-Length", length)
        request.end_headers()
        if fault == "cut":
            # A write has been done by now, but the client is not told so.
            request.wfile.write(answer[: len(answer) // 2])
            request.wfile.flush()
            request.close_connection = True
            return
        request.wfile.write(answer)

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(request.command, request.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
