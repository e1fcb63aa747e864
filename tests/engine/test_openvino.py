"""OpenVINO computes what ONNX Runtime does, and tiles equal the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import smooth_noise, write_scene
from nets import save_forms

from tileseg import RunSpec, run
from tileseg.engine.openvino import OpenvinoNetwork
from tileseg.engine.proof import prove
from tileseg.engine.protocol import WindowSpec
from tileseg.engine.registry import open_network
from tileseg.errors import InputError
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card
from tileseg.nn.openvino_session import OpenvinoSession
from tileseg.window import Window


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_forms(tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize(("form", "precision"), [("model.onnx", "float32"), ("model.int8.onnx", "int8")])
def test_tiles_equal_the_whole_and_both_engines_agree(folder: Path, form: str, precision: str) -> None:
    card = load_card(folder)
    found = {name: open_network(folder, card, 1, engine=name, form=form) for name in ("openvino", "onnx")}
    assert isinstance(found["openvino"], OpenvinoNetwork)
    assert prove(found["openvino"], precision).holds
    image = np.random.default_rng(0).random((2, 48, 64, 3), dtype=np.float32)
    window = WindowSpec(48, 64, 8, 2, precision)
    one, other = (network.engine(window)(image) for network in found.values())
    assert one.shape == other.shape == (2, 32, 48, 3)
    assert np.abs(one - other).max() <= (1e-5 if precision == "float32" else 0.2) * other.std()


def test_a_run_takes_it_and_the_summary_says_so(folder: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", smooth_noise(60, 90, 3))
    logits = {}
    for engine in ("openvino", "onnx"):
        spec = RunSpec(
            scene=scene, model=str(folder), out=tmp_path / engine, workers=0, engine=engine, precision="float32"
        )
        run(spec)
        logits[engine] = Mosaic(tmp_path / engine / "mosaic.zarr").read_logits(Window(0, 0, 60, 90)).astype(np.float32)
    assert np.abs(logits["openvino"] - logits["onnx"]).max() <= 2e-3 * logits["onnx"].std()  # kept as float16
    assert '"name":"openvino"' in (tmp_path / "openvino" / "summary.json").read_text().replace(" ", "")


def test_it_reports_nothing_to_its_makers() -> None:
    """Its converter of models, of which nothing is needed, would as soon as it is imported."""
    code = (
        "import sys\n"
        "import tileseg.nn.openvino_session\n"
        "print([name for name in sys.modules if 'telemetry' in name])\n"
        "import openvino.tools.ovc\n"  # whoever wants it has it
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_a_graph_that_it_does_not_take_is_told_in_one_line() -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["a"], ["b"])
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 4])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("b", 1, [1, 4])])
    with pytest.raises(InputError, match=r"^OpenVINO does not run it: .*NoSuchOperator") as error:
        OpenvinoSession(onnx.helper.make_model(graph), "float32")
    assert "\n" not in str(error.value)
