"""glibc's allocator in processes that compute blocks.

Blocks are alike: giving freed memory back, and faulting its pages in anew, took more time than computing on them.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM, _MMAP, _ARENAS = 1 << 30, 32 << 20, 2

ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM),
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP),
    "MALLOC_ARENA_MAX": str(_ARENAS),
}
"""Variables of a process that is to be started."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory in this process, as the variables would have if they had been set in time."""
    trim, mmap, arenas = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim, _TRIM)
        libc.mallopt(mmap, _MMAP)
        libc.mallopt(arenas, _ARENAS)
