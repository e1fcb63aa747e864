"""The viewer's server: what a browser on this machine may ask for, and nothing else.

No part of a request is ever a path: runs and polygons are numbers, layers and files names of a list. It answers only to
its own names (so that no page of others reaches it by a name of theirs), says nothing of other origins, and what
changes something needs a header that pages of others cannot send without being allowed to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tileseg.errors import TilesegError
from tileseg.view.archive import PolygonArchive
from tileseg.view.facts import facts_of, progress_of, seams_of
from tileseg.view.review import Reviews
from tileseg.view.threshold import command_of, polygons_of, write
from tileseg.view.tiles import Tiles
from tileseg.view.viewed import ViewedRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = "index.html"
TYPES = {
    PAGE: "text/html; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
    "parts.js": "text/javascript; charset=utf-8",
    "audit.js": "text/javascript; charset=utf-8",
    "viewer.css": "text/css; charset=utf-8",
    "maplibre-gl.mjs": "text/javascript; charset=utf-8",
    "maplibre-gl-worker.mjs": "text/javascript; charset=utf-8",
    "maplibre-gl.css": "text/css; charset=utf-8",
    "pmtiles.js": "text/javascript; charset=utf-8",
    "NOTICE.txt": "text/plain; charset=utf-8",
}
"""Files of the page, and what they are."""

_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_ASKED_BY_US = "X-Tileseg"
"""Header of requests that change something."""


def page_file(name: str) -> Path:
    """A file of the page, in the package."""
    return Path(str(resources.files("tileseg.view"))) / "static" / name


class _WithHeaders:
    """Adds headers to all responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self.app(scope, receive, added)


def index_of(runs: Sequence[ViewedRun]) -> list[dict[str, Any]]:
    """What the page is told of all runs."""
    return [
        {
            "id": i, "name": run.folder.name.removesuffix(".tileseg"), "bounds": run.placement.degrees,
            "on_globe": run.placement.on_globe, "outline": [run.ring((0, run.grid.height), (0, run.grid.width))],
            "finished": run.summary is not None,
        }
        for i, run in enumerate(runs)
    ]  # fmt: skip


