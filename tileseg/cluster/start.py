"""Start a cluster of the class that the user names, such as ``dask_jobqueue.SLURMCluster``."""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tileseg.cluster.client import failure_of
from tileseg.cluster.settings import LOOPBACK
from tileseg.errors import TilesegError, UsageError, first_line, root_of
from tileseg.spec import ClusterSpec

_PORT = 8787
"""Port of Dask's dashboards, if it is free."""
_EXTRAS = {
    "dask_jobqueue": "jobqueue",
    "dask_cuda": "cuda",
    "dask_kubernetes": "kubernetes",
    "dask_gateway": "gateway",
}
"""Package -> the extra that brings it."""
_DASHBOARD = {"dashboard_address": f"{LOOPBACK}:{_PORT}"}
_PRESET = {
    # What goes wrong is raised: Dask's logs tell it several times, with tracebacks.
    "silence_logs": logging.CRITICAL,
    **_DASHBOARD,
}
"""Arguments of such classes that have other defaults here."""


@contextmanager
def started_cluster(place: ClusterSpec) -> Iterator[Any]:
    """A cluster of the class that the spec names.

    Where the class takes them and the spec does not say otherwise, its logs are silent and its dashboard is served to
    this machine alone.
    """
    cluster_class = class_named(place.kind or "")
    arguments = _with_presets(place.arguments, inspect.signature(cluster_class).parameters)
    try:
        with warnings.catch_warnings():
            # Any other port will do: its address is printed.
            warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use", UserWarning)
            # Tornado leaves the socket that found the port taken to the garbage collector.
            warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
            cluster = cluster_class(**arguments)
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
        failure_of(cluster.close)


def _with_presets(arguments: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """What a class is called with: what the spec says, and else what is preset, if the class takes it."""
    made = {**{name: value for name, value in _PRESET.items() if name in known}, **arguments}
    if "scheduler_options" in known and "dashboard_address" not in arguments:  # as the classes of dask-jobqueue want it
        made.pop("dashboard_address", None)
        made["scheduler_options"] = {**_DASHBOARD, **(made.get("scheduler_options") or {})}
    return made


def class_named(kind: str) -> Any:
    """The class of a dotted name. Raises UsageError where there is none, or it is no class of clusters."""
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
