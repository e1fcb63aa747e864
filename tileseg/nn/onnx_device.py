"""ONNX Runtime on a GPU: pixels go in from page-locked memory, and nothing but the maps comes back."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tileseg.errors import InputError, UsageError
from tileseg.nn.cuda import page_locked
from tileseg.nn.onnx_session import is_out_of_memory as is_out_of_host_memory
from tileseg.nn.onnx_session import reason
from tileseg.storage.local import cache_folder

if TYPE_CHECKING:
    import onnx

DEVICE_MEMORY = "TILESEG_DEVICE_MEMORY"
"""Environment variable: memory of the GPU that ONNX Runtime may take, such as ``8GiB``; all where it is empty."""
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA failure 2
    "cudaErrorMemoryAllocation",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Available memory of",  # the arena, at its limit
)


@dataclass(frozen=True, slots=True)
class Provider:
    """What computes a graph, in ONNX Runtime's words."""

    title: str
    """In the user's words."""
    listed: tuple[tuple[str, dict[str, str]], ...]
    """Execution providers with their options: the one that is meant first, then what computes the rest."""
    device: str
    """Where it wants its inputs."""
    remedy: str
    """What to do where it does not load."""
    lock: Callable[[tuple[int, ...], Any], npt.NDArray[Any]] = page_locked
    """Makes the arrays that are copied from and to."""


def cuda(limit: int | None = None) -> Provider:
    """CUDA on the first device that the process sees. ``limit``: bytes of its memory.

    Float32 is whole: no TF32. The algorithms of convolutions are chosen by their sizes, not by a race, so that the same
    windows have the same bits the next time.
    """
    options = {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if limit is not None:
        options["gpu_mem_limit"] = str(limit)
    return Provider(
        "CUDA",
        (("CUDAExecutionProvider", options), ("CPUExecutionProvider", {})),
        "cuda",
        "CUDA and cuDNN come with pip install 'onnxruntime-gpu[cuda,cudnn]'; CUDA_VISIBLE_DEVICES=-1 computes on the "
        "processor",
    )


def tensorrt(limit: int | None = None, cache: Path | None = None) -> Provider:
    """TensorRT, and CUDA for what it does not take. It builds an engine for each size of window: minutes, once.

    ``cache``: folder that keeps them; None: of the user's caches (``XDG_CACHE_HOME``).
    """
    folder = cache or cache_folder("tensorrt")
    with contextlib.suppress(OSError):  # without it every process builds its own
        folder.mkdir(parents=True, exist_ok=True)
    kept = "1" if os.access(folder, os.W_OK) else "0"
    options = {
        "device_id": "0",
        "trt_engine_cache_enable": kept,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": kept,
        "trt_timing_cache_path": str(folder),
    }
    if limit is not None:
        options["trt_max_workspace_size"] = str(limit)
    return Provider(
        "TensorRT",
        (("TensorrtExecutionProvider", options), *cuda(limit).listed),
        "cuda",
        "TensorRT comes with pip install tensorrt; --engine onnx computes by CUDA alone",
    )


def memory_limit() -> int | None:
    """What the environment allows, in bytes. Raises UsageError where it is no size."""
    if not (asked := os.environ.get(DEVICE_MEMORY)):
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    with contextlib.suppress(ValidationError):
        if (limit := int(TypeAdapter(ByteSize).validate_python(asked))) > 0:
            return limit
    raise UsageError(f"{DEVICE_MEMORY}={asked}: expected a size such as 8GiB")


class DeviceSession:
    """A graph of one window on a device. Its arrays and the device's are made once, and used again for each window."""

    def __init__(self, model: onnx.ModelProto, provider: Provider) -> None:
        """``model``: of one image of fixed size, from any type to float32 or float16.

        Raises:
            UsageError: If ONNX Runtime does not load the provider.
            InputError: If it does not run the graph.
        """
        self._session = session = _session(model, provider)
        given, found = session.get_inputs()[0], session.get_outputs()[0]
        self._pixels = provider.lock(tuple(given.shape), _dtype(given.type))
        self._maps = provider.lock(tuple(found.shape), _dtype(found.type))
        self._there = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(given.shape), self._pixels.dtype.type, provider.device, 0
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(given.name, self._there)
        # The runtime writes the map into this memory, and nothing else of what it computed leaves the device.
        self._binding.bind_ortvalue_output(found.name, onnxruntime.OrtValue.ortvalue_from_numpy(self._maps, "cpu", 0))

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Images (n, ...) as the graph takes them -> its maps (n, ...), one at a time: a window fills a GPU."""
        maps = np.empty((len(images), *self._maps.shape[1:]), self._maps.dtype)
        for one, made in zip(images, maps, strict=True):
            np.copyto(self._pixels[0], one)
            self._there.update_inplace(self._pixels)
            self._session.run_with_iobinding(self._binding)
            np.copyto(made, self._maps[0])
        return maps


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime or CUDA says that there is no memory left."""
    return is_out_of_host_memory(error) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _session(model: onnx.ModelProto, provider: Provider) -> onnxruntime.InferenceSession:
    name = provider.listed[0][0]
    # Convolutions by cuDNN's graphs, and TensorRT, know no other way to keep float32 whole; read once per process.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    if provider.device != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.use_deterministic_compute = True
    # As on the processor: see tileseg.nn.onnx_session.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    there = name in onnxruntime.get_available_providers()
    session = None
    if there:
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=list(provider.listed), enable_fallback=0
            )
        except Exception as error:  # it raises a dozen kinds of errors without a common parent
            if is_out_of_memory(error):
                raise
            if name in str(error):  # says so where its libraries are not found
                raise UsageError(_not_loaded(provider, reason(error))) from error
            raise InputError(f"ONNX Runtime does not run it: {reason(error)}") from error
    # Without its libraries a provider may be left out, and the processor would compute without a word.
    if session is None or name not in session.get_providers():
        raise UsageError(_not_loaded(provider, "its libraries are not found" if there else "it was built without"))
    return session


def _not_loaded(provider: Provider, why: str) -> str:
    return f"ONNX Runtime does not load {provider.title} here: {why}; {provider.remedy}"


def _dtype(kind: str) -> np.dtype[Any]:
    """``tensor(uint8)`` -> uint8."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
