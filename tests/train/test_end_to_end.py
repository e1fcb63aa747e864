"""From labelled scenes to labels of scenes that were never seen, by the two commands that a user types."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from drawn import write_dataset, write_pair

from tileseg.evaluate.confusion import confusion, iou


@pytest.mark.slow
def test_a_tiny_network_finds_houses_that_it_never_saw(in_process, tmp_path) -> None:
    dataset = write_dataset(tmp_path / "data", train=3, validate=1, height=300, width=360)
    model = tmp_path / "model"
    trained = in_process(
        "train", dataset, "--out", model, "--network", "width=0.1,encoder=unet", "--crop", 96, "--batch", 6,
        "--steps", 120, "--steps-per-epoch", 40, "--warmup", 10, "--rate", 4e-3,
        "--augment", "haze=0,resolution=0,blur=0,grey=0",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    matrix = np.zeros((2, 2), np.int64)
    for seed in (100, 101):
        scene, truth = write_pair(tmp_path, f"unseen{seed}", 270, 410, seed)
        out = tmp_path / f"out{seed}"
        done = in_process("run", scene, "--model", model, "--out", out, "--workers", 0)
        assert done.returncode == 0, done.stderr
        with rasterio.open(out / "labels.tif") as file:
            matrix += confusion(truth, file.read(1), 2)
    found = iou(matrix)
    assert found[1] > 0.8, found
