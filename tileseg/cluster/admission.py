"""Which workers of a cluster may compute a run's blocks: those that have the same versions and reach the same files.

The driver asks every worker, also those that come later, and gives the ones that fit a resource of its own. Blocks ask
for that resource, so they go nowhere else, and a shared cluster keeps nothing of it but a number per worker.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tileseg.cluster import hardware
from tileseg.cluster.allocator import keep_freed_memory
from tileseg.cluster.hardware import COMPUTE_THREADS
from tileseg.cluster.warm import warm_up
from tileseg.errors import InputError, TilesegError, UsageError, first_line
from tileseg.nn.folder import check_archive, load_card
from tileseg.source.protocol import PixelSource
from tileseg.storage.place import Url
from tileseg.storage.store import at, write_atomic
from tileseg.window import Window

if TYPE_CHECKING:
    from distributed import Client

RESOURCE = "tileseg"
"""Dask resource by which ``tileseg worker`` says how many blocks it may have in flight."""
IN_FLIGHT = 2
"""Blocks in flight in other workers: one on the device, one being read or written."""

_LOST_SECONDS = 120.0
"""Without a worker, or without an answer from the scheduler, until blocks in flight are given up."""
_SHARED_SECONDS = 5.0
"""Network file systems show a new file to other machines after a while."""
_GIB = 1 << 30


@dataclass(frozen=True)
class Needs:
    """What a worker must reach and have to compute blocks of a run."""

    scenes: tuple[PixelSource, ...]
    """Some scenes: one pixel of each is read."""
    model: Path
    form: str
    """Name of the file of the model that is computed."""
    digest: str
    """Digest of that file and of what else in its card decides the result: ``ModelCard.digest``."""
    packages: tuple[str, ...]
    """Distributions that decide what the network gives: the same versions are needed everywhere."""
    folder: Path | Url
    """An output folder that exists, where the driver leaves a file for the workers to find."""
    memory: int
    """Bytes that a worker takes at its peak."""
    gpu: bool = False
    """Workers that see no GPU will not do."""


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says of itself."""

    host: str
    marked: bool
    """Started by ``tileseg worker`` or with the resource ``tileseg``."""
    slots: int
    """Blocks that it may have in flight."""
    gpus: tuple[str, ...]
    """Names of the GPUs that it sees."""
    problem: TilesegError | None
    """Why it cannot compute this run's blocks."""


def resource_of(client: Client) -> str:
    """The Dask resource that this client's blocks ask for."""
    return f"{RESOURCE}-{client.id}"


@contextmanager
def left_behind(folder: Path | Url, token: str) -> Iterator[Path | Url]:
    """A file in the output folder that workers must find. Raises OSError where it cannot be written."""
    path = folder / f"shared-{token}"
    write_atomic(path, token)
    try:
        yield path
    finally:
        at(path).remove()


