"""The network as it is trained: normalised input, loss, one compiled step; and as it is looked at in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.nn.backend import NAME, Replicas, keras, to_numpy
from tileseg.nn.backend import compile as compile_function
from tileseg.nn.unet import output_weights
from tileseg.train.losses import DistilledLoss, Loss

ops = keras.ops


class TrainingModel(keras.Model):
    """A network with its normalisation before it and the loss behind it.

    Takes (n, y, x, band) float32 of 0 to 1 (pixels over the scaling's divisor) and what the loss takes of them: labels
    (n, y, x), or a :class:`tileseg.train.teacher.Lesson`.
    """

    def __init__(
        self,
        network: keras.Model,
        loss: Loss | DistilledLoss,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        replicas: Replicas | None = None,
    ) -> None:
        # Normalising in 16 bits would cost digits that the network's own first layer is then missing.
        super().__init__(name="trained", dtype="float32")
        self.network = network
        self._criterion = loss
        self._replicas = replicas or Replicas(("CPU:0",))
        self._mean, self._std = (np.asarray(values, np.float32) for values in (mean, std))

    def call(self, images: Any, training: bool | None = None) -> Any:
        """The network's outputs; the first is what is saved."""
        return self.network((images - self._mean) / self._std, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of the output; under deep supervision, that of all outputs by their weights."""
        del x, sample_weight, training
        outputs = y_pred if isinstance(y_pred, list | tuple) else [y_pred]
        pairs = zip(output_weights(len(outputs)), outputs, strict=True)
        return self._replicas.loss_share * sum(weight * self._criterion(y, output) for weight, output in pairs)

    def step(self, images: npt.NDArray[np.float32], targets: Any) -> float:
        """Learn from one batch; its loss. ``targets``: its labels, or whatever else the loss takes."""
        return self._replicas.learn(self, images, targets)


def compile_step(trained: TrainingModel, optimizer: Any) -> None:
    """Make the step, anew after layers were frozen or released; the optimizer keeps its moments."""
    # XLA makes convolutions slower on CPUs (backend.compile); without it JAX would not compile at all.
    trained.compile(optimizer=optimizer, jit_compile=NAME == "jax")


def compile_labels(trained: TrainingModel) -> Callable[[Any], npt.NDArray[np.uint8]]:
    """Images (n, y, x, band) as for training, of one shape -> labels (n, y, x) that the network gives them."""

    def found(images: Any) -> Any:
        logits = trained(images, training=False)
        logits = logits[0] if isinstance(logits, list | tuple) else logits
        best = ops.argmax(logits, axis=-1) if logits.shape[-1] > 1 else logits[..., 0] > 0
        return ops.cast(best, "uint8")

    compiled = compile_function(found)
    return lambda images: to_numpy(compiled(images))


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers made inside compute in this precision; their weights are float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
