"""ONNX Runtime reports to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nets import Net

COMPUTE = """
import sys
import onnx
import numpy as np
from tileseg.nn.onnx_session import Session
Session(onnx.load(sys.argv[1]))(np.zeros((1, 3, 8, 12), np.float32))
"""


def test_nothing_is_kept_for_the_maker_of_onnx_runtime(tmp_path: Path) -> None:
    net = Net(size=(8, 12))
    path = net.save(tmp_path / "net.onnx", net.conv(net.image.name, 3, 2))
    home = tmp_path / "home"
    home.mkdir()
    # Without CI and the like, where ONNX Runtime is silent by itself.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run(
        [sys.executable, "-c", COMPUTE, str(path)], check=True, env={**environment, "HOME": str(home)}, cwd=tmp_path
    )
    assert not list(home.rglob("*"))
