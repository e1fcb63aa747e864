"""Connect to a scheduler that runs already, or to whatever a class starts, and admit the workers that fit."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed.versions import VersionMismatchWarning

from tileseg.cluster.admission import Admission, Needs, left_behind
from tileseg.cluster.client import Workers, failure_of, scheduler_address
from tileseg.cluster.security import security_for
from tileseg.cluster.settings import SETTINGS
from tileseg.cluster.start import started_cluster
from tileseg.errors import InputError, TilesegError, UsageError, first_line
from tileseg.spec import ClusterSpec

_CONNECT_SECONDS = 10.0

_GRACE_SECONDS = 1.0
"""After all workers were refused, until that is final."""


@contextmanager
def connect(place: ClusterSpec, needs: Needs, tell: Callable[[str], None]) -> Iterator[Workers]:
    """Connect to a cluster, or start one, and admit the workers that can compute the run's blocks.

    Once there is one, blocks may be submitted (with ``client.slot`` as resources); more come in as they appear. Workers
    that do not fit are named, one line each. Raises UsageError (2) or InputError (42) where no worker fits, and
    TilesegError (1) where none has come within ``place.wait`` seconds or no scheduler answers.
    """
    deadline = time.monotonic() + place.wait
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        target: Any
        if place.kind is not None:
            target = stack.enter_context(started_cluster(place))
        else:
            target = place.scheduler or address_in(place.scheduler_file, deadline)
        client = stack.enter_context(_connected(target, place))
        token = stack.enter_context(left_behind(needs.folder, client.id))
        patience = max(1.0, place.wait - _CONNECT_SECONDS / 2)
        admission = Admission(client, needs, token, ours=place.kind is not None, patience=patience, tell=tell)
        client.admission = admission
        loop = client.loop.asyncio_loop  # type: ignore[union-attr]
        watching = asyncio.run_coroutine_threadsafe(admission.watch(), loop)
        stack.callback(
            lambda: failure_of(lambda: asyncio.run_coroutine_threadsafe(admission.release(), loop).result(6))
        )
        stack.callback(watching.cancel)
        _wait_for_one(client, admission, place, deadline)
        hosts = {report.host for report in admission.reports.values() if report.problem is None}
        tell(
            f"workers: {len(admission.admitted)} on {', '.join(sorted(hosts))} (scheduler {scheduler_address(client)})"
        )
        yield client


def address_in(file: Path | None, deadline: float) -> str:
    """The address that a scheduler wrote, waited for: the scheduler may be starting just now."""
    assert file is not None
    while True:
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["address"])
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise TilesegError(
                    f"{file}: no scheduler has written its address there; start one: "
                    f"dask scheduler --scheduler-file {file}"
                ) from None
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError):
            if time.monotonic() > deadline:
                raise UsageError(f"{file}: not a scheduler file: no address in it") from None
        time.sleep(0.2)


@contextmanager
def _connected(target: Any, place: ClusterSpec) -> Iterator[Workers]:
    keys = place.security
    files = None if keys is None else (keys.ca_file, keys.cert, keys.key)
    # Clusters that were started here have their own.
    security = security_for(target, "client", files) if isinstance(target, str) else None
    seconds = min(place.wait, _CONNECT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # what matters is compared, worker by worker
            client = Workers(target, timeout=seconds, security=security, set_as_default=False)
    except (OSError, TimeoutError) as error:
        where = target if isinstance(target, str) else place.kind
        raise TilesegError(
            f"{where}: no scheduler answers within {seconds:.0f} s ({first_line(error)}); is it running, and may this "
            "machine reach it?"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{target}: {first_line(error)}") from error
    with client:
        yield client


def _wait_for_one(client: Workers, admission: Admission, place: ClusterSpec, deadline: float) -> None:
    """Wait until a worker is admitted. Raises what is wrong with the others, or that there are none."""
    all_refused_since = None
    while not admission.admitted:
        now = time.monotonic()
        refused = admission.refused
        if refused and not admission.undecided:
            all_refused_since = all_refused_since or now
            if now - all_refused_since > _GRACE_SECONDS:
                break
        else:
            all_refused_since = None
        if now > deadline:
            break
        time.sleep(0.05)
    else:
        return
    where = scheduler_address(client)
    if admission.refused:
        first, problem = next(iter(admission.refused.items()))
        raise type(problem)(f"{where}: none of {len(admission.reports)} workers can compute this: {first}: {problem}")
    if admission.undecided:
        raise TilesegError(f"{where}: its workers do not answer within {place.wait:.0f} s; see their logs")
    remedy = (
        "raise `wait` in the cluster's file if jobs wait in a queue, and see their logs"
        if place.kind is not None
        else f"start some: tileseg worker {where}"
    )
    raise TilesegError(f"{where}: no worker has come within {place.wait:.0f} s; {remedy}")