class Viewer:
    """The runs that are looked at, and the answers to what is asked of them."""

    def __init__(self, runs: Sequence[ViewedRun]) -> None:
        self.runs = list(runs)
        self._tiles = [Tiles(run) for run in runs]
        self._archives = [PolygonArchive(run) for run in runs]
        self._reviews = [Reviews(run) for run in runs]

    def close(self) -> None:
        """Remove what was made for looking only."""
        for archive in self._archives:
            archive.close()

    def index(self, request: Request) -> Response:
        """Which runs there are."""
        del request
        return JSONResponse({"served": True, "runs": index_of(self.runs)})

    def facts(self, request: Request) -> Response:
        """What does not change of a run; begins to read its polygons."""
        i = self._run(request)
        self._archives[i].start()
        return JSONResponse(facts_of(self.runs[i]))

    def polygons(self, request: Request) -> Response:
        """What is known of a run's polygons so far."""
        i = self._run(request)
        archive = self._archives[i]
        archive.start()
        return JSONResponse(archive.facts)

    def archive(self, request: Request) -> Response:
        """The polygons' vector tiles, also in ranges."""
        path = self._archives[self._run(request)].path
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="application/vnd.pmtiles")

    def seams(self, request: Request) -> Response:
        """Where blocks meet."""
        return JSONResponse(seams_of(self.runs[self._run(request)]))

    def progress(self, request: Request) -> Response:
        """How far a run is."""
        return JSONResponse(progress_of(self.runs[self._run(request)]))

    def tile(self, request: Request) -> Response:
        """A tile of a layer; empty where it has nothing."""
        tiles = self._tiles[self._run(request)]
        zoom, col, line = (int(request.path_params[name]) for name in ("z", "x", "y"))
        if zoom > 30 or col >> zoom or line >> zoom:
            raise HTTPException(404)
        layer = request.path_params["layer"]
        asked = request.query_params
        if layer == "scene":
            content, kind = tiles.scene(zoom, col, line), "image/webp"
        elif layer == "labels":
            hidden = frozenset(int(text) for text in asked.get("hide", "").split(",") if text.isdigit())
            content, kind = tiles.labels(zoom, col, line, hidden, _thresholds(asked.get("threshold"))), "image/png"
        elif layer == "nodata":
            content, kind = tiles.nodata(zoom, col, line), "image/png"
        elif layer == "measure":
            content, kind = tiles.measure(asked.get("name", ""), zoom, col, line), "image/png"
        else:
            raise HTTPException(404)
        return Response(status_code=204) if content is None else Response(content, media_type=kind)

    def changed(self, request: Request) -> Response:
        """The polygons of a box by other thresholds."""
        run = self.runs[self._run(request)]
        try:
            west, south, east, north = (float(text) for text in request.query_params["box"].split(","))
        except (KeyError, ValueError):
            raise HTTPException(400, "box: expected west,south,east,north") from None
        if not all(map(math.isfinite, (west, south, east, north))):
            raise HTTPException(400, "box: expected finite numbers")
        thresholds = _thresholds(request.query_params.get("threshold"))
        found = polygons_of(run, (west, south, east, north), thresholds)
        return JSONResponse({**found, "command": command_of(run, thresholds)})

    async def written(self, request: Request) -> Response:
        """Have vectorize write the polygons by other thresholds."""
        run = self.runs[self._run(request)]
        body = await _body(request)
        thresholds = _thresholds(str(body.get("threshold", "")))
        if not thresholds:
            raise HTTPException(400, "threshold: expected some")
        return JSONResponse(await run_in_threadpool(write, run, thresholds))

    def reviews(self, request: Request) -> Response:
        """The marks so far."""
        return JSONResponse(self._reviews[self._run(request)].marks())

    async def review(self, request: Request) -> Response:
        """Mark a polygon."""
        reviews = self._reviews[self._run(request)]
        body = await _body(request)
        polygon, verdict = body.get("id"), body.get("verdict")
        if not isinstance(polygon, int) or not (verdict is None or isinstance(verdict, str)):
            raise HTTPException(400, "expected id and verdict")
        return JSONResponse(await run_in_threadpool(reviews.mark, polygon, verdict))

    def _run(self, request: Request) -> int:
        number = int(request.path_params["run"])
        if number >= len(self.runs):
            raise HTTPException(404)
        return number


def _thresholds(text: str | None) -> dict[int, float]:
    """Class id -> threshold of ``1:0.7,2:0.5``. Raises HTTPException."""
    found = {}
    for part in (text or "").split(","):
        if part:
            number, _, value = part.partition(":")
            try:
                found[int(number)] = float(value)
            except ValueError:
                raise HTTPException(400, "threshold: expected ID:P") from None
    return found


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request of our own page. Raises HTTPException."""
    if request.headers.get(_ASKED_BY_US) != "view":
        raise HTTPException(403, "not asked by the viewer's page")
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "expected JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "expected a JSON object")
    return body


def _page(name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        del request
        return FileResponse(page_file(name), media_type=TYPES[name])

    return answer


def _problem(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"problem": str(error)}, 422)


def make_app(viewer: Viewer) -> Starlette:
    """The server's application."""

    @asynccontextmanager
    async def whole_life(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        viewer.close()

    of_run = "/runs/{run:int}"
    return Starlette(
        routes=[
            Route("/", _page(PAGE)),
            *(Route(f"/{name}", _page(name)) for name in TYPES),
            Route("/view.json", viewer.index),
            Route(f"{of_run}/facts.json", viewer.facts),
            Route(f"{of_run}/polygons.json", viewer.polygons),
            Route(f"{of_run}/polygons.pmtiles", viewer.archive),
            Route(f"{of_run}/seams.json", viewer.seams),
            Route(f"{of_run}/progress.json", viewer.progress),
            Route(f"{of_run}/changed.json", viewer.changed),
            Route(f"{of_run}/written", viewer.written, methods=["POST"]),
            Route(f"{of_run}/reviews.json", viewer.reviews),
            Route(f"{of_run}/review", viewer.review, methods=["POST"]),
            Route(f"{of_run}/{{layer}}/{{z:int}}/{{x:int}}/{{y:int}}", viewer.tile),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False),
        ],
        exception_handlers={TilesegError: _problem},
        lifespan=whole_life,
    )
