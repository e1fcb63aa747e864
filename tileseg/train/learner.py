"""The network while it learns: its weights, the optimizer, one step, and the running mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tileseg.errors import UsageError
from tileseg.labels import Labels
from tileseg.nn.backend import Replicas, devices, keras, to_numpy
from tileseg.nn.fused import fuse
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import BLOCKS, build_network, part_of, training_model
from tileseg.train.checkpoint import Checkpoint
from tileseg.train.losses import DistilledLoss, Loss
from tileseg.train.normalisation import Normalisation
from tileseg.train.optimizer import PartwiseAdam, RunningMean
from tileseg.train.spec import TrainSpec
from tileseg.train.step import TrainingModel, compile_labels, compile_step, computing_in
from tileseg.train.teacher import Lesson


class Blueprint(Protocol):
    """A network that can be built, with layers and weights of its own each time."""

    @property
    def stride(self) -> int:
        """Pixels: patches must be multiples of it."""
        ...

    def build(self, precision: str, *, fused: bool) -> keras.Model:
        """(n, rows, columns, bands) -> float32 logits (n, rows, columns, channels), in a precision."""
        ...


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """One of tileseg's networks."""

    spec: NetworkSpec
    bands: int
    classes: int
    stride: int = 16

    def build(self, precision: str, *, fused: bool) -> keras.Model:
        """Build it with random weights."""
        with computing_in(precision):
            network = build_network(self.spec, self.bands, self.classes)
            return fuse(network) if fused else network


class Learner:
    """A network with everything that a step changes; at its start, until :meth:`restore`."""

    def __init__(
        self,
        spec: TrainSpec,
        blueprint: Blueprint,
        loss: Loss | DistilledLoss,
        normalisation: Normalisation,
    ) -> None:
        """Build the network and its optimizer. Raises UsageError where the devices cannot share a batch."""
        self._spec, self._blueprint = spec, blueprint
        keras.utils.set_random_seed(spec.seed)
        names = devices()
        if spec.batch % len(names):
            raise UsageError(f"--batch {spec.batch}: cannot be shared by {len(names)} devices; expected a multiple")
        self._replicas = Replicas(names)
        with self._replicas.scope():
            self.model = blueprint.build(spec.precision, fused=True)
            with computing_in(spec.precision):
                self.network = training_model(self.model) if spec.network.deep_supervision else self.model
            self._training = TrainingModel(self.network, loss, normalisation.mean, normalisation.std, self._replicas)
            adam = PartwiseAdam(
                rate=spec.rate,
                decay=spec.weight_decay if spec.optimizer == "adamw" else 0.0,
                # Each device clips its share of the gradients, which are summed then.
                clip=None if spec.clip is None else spec.clip * self._replicas.loss_share,
                accumulate=spec.accumulate,
                share=lambda variable: 1.0 if _part(variable) == "decoder" else spec.encoder_rate,
            )
            self._optimizer = keras.optimizers.LossScaleOptimizer(adam) if spec.precision == "float16" else adam
            self._optimizer.build(self.network.trainable_variables)
        self._mean = RunningMean(self.network.weights, spec.ema) if spec.ema else None
        self._released = -1
        frozen = frozen_layers(self.network, spec.freeze)
        self._learning = {layer.name for layer in self.network.layers if layer.trainable} - frozen
        self.labels_of = compile_labels(self._training)

    def step(self, images: npt.NDArray[np.float32], targets: Labels | Lesson, *, step: int, rate: float) -> float:
        """Learn from one batch, ``step`` others having gone before; its loss, which may be no number."""
        self._release(step)
        self._optimizer.learning_rate = rate
        loss = self._training.step(images, targets)
        if np.isfinite(loss) and self._mean is not None and (step + 1) % self._spec.accumulate == 0:
            self._mean.update((step + 1) // self._spec.accumulate)
        return loss

    def _release(self, step: int) -> None:
        """Freeze and release the encoder's blocks as the schedule of ``unfreeze`` says."""
        every = self._spec.unfreeze * self._spec.steps_per_epoch
        released = min(len(BLOCKS), step // every) if every else len(BLOCKS)
        if released == self._released:
            return
        self._released = released
        frozen = BLOCKS[: len(BLOCKS) - released]
        for layer in self.network.layers:
            layer.trainable = layer.name in self._learning and part_of(layer.name) not in frozen
        with self._replicas.scope():
            compile_step(self._training, self._optimizer)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has the running mean of its weights, if there is one."""
        if self._mean is None:
            yield
            return
        self._mean.swap()
        try:
            yield
        finally:
            self._mean.swap()

    @property
    def state(self) -> dict[str, list[Any]]:
        """Variables by group: all that a checkpoint needs to go on."""
        groups = {"network": list(self.network.variables), "optimizer": list(self._optimizer.variables)}
        return groups if self._mean is None else groups | {"mean": list(self._mean.variables)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a state."""
        for name, variables in self.state.items():
            checkpoint.restore(name, variables)

    def is_finite(self) -> bool:
        """Whether the network still gives numbers for an image of noise."""
        side = math.lcm(2 ** (len(BLOCKS) + 1), self._blueprint.stride)
        noise = np.random.default_rng(0).normal(size=(1, side, side, self.model.inputs[0].shape[-1]))
        return bool(np.isfinite(to_numpy(self.model(noise.astype(np.float32), training=False))).all())

    def use_mean(self) -> None:
        """Take the running mean, if there is one, as the weights: the training is over."""
        if self._mean is not None:
            self._mean.swap()

    @cached_property
    def _plain(self) -> keras.Model:
        return self._blueprint.build("float32", fused=False)

    def plain(self) -> keras.Model:
        """The network as it is saved, with the weights of now: float32, without what serves training only."""
        for layer in self._plain.layers:
            # What follows a layer's own weights serves training only.
            layer.set_weights(self.model.get_layer(layer.name).get_weights()[: len(layer.weights)])
        return self._plain


def frozen_layers(network: keras.Model, count: int) -> frozenset[str]:
    """Names of the first ``count`` convolutions of an encoder, with the normalisations that belong to them.

    Raises UsageError where it has not so many.
    """
    names: list[str] = []
    left = count
    for layer in network.layers:
        if part_of(layer.name) == "decoder" or not layer.weights:
            continue
        if not isinstance(layer, keras.layers.BatchNormalization):
            left -= 1
        if left < 0:
            break
        names.append(layer.name)
    if left > 0:
        raise UsageError(f"--freeze {count}: the encoder has {count - left} layers; give that number or fewer")
    return frozenset(names) if count else frozenset()


def _part(variable: Any) -> str:
    """The part of the network that a variable belongs to, by its layer's name."""
    return part_of(variable.path.partition("/")[0])
