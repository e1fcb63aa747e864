"""Ask a server again that fails, or does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tileseg.errors import Unreachable

_PAUSES = (1.0, 3.0)
"""Seconds until what a server did not give is asked for again."""

T = TypeVar("T")


def patiently(attempt: Callable[[], T]) -> T:
    """Try again, and again, where a server fails in ways that GDAL and obstore do not try again themselves."""
    for pause in _PAUSES:
        try:
            return attempt()
        except Unreachable:
            time.sleep(pause)
    return attempt()


async def patiently_await(attempt: Callable[[], Awaitable[T]]) -> T:
    """Like :func:`patiently`, of what a store of :func:`object_store` is asked for directly."""
    from obstore.exceptions import GenericError

    for pause in _PAUSES:
        try:
            return await attempt()
        except GenericError:
            await asyncio.sleep(pause)
    return await attempt()
