"""A cluster on this machine: spawned processes, one for each GPU or on the processor."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from distributed import LocalCluster

from tileseg.cluster.admission import RESOURCE
from tileseg.cluster.client import Workers
from tileseg.cluster.settings import LOOPBACK, SETTINGS, Setup, process_environment


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
        "host": LOOPBACK,
        "dashboard_address": f"{LOOPBACK}:0",
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
