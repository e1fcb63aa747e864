"""A run keeps the form, engine and precision that it was begun with."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from fakes import smooth_noise, write_scene
from nets import save_forms

from tileseg import RunSpec, run
from tileseg.engine.kinds import ENGINES
from tileseg.errors import Interrupted, UsageError
from tileseg.nn.folder import load_card, save_card
from tileseg.run.prepare import prepare
from tileseg.run.report import Silent
from tileseg.spec import ClusterSpec


class StopsAfterOne(Silent):
    """Asks a run to stop after a block."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def block(self, record: object, pixels: int) -> None:
        self.stop.set()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_forms(folder)
    write_scene(folder / "scene.tif", smooth_noise(70, 110, 3))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """The scene, and a model folder that a test may change."""
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


def wish(here: Path, out: str = "out", **options: object) -> RunSpec:
    asked = {"scene": here / "scene.tif", "model": str(here / "net"), "out": here / out, "block": 32, "workers": 0}
    return RunSpec.parse({**asked, "engine": "onnx", **options})


def begin(spec: RunSpec) -> None:
    first = StopsAfterOne()
    with pytest.raises(Interrupted):
        run(spec, first, first.stop)


def without_int8(folder: Path) -> None:
    card = load_card(folder)
    save_card(card.using("model.onnx"), folder)
    (folder / "model.int8.onnx").unlink()


def test_a_form_that_came_later_waits_for_the_next_run(here: Path) -> None:
    shutil.copytree(here / "net", here / "whole")
    without_int8(here / "net")
    begin(wish(here))
    shutil.rmtree(here / "net")
    (here / "whole").rename(here / "net")
    run(wish(here))
    summary = json.loads((here / "out" / "summary.json").read_text())
    told = {name: summary["engine"][name] for name in ("name", "precision", "why")}
    assert told == {"name": "onnx", "precision": "float32", "why": "as the run was begun"}
    run(wish(here, "anew"))
    assert json.loads((here / "anew" / "summary.json").read_text())["engine"]["precision"] == "int8"
    run(wish(here, "float", precision="float32"))
    labels = [(here / name / "labels.tif").read_bytes() for name in ("out", "float")]
    assert labels[0] == labels[1]


def test_a_form_that_is_gone_or_another_is_told(here: Path) -> None:
    begin(wish(here))
    shutil.copytree(here / "net", here / "whole")
    without_int8(here / "net")
    with pytest.raises(
        UsageError, match=r"out: was begun with model\.int8\.onnx, which is another file by now or gone"
    ):
        run(wish(here))
    shutil.rmtree(here / "net")
    (here / "whole").rename(here / "net")
    run(wish(here))


def test_an_engine_that_is_not_here_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(wish(here, engine="auto"))
    record = json.loads((here / "out" / ".state" / "run.json").read_text())
    kind = ENGINES[record["sizes"]["engine"]]
    gone = type(kind)(kind.function, kind.suffixes, kind.float32, kind.int8, package="no_such_package", extra="swift")
    monkeypatch.setitem(ENGINES, record["sizes"]["engine"], gone)
    with pytest.raises(UsageError, match=r'was begun with another engine: .* pip install "tileseg\[swift\]"'):
        run(wish(here, engine="auto"))


def test_another_precision_is_another_run(here: Path) -> None:
    begin(wish(here))
    with pytest.raises(UsageError, match="precision was auto, is float32"):
        run(wish(here, precision="float32"))
    with pytest.raises(UsageError, match="engine was onnx, is auto"):
        run(wish(here, engine="auto"))


def test_windows_of_int8_may_change_on_the_way(here: Path) -> None:
    begin(wish(here, precision="int8"))
    run(wish(here, precision="int8", window=96))
    run(wish(here, "other", precision="int8"))
    labels = [(here / name / "labels.tif").read_bytes() for name in ("out", "other")]
    assert labels[0] == labels[1]


def test_a_cluster_computes_what_this_machine_would(here: Path) -> None:
    alone = prepare(wish(here, engine="auto"))
    cluster = ClusterSpec(scheduler="tcp://127.0.0.1:9")
    assert prepare(wish(here, engine="auto", workers=None, cluster=cluster)).sizing.choice == alone.sizing.choice
    assert alone.sizing.choice.precision == "int8"
