"""A network's own file as ``--model``: what a card would say is given as facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes import smooth_noise, write_scene
from nets import Net

if TYPE_CHECKING:
    from conftest import Command

CLASSES = "classes=ground:#c8b99a,roof:#d9544d,water:#4575b4"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_scene(tmp_path / "scene.tif", smooth_noise(48, 70, 3))
    net = Net()
    return net.save(tmp_path / "mine.onnx", net.conv(net("Relu", net.conv("image", 3, 4)), 4, 3))


def test_a_file_with_facts_is_what_it_is_when_packed(in_process: Command, network: Path, tmp_path: Path) -> None:
    scene, out = tmp_path / "scene.tif", tmp_path / "out"
    facts = ["--fact", CLASSES, "--fact", "divisor=255", "--fact", "mean=0.4,0.5,0.6", "--fact", "background=ground"]
    for _ in range(2):
        done = in_process("run", scene, "--model", network, *facts, "--out", out, "--json", "--workers", 0)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == 0, "the second call goes on in the folder of the first"
    options = [
        "--classes",
        CLASSES.partition("=")[2],
        "--background",
        "ground",
        "--divisor",
        255,
        "--mean",
        "0.4,0.5,0.6",
    ]
    assert in_process("model", "pack", network, tmp_path / "mine", *options).returncode == 0
    again = in_process("run", scene, "--model", tmp_path / "mine", "--out", out, "--workers", 0)
    assert again.returncode == 0, "it is the same model"
    other = in_process("run", scene, "--model", network, *facts, "--fact", "std=2", "--out", out, "--workers", 0)
    assert other.returncode == 2
    assert "the card's scaling.std was" in other.stderr


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ([], "pack it first: tileseg model pack"),
        (["divisor=255"], "which classes does it give? --fact classes=NAME[:#RRGGBB]"),
        ([CLASSES, "mena=0.4"], "--fact mena=0.4: expected NAME=VALUE with a name of classes, bands, "),
        ([CLASSES, "gsd=wide"], "gsd wide: expected a number"),
        ([CLASSES, "bands=red"], "takes images of (any, 3, any, any), but 1 bands are named"),
        (["classes=a:#000000,b:#111111"], "3 output channels cannot give 2 classes"),
        ([CLASSES, "activation=softmax"], "is said to give softmax, but"),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_one_line(
    in_process: Command, network: Path, tmp_path: Path, facts: list[str], told: str
) -> None:
    given = [word for fact in facts for word in ("--fact", fact)]
    done = in_process("run", tmp_path / "scene.tif", "--model", network, *given, "--out", tmp_path / "out")
    assert done.returncode in (2, 42)
    assert told in done.stderr
    assert not (tmp_path / "out").exists()
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not cached


def test_facts_of_a_model_folder_are_refused(in_process: Command, tmp_path: Path, network: Path) -> None:
    done = in_process("run", tmp_path / "scene.tif", "--fact", CLASSES)
    assert done.returncode == 2
    assert "--fact is for a network's own file" in done.stderr


@pytest.mark.parametrize(
    ("file", "classes", "told"),
    [
        ("mien.onnx", "a:#000000,b:#111111", "mien.onnx: no such file (did you mean mine.onnx?)"),
        ("mine.onnx", "a:#000000", "at least two classes"),
    ],
)
def test_what_is_packed_is_there_and_has_classes(
    in_process: Command, network: Path, tmp_path: Path, file: str, classes: str, told: str
) -> None:
    done = in_process("model", "pack", network.with_name(file), tmp_path / "out", "--classes", classes)
    assert done.returncode in (2, 42)
    assert told in done.stderr