class Admission:
    """Asks workers as they come, and admits those that fit. Its coroutines run in the client's event loop."""

    def __init__(
        self,
        client: Client,
        needs: Needs,
        token: Path | Url,
        *,
        ours: bool,
        patience: float,
        tell: Callable[[str], None],
    ) -> None:
        """``ours``: the workers were started for this run, so Ctrl-C is the driver's business and memory is kept.

        ``patience``: seconds that a worker may take to look around.
        """
        self._client, self._needs, self._token, self._ours = client, needs, token, ours
        self._patience, self._tell = patience, tell
        self._resource = resource_of(client)
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._per_host = 1
        self._last_there = math.inf  # when a worker was last there: nobody has been missed before one has come
        self.reports: dict[str, WorkerReport] = {}
        """Worker's address -> its report."""
        self.admitted: dict[str, int] = {}
        """Address -> blocks in flight, of the workers that are there and fit."""
        self.given_up: str | None = None
        """Why blocks in flight will not be computed."""

    @property
    def refused(self) -> dict[str, TilesegError]:
        """Workers that cannot compute, and why."""
        return {address: report.problem for address, report in self.reports.items() if report.problem is not None}

    @property
    def undecided(self) -> bool:
        """Whether some worker has not answered, or is just being admitted."""
        return any(not task.done() for task in self._asked.values())

    async def watch(self) -> None:
        """Ask every worker that comes, until cancelled. Gives up blocks in flight that nobody will compute any more."""
        while True:
            problem = "the scheduler does not answer"
            with suppress(OSError):  # of which TimeoutError is one
                async with asyncio.timeout(_LOST_SECONDS):
                    self._look_at(list(await self._client.nthreads()))
                problem = "all workers have gone, and none has come back"
                if self.admitted:
                    self._last_there = time.monotonic()
            if time.monotonic() - self._last_there > _LOST_SECONDS:
                self.given_up = f"{problem} within {_LOST_SECONDS:.0f} s"
                for state in list(self._client.futures.values()):
                    state.cancel()
                self._last_there = math.inf
            await asyncio.sleep(1.0 if self.admitted else 0.2)

    def _look_at(self, present: list[str]) -> None:
        for address in set(self._asked) - set(present):
            self._asked.pop(address).cancel()
            self.admitted.pop(address, None)
            self.reports.pop(address, None)
        hosts = [address.rpartition(":")[0] for address in present]
        self._per_host = max((hosts.count(host) for host in hosts), default=1)
        for address in present:
            if address not in self._asked:
                self._asked[address] = asyncio.create_task(self._ask(address))
        if self.undecided:
            return
        # On a shared cluster, workers that were started for tileseg are preferred to all others.
        marked = any(report.marked for report in self.reports.values())
        for address, report in self.reports.items():
            if report.problem is None and address not in self.admitted and (report.marked or not marked):
                self._asked[address] = asyncio.create_task(self._admit(address, report.slots))

    async def _ask(self, address: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                problem = await self._compare(address)
                if problem is None:
                    report = await self._call(address, look, self._needs, self._token)
                else:
                    report = _refusal(address, problem)
        except TimeoutError:
            report = _refusal(address, TilesegError(f"does not answer within {self._patience:.0f} s"))
        except Exception as error:  # noqa: BLE001 - whatever another machine's Python raises
            report = _refusal(address, TilesegError(f"{type(error).__name__}: {first_line(error)}"))
        self.reports[address] = report
        if report.problem is not None:
            self._tell(f"worker {address} is not used: {report.problem}")

    async def _compare(self, address: str) -> UsageError | None:
        """Ask for versions with functions that every Python has: tileseg need not be there."""
        packages = [p for p in self._needs.packages if _has_distribution(p)]
        mine = {"Python": _minor(platform.python_version()), **{p: importlib.metadata.version(p) for p in packages}}
        calls = [self._call(address, platform.python_version)]
        calls += [self._call(address, importlib.metadata.version, package) for package in packages]
        theirs = await asyncio.gather(*calls, return_exceptions=True)
        lacking = []
        for (name, here), there in zip(mine.items(), theirs, strict=True):
            if isinstance(there, importlib.metadata.PackageNotFoundError):
                lacking.append(f"no {name} (here {here})")
            elif isinstance(there, BaseException):
                raise there
            elif (version := _minor(there) if name == "Python" else there) != here:
                lacking.append(f"{name} {version} (here {here})")
        return UsageError(f"has {', '.join(lacking)}; install the same versions there") if lacking else None

    async def _admit(self, address: str, slots: int) -> None:
        # Dask looks at blocks that nobody could take again only when a worker comes, and then it has no resource yet.
        stranded = [] if self.admitted else list(self._client.futures.values())
        try:
            async with asyncio.timeout(self._patience):
                await self._call(address, take_blocks, self._resource, slots, self._ours, self._per_host)
        except Exception as error:  # noqa: BLE001 - as above
            problem = TilesegError(f"{type(error).__name__}: {first_line(error)}")
            self.reports[address] = _refusal(address, problem)
        else:
            self.admitted[address] = slots
            for state in stranded:
                state.cancel()  # it is submitted again
            self._last_there = time.monotonic()

    async def release(self) -> None:
        """Take the resource back from the workers that are there."""
        calls = [self._call(address, take_no_more, self._resource) for address in self.admitted]
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function on one worker; raises what it raises."""
        result = (await self._client.run(function, *args, workers=[address], on_error="return"))[address]
        if isinstance(result, BaseException):
            raise result
        return result


def _refusal(address: str, problem: TilesegError) -> WorkerReport:
    return WorkerReport(address, marked=False, slots=0, gpus=(), problem=problem)


def _has_distribution(package: str) -> bool:
    """Not where another one brings it (onnxruntime-gpu): versions are compared by the name of the distribution."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


# --- What follows runs on the workers ------------------------------------------------------------------------------


async def look(needs: Needs, token: Path | Url, dask_worker: Any) -> WorkerReport:
    """Look around on this worker: files, memory, GPUs."""
    state = dask_worker.state
    marked = int(state.total_resources.get(RESOURCE, 0))
    gpus = tuple(gpu.name for gpu in hardware.detect().gpus) if hardware.backend_has_cuda() else ()
    problem = await asyncio.to_thread(_problem, needs, token, gpus)
    return WorkerReport(socket.gethostname(), bool(marked), marked or min(state.nthreads, IN_FLIGHT), gpus, problem)


def _problem(needs: Needs, token: Path | Url, gpus: tuple[str, ...]) -> TilesegError | None:
    try:
        if not _found(token):
            return UsageError(
                f"{needs.folder}: the output is not shared: what the driver wrote there is not to be seen from here; "
                "choose an --out that all workers see under the same path"
            )
        probe = token.with_name(f"{token.name}-{uuid4().hex}")
        write_atomic(probe, "")
        at(probe).remove()
    except OSError as error:
        return UsageError(f"{needs.folder}: cannot be written from here: {error.strerror or error}")
    try:
        card = load_card(needs.model)
        if needs.form not in {form.file for form in card.forms}:
            return UsageError(f"{needs.model}: has no {needs.form} there; put the driver's model folder there")
        card = card.using(needs.form)
        check_archive(card, needs.model)
    except InputError as error:
        return UsageError(f"the model is not to be reached from here: {error}; put it where all workers see it")
    if card.digest != needs.digest:
        return UsageError(
            f"{needs.model}: another model than the driver's, by its file (SHA-256 {card.sha256[:12]}...) or by its "
            "card.json; put the driver's model folder there"
        )
    try:
        for scene in needs.scenes:
            scene.read(Window(0, 0, 1, 1))
    except InputError as error:
        return InputError(f"the scene is not to be read from here: {error}; put it where all workers see it")
    total = hardware.memory().total
    if total < needs.memory:
        return UsageError(
            f"has {total / _GIB:.1f} GiB of memory, {needs.memory / _GIB:.1f} GiB are needed; lower --max-memory"
        )
    if needs.gpu and not gpus:
        return UsageError("sees no GPU that TensorFlow could use; see `tileseg doctor` there, or leave out gpu: true")
    return None


def _found(token: Path | Url) -> bool:
    deadline = time.monotonic() + _SHARED_SECONDS
    while not at(token).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


async def take_blocks(resource: str, slots: int, ours: bool, per_host: int, dask_worker: Any) -> None:
    """Set this worker up, and say that it takes blocks. What is not ours keeps its signals and its allocator."""
    os.environ.setdefault(COMPUTE_THREADS, str(max(1, hardware.cpu().cores // per_host)))
    if ours:
        keep_freed_memory()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group
    threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
    await dask_worker.set_resources(**{resource: slots})


async def take_no_more(resource: str, dask_worker: Any) -> None:
    """Take no more blocks of this run."""
    await dask_worker.set_resources(**{resource: 0})
