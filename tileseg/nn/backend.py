"""What is specific to a Keras backend, and the one place that imports Keras: quietly.

Everything else is written with ``keras.layers`` and ``keras.ops``. TensorFlow is the default; KERAS_BACKEND chooses
torch or jax.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt

# Before TensorFlow, which brings an SQLite without R-trees: GDAL would take its symbols for its own, and a GeoPackage
# that the same process writes later would have no spatial index.
import pyogrio  # noqa: F401

from tileseg.imports import silent

_FIRST_CALLS = threading.RLock()
"""One at a time: XLA compiles in them, and a process has crashed in one of two threads that augment (perhaps there)."""


# TensorFlow reports its build on stderr while it is imported, whatever its log level says.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silent():
    import keras

    NAME: str = keras.backend.backend()
    """``tensorflow``, ``torch`` or ``jax``."""
    if NAME == "tensorflow":
        import tensorflow as tf
    elif NAME == "torch":
        import torch
    else:
        import jax

__all__ = [
    "NAME",
    "OUT_OF_MEMORY",
    "Replicas",
    "batch_norm_kernel",
    "compile",
    "compile_update",
    "configure",
    "devices",
    "is_out_of_memory",
    "keras",
    "silent",
    "to_numpy",
]

if NAME == "tensorflow":
    OUT_OF_MEMORY: tuple[type[Exception], ...] = (tf.errors.ResourceExhaustedError,)
elif NAME == "torch":
    OUT_OF_MEMORY = (torch.OutOfMemoryError,)
else:
    OUT_OF_MEMORY = (jax.errors.JaxRuntimeError,)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the backend says that the device has no memory left: then a smaller batch or window may do."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, OUT_OF_MEMORY):
        return False
    return NAME != "jax" or "RESOURCE_EXHAUSTED" in str(error)


def configure(threads: int | None = None, *, whole_float32: bool = True) -> None:
    """Set up the device: CPU threads of one operation, GPU memory that grows, and whether float32 is whole.

    GPUs round the factors of float32 products to 10 bits (TF32) by default. A run promises float32, and
    16 bits are there for speed; training may round.

    A backend that is in use already (in a notebook, say) keeps its threads and memory.
    """
    if NAME == "tensorflow":
        tf.config.experimental.enable_tensor_float_32_execution(not whole_float32)
        with suppress(RuntimeError):
            if threads is not None:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
    elif NAME == "torch":
        torch.backends.cudnn.allow_tf32 = not whole_float32
        torch.set_float32_matmul_precision("highest" if whole_float32 else "high")
        if threads is not None:
            torch.set_num_threads(threads)
    else:
        jax.config.update("jax_default_matmul_precision", "highest" if whole_float32 else None)


def devices() -> tuple[str, ...]:
    """What the backend computes on, the preferred kind first: ``("GPU:0", "GPU:1")`` or ``("CPU:0",)``."""
    if NAME == "tensorflow":
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tuple(device.name.removeprefix("/device:") for device in found)
    if NAME == "torch":
        return tuple(f"GPU:{i}" for i in range(torch.cuda.device_count())) or ("CPU:0",)
    return tuple(f"{device.platform.upper()}:{device.id}" for device in jax.devices())


def compile(function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:  # noqa: A001 - its name
    """Compile a function of tensors with fixed shapes.

    TensorFlow runs convolutions faster without XLA (on a CPU by a quarter), and Keras would otherwise turn it on by
    itself; chains of elementwise operations (``fused``) are 10 to 40 times faster with it.
    """
    if NAME == "tensorflow":
        return _traced_once(tf.function(function, jit_compile=fused, autograph=False))
    if NAME == "jax":
        return cast(Callable[..., Any], jax.jit(function))

    def without_gradients(*tensors: Any) -> Any:
        with torch.inference_mode():
            return function(*tensors)

    return without_gradients


def compile_update(function: Callable[[], None]) -> Callable[[], Any]:
    """Compile a function that takes nothing and assigns to variables, where the backend can compile such a thing."""
    if NAME == "tensorflow":
        return cast(Callable[[], Any], tf.function(function, autograph=False))
    if NAME == "jax":
        return function

    def without_gradients() -> None:
        with torch.no_grad():
            function()

    return without_gradients


class Replicas:
    """The devices that learn from parts of each batch, with one set of weights, by Keras's own distribution.

    That is ``tf.distribute.MirroredStrategy`` or ``keras.distribution.DataParallel``; PyTorch uses the first device.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """Share work among the devices of these names (see :func:`devices`)."""
        self.count = 1 if NAME == "torch" else len(names)
        self._strategy = tf.distribute.MirroredStrategy(names) if NAME == "tensorflow" and self.count > 1 else None
        if NAME == "jax" and self.count > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=[n.lower() for n in names]))

    @property
    def loss_share(self) -> float:
        """What each device multiplies its loss by: TensorFlow adds up their gradients."""
        return 1 / self.count if self._strategy is not None else 1.0

    def scope(self) -> AbstractContextManager[Any]:
        """Inside, models and optimizers are made for all devices."""
        return nullcontext() if self._strategy is None else cast(AbstractContextManager[Any], self._strategy.scope())

    def learn(self, model: keras.Model, images: npt.NDArray[Any], targets: Any) -> float:
        """One step of a compiled model on a batch, whose size is a multiple of the devices; its loss.

        ``targets``: an array, or several in a tuple, with as many rows as ``images``.
        """
        if self._strategy is None:
            return float(np.ravel(model.train_on_batch(images, targets))[0])
        size = len(images) // self.count

        def part(context: Any) -> Any:
            chosen = slice(context.replica_id_in_sync_group * size, (context.replica_id_in_sync_group + 1) * size)
            return keras.tree.map_structure(lambda array: tf.convert_to_tensor(array[chosen]), (images, targets))

        parts = self._strategy.experimental_distribute_values_from_function(part)
        model.make_train_function()
        model.reset_metrics()
        return float(to_numpy(model.train_function(iter([parts]))["loss"]))


def _traced_once(function: Any) -> Callable[..., Any]:
    """Call the graph that was made for the first shapes and types: others are an error, not another graph."""
    made: list[Any] = []

    def call(*arrays: Any) -> Any:
        tensors = [tf.convert_to_tensor(array) for array in arrays]
        if not made:
            with _FIRST_CALLS:
                if not made:
                    graph = function.get_concrete_function(*(tf.TensorSpec(t.shape, t.dtype) for t in tensors))
                    result = graph(*tensors)
                    made.append(graph)
                    return result
        return made[0](*tensors)

    return call


def to_numpy(tensor: Any) -> npt.NDArray[Any]:
    """A tensor as an array in the host's memory."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def batch_norm_kernel(inputs: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """(n, y, x, channel) normalised by the batch, and its mean and variance per channel in float32. TensorFlow only."""
    gamma, beta = (tf.cast(weights, tf.float32) for weights in (gamma, beta))
    return tf.compat.v1.nn.fused_batch_norm(inputs, gamma, beta, epsilon=epsilon, is_training=True)  # type: ignore[no-any-return]
