"""What all tests share: a quiet TensorFlow on the CPU, Hypothesis profiles, the folder of real rasters."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports TensorFlow, and inherited by the processes that tests start. Exactness is promised per
# device; the tests' reference is the CPU. TILESEG_TEST_GPU=1 lets them see the GPUs.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if os.environ.get("TILESEG_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

# No deadlines anywhere: the first example pays for compilation, and cores are shared.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("deep", settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

REPOSITORY = Path(__file__).resolve().parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real rasters, read-only. Mark the test ``real_data`` too; it skips where there are none."""
    folder = Path(os.environ.get("TILESEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real rasters: {folder} is not a folder (set TILESEG_TEST_DATA to where they are)")
    return folder


@pytest.fixture(scope="session")
def sample_rasters() -> Path:
    """The small rasters of the repository, with their true labels."""
    return REPOSITORY / "sample_rasters"


@pytest.fixture
def in_process(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """``tileseg ARGUMENTS`` in this process: what it prints and its exit code, without seconds of importing.

    For tests of what a command does. That a fresh process does it too is for those that start one.
    """

    def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        from tileseg.cli.main import main

        monkeypatch.setattr(sys, "argv", ["tileseg", *map(str, arguments)])
        capfd.readouterr()
        code: object = 0
        with contextlib.chdir(cwd or Path.cwd()):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        assert isinstance(code, int), code
        return subprocess.CompletedProcess(sys.argv, code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model in ONNX, for tests that only read it."""
    from fakes import save_tiny_onnx

    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def keras_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model in Keras, for tests that only read it."""
    from fakes import save_tiny

    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """U-Nets whose blocks have one convolution: a training of a few steps costs what tracing its graph costs."""
    from tileseg.nn.unet import ENCODERS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "unet", tuple((filters, 1) for filters, _ in ENCODERS["unet"]))
        yield


@pytest.fixture(scope="module")
def unfused() -> Iterator[None]:
    """Images are distorted without XLA, whose compilation takes a quarter of a minute: worth it in long trainings."""
    from tileseg.nn import backend

    compiled = backend.compile

    def plain(function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:
        return compiled(function, fused=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "compile", plain)
        yield
