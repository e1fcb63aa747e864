"""CUDA's driver, asked without any framework: how many devices this process sees, and memory that they copy quickly."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_PORTABLE = 1
"""CU_MEMHOSTREGISTER_PORTABLE: page-locked for whatever uses the device."""


def device_count(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """CUDA devices that ``CUDA_VISIBLE_DEVICES`` leaves to this process; 0 without a driver. ``load``: of libraries."""
    try:
        driver = load(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def page_locked(
    shape: tuple[int, ...], dtype: npt.DTypeLike, load: Callable[[str], Any] = ctypes.CDLL
) -> npt.NDArray[Any]:
    """An array of zeros that stays where it is in memory, so that the first device copies it without the processor.

    Where there is no driver, or it has no more of such memory, the array is like any other: right, and slower to copy.
    """
    array = np.zeros(shape, dtype)
    try:
        driver = load(_DRIVER)
    except OSError:
        return array
    context, address = ctypes.c_void_p(), ctypes.c_void_p(array.ctypes.data)
    ready = driver.cuInit(0) == 0 and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    if ready and driver.cuCtxSetCurrent(context) == 0:
        locked = driver.cuMemHostRegister_v2(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(_PORTABLE)) == 0
        if locked:
            # Before the memory goes; at the end of the process the driver sees to it.
            weakref.finalize(array, driver.cuMemHostUnregister, address).atexit = False
    return array
