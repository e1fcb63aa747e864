"""Dask clusters: a local one of spawned processes, a scheduler that runs already, or whatever a class starts."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import inspect
import json
import logging
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from distributed.security import Security
from distributed.versions import VersionMismatchWarning

from tileseg.cluster.admission import RESOURCE, Admission, Needs, left_behind, resource_of
from tileseg.cluster.warm import warm_up
from tileseg.errors import InputError, TilesegError, UsageError, first_line, root_of
from tileseg.spec import ClusterSpec

SETTINGS: dict[str, Any] = {
    # TensorFlow's resident memory is no sign of a leak: Dask must neither pause nor kill for it. The plan bounds it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Spawn, never fork, after TensorFlow.
    "distributed.worker.multiprocessing-method": "spawn",
    # A block whose worker died is tried again on a fresh one; after several, alone.
    "distributed.scheduler.allowed-failures": 2,
    "distributed.scheduler.work-stealing": False,
    # A worker that died and is being restarted is not given up (for good) after Dask's 15 s: machines may be busy.
    "distributed.deploy.lost-worker-timeout": "120s",
    # When all workers are gone and none comes back, blocks fail instead of waiting for ever.
    "distributed.scheduler.no-workers-timeout": "120s",
    "distributed.worker.profile.enabled": False,
    # Of the last messages on every connection, which Dask keeps for its developers: with a run in each of them.
    "distributed.admin.low-level-log-length": 20,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.nanny.pre-spawn-environ": {
        # Keep freed memory: blocks are alike, and faulting their pages in anew took more time than computing on them.
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_ARENA_MAX": "2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    },
}


_EXTRAS = {
    "dask_jobqueue": "jobqueue",
    "dask_cuda": "cuda",
    "dask_kubernetes": "kubernetes",
    "dask_gateway": "gateway",
}
"""Package -> the extra that brings it."""
_SCRATCH = "dask-scratch-space"
"""Part of the names of the folders that Dask puts on ``sys.path``."""
_CONNECT_SECONDS = 10.0
_PAGE_SECONDS = 2.0
_ENCRYPTED = ("tls://", "wss://")
_CERTIFICATES = {
    "client": "give --cluster a file with `scheduler:` and `security: {ca_file: ..., cert: ..., key: ...}`",
    "worker": "give --tls CA CERT KEY",
}
"""Role -> how its certificates are given."""
_GRACE_SECONDS = 1.0
"""After all workers were refused, until that is final."""


class Workers(Client):
    """A client whose blocks go to workers that take them."""

    admission: Admission | None = None
    """Who lets workers in, on clusters that are not a local one."""
    own_slots: int = 1
    """Blocks in flight on a local cluster."""

    @property
    def slot(self) -> dict[str, float]:
        """Dask resources that a block asks for."""
        return {RESOURCE if self.admission is None else resource_of(self): 1}

    @property
    def slots(self) -> int:
        """Blocks that may be in flight now, at least 1. It changes as workers come and go."""
        return self.own_slots if self.admission is None else max(1, sum(self.admission.admitted.values()))

    @property
    def trouble(self) -> str | None:
        """Why no block can be computed any more, or None."""
        if self.admission is not None and self.admission.given_up is not None:
            return self.admission.given_up
        return None if self.status == "running" else "the connection to the scheduler was lost"


class Setup(WorkerPlugin):
    """Prepares a process that was started for one run, or by ``tileseg worker``."""

    name = "tileseg-setup"

    def __init__(self, *, quick: bool) -> None:
        """``quick``: end at once when told to end."""
        self._quick = quick

    def setup(self, worker: Worker) -> None:
        """Runs in the worker's main thread, in restarted workers too."""
        del worker
        # Ctrl-C reaches the whole process group, but only the driver decides what stops when.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Beside the loading of the network, which is the longer of the two.
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def teardown(self, worker: Worker) -> None:
        """Runs when the worker is told to end: all that it did is on disk, and taking TensorFlow apart is work."""
        del worker
        if self._quick:
            # Removes semaphores, of which the driver would complain otherwise.
            multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]  # noqa: SLF001
            os._exit(0)


