"""Two devices that share a batch learn what one learns from all of it, of labels and of a teacher."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import pyogrio
import numpy as np
import tensorflow as tf

if sys.argv[1] == "2":
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [one, one])
from tileseg.nn.backend import Replicas, devices, keras
from tileseg.nn.options import NetworkSpec
from tileseg.nn.unet import ENCODERS, build_network
from tileseg.train.losses import DistilledLoss, parse_loss
from tileseg.train.optimizer import PartwiseAdam
from tileseg.train.step import TrainingModel, compile_step
from tileseg.train.teacher import Lesson

replicas = Replicas(devices())
# Few variables: what costs is the graph of their updates, on each device.
ENCODERS["unet"] = tuple((filters, 1) for filters, _ in ENCODERS["unet"])
assert replicas.count == int(sys.argv[1])
keras.utils.set_random_seed(1)
with replicas.scope():
    network = build_network(NetworkSpec(width=0.02, encoder="unet", batch_norm=False, decoder_convs=1), 3, 2)
    loss = DistilledLoss(parse_loss("ce", classes=2), 0.5, 2.0)
    trained = TrainingModel(network, loss, (0.5,), (0.25,), replicas)
    adam = PartwiseAdam(rate=0.01, decay=0.1, share=lambda v: 0.5)
    adam.build(network.trainable_variables)
    compile_step(trained, adam)
rng = np.random.default_rng(0)
losses = []
for _ in range(3):
    images, labels = rng.random((4, 32, 48, 3), np.float32), rng.integers(0, 2, (4, 32, 48)).astype(np.uint8)
    lesson = Lesson(labels, rng.normal(size=(4, 32, 48, 2)).astype(np.float32), np.ones(labels.shape, bool))
    losses.append(trained.step(images, lesson))
np.savez(sys.argv[2], losses=losses, weights=np.concatenate([w.ravel() for w in network.get_weights()]))
"""


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(tmp_path) -> None:
    import numpy as np

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = []
    for count in (1, 2):
        out = tmp_path / f"{count}.npz"
        subprocess.run([sys.executable, "-c", PROGRAM, str(count), str(out)], check=True, env=environment)
        with np.load(out) as file:
            found.append((file["losses"], file["weights"]))
    (losses, weights), (shared_losses, shared_weights) = found
    np.testing.assert_allclose(shared_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(shared_weights, weights, atol=3e-4)
