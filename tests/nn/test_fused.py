from __future__ import annotations

import numpy as np
import pytest

from tileseg.nn.backend import NAME, keras
from tileseg.nn.fused import FusedBatchNormalization, fuse
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import build_network

pytestmark = pytest.mark.skipif(NAME != "tensorflow", reason="TensorFlow's kernel")


def test_training_is_that_of_plain_layers() -> None:
    keras.utils.set_random_seed(3)
    plain = build_network(NetworkSpec(encoder="unet", width=0.1, decoder_convs=1), 2, 3)
    fused = fuse(plain)
    assert sum(isinstance(layer, FusedBatchNormalization) for layer in fused.layers) == 14
    assert [v.path for v in fused.weights] == [v.path for v in plain.weights]
    fused.set_weights(plain.get_weights())
    rng = np.random.default_rng(3)
    images = rng.normal(1, 2, (2, 160, 128, 2)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 160, 128))
    losses = []
    for model in (plain, fused):
        criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), criterion, jit_compile=False)
        losses.append([float(np.ravel(model.train_on_batch(images, labels))[0]) for _ in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)
    for one, other in zip(plain.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=2e-3)  # 160 pixels at the bottom: n against n - 1
    np.testing.assert_allclose(plain(images), fused(images), rtol=0.05, atol=0.05)


def test_frozen_layers_keep_their_statistics() -> None:
    layer = FusedBatchNormalization()
    images = np.random.default_rng(1).normal(5, 2, (2, 4, 6, 3)).astype(np.float32)
    layer.build(images.shape)
    layer.trainable = False
    np.testing.assert_allclose(layer(images, training=True), images, rtol=1e-3)
    np.testing.assert_array_equal(layer.moving_mean, 0)