def process_environment(compute_threads: int) -> dict[str, str]:
    """Variables that a worker process must have before it starts.

    ``compute_threads`` is what OpenMP may use; Dask's own default of 1 would starve the network.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(compute_threads))
    return {**SETTINGS["distributed.nanny.pre-spawn-environ"], **threads}


class _OneDeviceEach(LocalCluster):
    """A local cluster whose workers see one GPU each."""

    def __init__(self, devices: Sequence[str], **options: Any) -> None:
        """``devices``: what CUDA_VISIBLE_DEVICES may name; workers take them in turn."""
        self._devices = tuple(devices)
        super().__init__(**options)

    def new_worker_spec(self) -> dict[Any, Any]:
        """One more worker, with the next device."""
        spec: dict[Any, Any] = super().new_worker_spec()
        for name, worker in spec.items():
            device = self._devices[len(self.worker_spec) % len(self._devices)]
            spec[name] = {**worker, "options": {**worker["options"], "env": {"CUDA_VISIBLE_DEVICES": device}}}
        return spec


@contextmanager
def local_cluster(workers: int, threads: int, compute_threads: int, devices: Sequence[str] = ()) -> Iterator[Workers]:
    """A cluster of ``workers`` spawned processes, each with ``threads`` blocks in flight.

    ``compute_threads``: see :func:`process_environment`. ``devices``: GPUs that the workers share out, one each.
    """
    settings = {**SETTINGS, "distributed.nanny.pre-spawn-environ": process_environment(compute_threads)}
    options: dict[str, Any] = {
        "threads_per_worker": threads,
        "processes": True,
        "resources": {RESOURCE: threads},
        "memory_limit": None,
        "dashboard_address": ":0",
        "silence_logs": logging.CRITICAL,
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if devices:
            cluster = stack.enter_context(_OneDeviceEach(devices, n_workers=0, **options))
            cluster.scale(workers)
        else:
            cluster = stack.enter_context(LocalCluster(n_workers=workers, **options))
        client = stack.enter_context(Workers(cluster, set_as_default=False))
        client.own_slots = workers * threads
        client.register_plugin(Setup(quick=True))
        yield client


@contextmanager
def connect(place: ClusterSpec, needs: Needs, tell: Callable[[str], None]) -> Iterator[Workers]:
    """Connect to a cluster, or start one, and let in the workers that can compute the run's blocks.

    Once there is one, blocks may be submitted (with ``client.slot`` as resources); more come in as they appear. Workers
    that do not fit are told of, one line each. Raises UsageError (2) or InputError (42) where no worker fits, and
    TilesegError (1) where none has come within ``place.wait`` seconds or no scheduler answers.
    """
    deadline = time.monotonic() + place.wait
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SETTINGS))
        target: Any
        if place.kind is not None:
            target = stack.enter_context(_started(place))
        else:
            target = place.scheduler or address_in(place.scheduler_file, deadline)
        client = stack.enter_context(_connected(target, place))
        token = stack.enter_context(left_behind(needs.folder, client.id))
        patience = max(1.0, place.wait - _CONNECT_SECONDS / 2)
        admission = Admission(client, needs, token, ours=place.kind is not None, patience=patience, tell=tell)
        client.admission = admission
        loop = client.loop.asyncio_loop  # type: ignore[union-attr]
        watching = asyncio.run_coroutine_threadsafe(admission.watch(), loop)
        stack.callback(lambda: _quietly(lambda: asyncio.run_coroutine_threadsafe(admission.release(), loop).result(6)))
        stack.callback(watching.cancel)
        _wait_for_one(client, admission, place, deadline)
        hosts = {answer.host for answer in admission.answers.values() if answer.problem is None}
        tell(f"workers: {len(admission.admitted)} on {', '.join(sorted(hosts))} (scheduler {_address(client)})")
        yield client


def restore_path(before: Sequence[str]) -> None:
    """Take the folders from ``sys.path`` that Dask has put there since it was as given.

    No other thread may be importing. Otherwise Dask does it while the cluster closes, and an import in another
    thread at that moment passes over one entry of the path: it does not find its module.
    """
    sys.path[:] = [entry for entry in sys.path if entry in before or _SCRATCH not in entry]


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


def security_for(address: str, role: str, files: tuple[Path, Path, Path] | None) -> Security | None:
    """The certificates of a ``client`` or ``worker``: from files (CA, certificate, key), or None: from Dask's settings.

    Raises UsageError where a file is missing, or an address needs certificates and there are none.
    """
    if files is not None:
        for file in files:
            if not file.is_file():
                raise UsageError(f"{file}: no such file; expected a PEM file for {address}")
        ca, cert, key = map(str, files)
        names = {f"tls_{role}_cert": cert, f"tls_{role}_key": key}
        return Security(tls_ca_file=ca, require_encryption=True, **names)
    known = Security().get_tls_config_for_role(role)
    if address.startswith(_ENCRYPTED) and not (known["ca_file"] and known["cert"]):
        variables = (
            f"DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..._TLS__{role.upper()}__CERT and ..._TLS__{role.upper()}__KEY"
        )
        raise UsageError(f"{address}: needs certificates; {_CERTIFICATES[role]}, or set {variables}")
    return None


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

        if (problem := _quietly(write)) is not None:
            tell(f"--performance-report: not written: {first_line(problem)}")


@contextmanager
def _started(place: ClusterSpec) -> Iterator[Any]:
    """A cluster of the class that the spec names."""
    cluster_class = _class_of(place.kind or "")
    silent = "silence_logs" in inspect.signature(cluster_class).parameters and "silence_logs" not in place.arguments
    # What goes wrong is raised: Dask's logs tell it several times, with tracebacks.
    quiet = {"silence_logs": logging.CRITICAL} if silent else {}
    try:
        with warnings.catch_warnings():
            # Any other port will do: its address is printed.
            warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use", UserWarning)
            cluster = cluster_class(**quiet, **place.arguments)
    except Exception as error:
        cause = root_of(error)
        if isinstance(cause, TypeError):  # arguments that the class, or what it passes them on to, does not take
            raise UsageError(f"{place.kind}: {first_line(cause)}; see its `arguments`") from error
        raise TilesegError(f"{place.kind}: cannot be started: {first_line(cause)}") from error
    try:
        if place.adapt is not None:
            cluster.adapt(minimum=place.adapt.minimum, maximum=place.adapt.maximum)
        elif place.workers is not None:
            cluster.scale(place.workers)
        yield cluster
    finally:
        _quietly(cluster.close)


def _class_of(kind: str) -> Any:
    module, _, name = kind.rpartition(".")
    package = module.partition(".")[0]
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(package)
        if (error.name or "").partition(".")[0] != package:
            raise UsageError(f"{kind}: {error}; install it beside {package}") from error
        how = f'pip install "tileseg[{extra}]"' if extra else f"install the package that brings {package}"
        raise UsageError(f"{kind}: {package} is not installed: {how}") from error
    except AttributeError as error:
        raise UsageError(f"{kind}: {module} has no class {name}") from error
    if not (isinstance(found, type) and hasattr(found, "scale") and hasattr(found, "close")):
        raise UsageError(f"{kind}: is not a class of Dask clusters")
    return found


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
    """Until a worker is let in. Raises what is wrong with the others, or that there are none."""
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
    where = _address(client)
    if admission.refused:
        first, problem = next(iter(admission.refused.items()))
        raise type(problem)(f"{where}: none of {len(admission.answers)} workers can compute this: {first}: {problem}")
    if admission.undecided:
        raise TilesegError(f"{where}: its workers do not answer within {place.wait:.0f} s; see their logs")
    remedy = (
        "raise `wait` in the cluster's file if jobs wait in a queue, and see their logs"
        if place.kind is not None
        else f"start some: tileseg worker {where}"
    )
    raise TilesegError(f"{where}: no worker has come within {place.wait:.0f} s; {remedy}")


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler is not None else "the scheduler"


def _quietly(close: Callable[[], Any]) -> Exception | None:
    """What goes wrong while a cluster that has done its work is closed is no fault of the run."""
    try:
        close()
    except Exception as error:  # noqa: BLE001 - whatever the packages behind a cluster raise
        return error
    return None
