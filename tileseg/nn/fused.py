"""Batch normalisation as one kernel: for training, where Keras' own makes a dozen passes over the maps on a CPU."""

from __future__ import annotations

from typing import Any

from tileseg.nn.backend import NAME, batch_norm_kernel, keras


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Trains as ``keras.layers.BatchNormalization`` does, with the same weights; never saved (see :func:`fuse`).

    The running variance is that of a sample (divided by n - 1) instead of a population: n is thousands of pixels.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise by the batch and remember its statistics; outside training and when frozen, as Keras does."""
        if not training or not self.trainable or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = batch_norm_kernel(inputs, self.gamma, self.beta, self.epsilon)
        for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + found * (1 - self.momentum))
        return outputs


def fuse(model: keras.Model) -> keras.Model:
    """The same network, newly initialised, with every batch normalisation fused where the backend has a kernel.

    Weights have the same order, so that they can be carried back into a network of plain layers, to be saved.
    """
    if NAME != "tensorflow":
        return model

    def copy(layer: Any) -> Any:
        return fused_kind(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy)


def fused_kind(layer: Any) -> Any:
    """What a layer is made again as, to be trained: of its own kind, or fused where that is possible."""
    plain = type(layer) is keras.layers.BatchNormalization and layer.axis in (-1, 3) and layer.scale and layer.center
    return FusedBatchNormalization if plain and NAME == "tensorflow" else type(layer)
