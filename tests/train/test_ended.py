"""Trainings that are ended from outside, as processes, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn import write_dataset

from tileseg.nn.bundle import load_bundle
from tileseg.train.journal import STEPS, read_columns


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, unfused) -> Path:
    return write_dataset(tmp_path_factory.mktemp("drawn"))


def losses(out: Path) -> list[float]:
    return read_columns(out / "training" / STEPS, "loss")[0]


PROGRAM = """
from tileseg.cli.main import main
from tileseg.nn import backend

plain = backend.compile
backend.compile = lambda function, *, fused=False: plain(function)
main()
"""
"""``tileseg``, without the minute that XLA takes to compile the distortion of images (see the fixture ``unfused``)."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def command(dataset: Path, out: Path, steps: int) -> list[str]:
    options = {
        "--network": "width=0.02,encoder=unet,decoder_convs=1", "--crop": "32", "--batch": "2", "--steps": str(steps),
        "--steps-per-epoch": "10", "--ema": "0.9", "--warmup": "5",
    }  # fmt: skip
    listed = [part for pair in options.items() for part in pair]
    return [sys.executable, "-c", PROGRAM, "train", str(dataset), "--out", str(out), *listed]


@pytest.mark.slow
def test_killed_and_gone_on_has_the_same_losses(in_process, dataset, tmp_path) -> None:
    whole = command(dataset, tmp_path / "whole", 20)
    assert in_process(*whole[3:]).returncode == 0
    killed = command(dataset, tmp_path / "killed", 20)
    process = subprocess.Popen(killed, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    state = tmp_path / "killed" / "training" / ".state" / "last.npz"
    while not state.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "going on after step" in in_process(*killed[3:]).stderr
    assert len(losses(tmp_path / "killed")) == 20
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_interrupted_from_the_keyboard_keeps_the_best_model(dataset, tmp_path) -> None:
    process = subprocess.Popen(
        command(dataset, tmp_path / "m", 100_000), env=environment(), stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "m" / "card.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "goes on" in told
    load_bundle(tmp_path / "m")
