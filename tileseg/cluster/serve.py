"""``tileseg worker``: Dask workers for a scheduler elsewhere, set up for one device each."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny

from tileseg.cluster import hardware
from tileseg.cluster.admission import IN_FLIGHT, RESOURCE
from tileseg.cluster.connect import address_in
from tileseg.cluster.hardware import COMPUTE_THREADS
from tileseg.cluster.security import security_for
from tileseg.cluster.settings import LOOPBACK, SETTINGS, Setup, process_environment
from tileseg.errors import TilesegError, UsageError, first_line

_CONNECT_SECONDS = 60
_TERMINATE = 0.95
"""Share of --memory at which a worker is restarted: before the kernel or the batch system kills the whole job."""


@dataclass(frozen=True)
class WorkerOptions:
    """What ``tileseg worker`` starts."""

    scheduler: str | None
    """Address, or None with ``scheduler_file``."""
    scheduler_file: Path | None
    device: str
    """``auto``: one process per GPU that is visible, or one on the CPU; ``cpu``; or the number of a GPU."""
    threads: int | None
    """Processor threads of each process for the network; None: its share of the cores."""
    memory: int | None
    """Bytes above which a process is restarted; None: it is left alone."""
    name: str | None
    security: tuple[Path, Path, Path] | None
    """CA, certificate, key: PEM files."""


def devices_of(device: str, gpus: tuple[hardware.Gpu, ...]) -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES of each process to start. Raises UsageError where there is no such GPU."""
    if device == "cpu":
        return ("-1",)
    if device == "auto":
        return tuple(gpu.uuid or str(gpu.index) for gpu in gpus) or ("-1",)
    found = [gpu for gpu in gpus if device in (str(gpu.index), gpu.uuid)]
    if not found:
        there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
        raise UsageError(f"--device {device}: no such GPU; there are: {there}; or give cpu")
    return (found[0].uuid or str(found[0].index),)


def serve(options: WorkerOptions) -> str:
    """Run workers until the scheduler goes away or a signal comes; says which. Raises TilesegError if none is there."""
    machine = hardware.detect()
    gpus = machine.gpus if hardware.backend_has_cuda() else ()
    devices = devices_of(options.device, gpus)
    threads = options.threads or max(1, machine.cpu.cores // len(devices))
    settings: dict[str, Any] = {**SETTINGS, "distributed.nanny.pre-spawn-environ": process_environment(threads)}
    if options.memory is not None:
        settings["distributed.worker.memory.terminate"] = _TERMINATE
    address = options.scheduler or address_in(options.scheduler_file, time.monotonic() + _CONNECT_SECONDS)
    with dask.config.set(settings):
        stopped = asyncio.run(_serve(options, address, devices, threads))
    return "stopped" if stopped else f"the scheduler at {address} has ended"


async def _serve(options: WorkerOptions, address: str, devices: tuple[str, ...], threads: int) -> bool:
    """Whether a signal came."""
    security = security_for(address, "worker", options.security)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        nannies = []
        for index, device in enumerate(devices):
            nanny = Nanny(
                address,
                nthreads=IN_FLIGHT,
                name=options.name if len(devices) == 1 or options.name is None else f"{options.name}-{index}",
                memory_limit=options.memory or 0,
                resources={RESOURCE: IN_FLIGHT},
                death_timeout=_CONNECT_SECONDS,
                security=security,
                silence_logs=logging.WARNING,
                plugins=(Setup(quick=False),),
                dashboard_address=f"{LOOPBACK}:0",
                # Not among the settings: variables of this process would win over those.
                env={"CUDA_VISIBLE_DEVICES": device, COMPUTE_THREADS: str(threads)},
            )
            try:
                nannies.append(await stack.enter_async_context(nanny))
            except (OSError, TimeoutError, RuntimeError, ValueError) as error:
                raise TilesegError(
                    f"{address}: no worker can be started for this scheduler: {first_line(error)}"
                ) from error
        ended = asyncio.create_task(_all_ended(nannies))
        signalled = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, signalled):
            task.cancel()
        return stop.is_set()


async def _all_ended(nannies: list[Nanny]) -> None:
    await asyncio.gather(*(nanny.finished() for nanny in nannies))
