"""The client of a cluster: where blocks go, and how many may be in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client

from tileseg.cluster.admission import RESOURCE, Admission, resource_of


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


def scheduler_address(client: Client) -> str:
    """Where the client's scheduler is reached, as text for the user."""
    return str(client.scheduler.address) if client.scheduler is not None else "the scheduler"


def failure_of(close: Callable[[], Any]) -> Exception | None:
    """What goes wrong while a cluster that has done its work is closed is no fault of the run."""
    try:
        close()
    except Exception as error:  # noqa: BLE001 - whatever the packages behind a cluster raise
        return error
    return None
