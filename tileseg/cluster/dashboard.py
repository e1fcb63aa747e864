"""What Dask shows of itself: the page in the browser, and its report of a run."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

import distributed
from distributed import Client

from tileseg.cluster.client import failure_of
from tileseg.errors import UsageError, first_line

_PAGE_SECONDS = 2.0


def dashboard(client: Client) -> str | None:
    """Address of the page on which Dask shows what it does; None where there is none.

    A scheduler names an address in any case, also without Bokeh or with ``--no-dashboard``.
    """
    address = client.dashboard_link if find_spec("bokeh") is not None else None
    return address if address and _has_page(address) else None


def _has_page(address: str) -> bool:
    """Whether a page is there, for those who may see it."""
    if not address.startswith(("http://", "https://")):
        return True  # below that of a notebook server, as Dask's settings say
    try:
        urllib.request.urlopen(address, timeout=_PAGE_SECONDS).close()  # noqa: S310 - http or https
    except urllib.error.HTTPError as error:
        error.close()
        return error.code != HTTPStatus.NOT_FOUND
    except (OSError, http.client.HTTPException):
        return False
    return True


@contextmanager
def performance_report(client: Client, path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Write Dask's own report of what happens inside. Raises UsageError where that cannot be."""
    if find_spec("bokeh") is None:
        raise UsageError('--performance-report needs bokeh: pip install "tileseg[dashboard]"')
    report = distributed.performance_report(filename=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with client.as_current():
            report.__enter__()
    except (OSError, ImportError, RuntimeError) as error:
        raise UsageError(f"--performance-report {path}: {first_line(error)}") from error
    try:
        yield
    finally:

        def write() -> None:
            # As in __enter__, the client is the current one of whichever thread this is.
            with client.as_current():
                report.__exit__(None, None, None)

        if (problem := failure_of(write)) is not None:
            tell(f"--performance-report: not written: {first_line(problem)}")
