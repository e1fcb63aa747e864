"""docs/train.md and docs/evaluate.md say what there is: every command runs, every option exists."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from tileseg.cli.main import app
from tileseg.dataset.spec import DatasetSpec
from tileseg.nn.options import NetworkSpec
from tileseg.train.augment_spec import AugmentSpec

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = [line for language, text in blocks(page) if language == "console" for line in text.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
def test_every_command_of_the_walk_through_runs(in_process, shallow, unfused, tmp_path: Path) -> None:
    for folder in ("sample_rasters", "workflows"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    written = []
    for language, text in blocks("train.md"):
        if language == "toml":
            name = text.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(text, encoding="utf-8")
            written.append(name)
    assert written == ["town.toml", "folds.toml", "corrected.toml", "more.toml", "towns.toml"]
    for words in commands("train.md"):
        program, *arguments = words
        for option, less in (("--steps", "3"), ("--network", "width=0.02,encoder=unet,batch_norm=false")):
            if option in arguments:
                arguments[arguments.index(option) + 1] = less
        if program == "tileseg":
            told = in_process(*arguments, cwd=tmp_path)
        else:
            assert program == "python"
            script = [sys.executable, *arguments]
            told = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert told.returncode == 0, f"{shlex.join(words)}: {told.stderr}"
    for made in (
        "sheet.png", "town-model/card.json", "town-model/model.keras", "town-model/training/panel-best.png",
        "town-model/training/curves.png", "town-model/training/steps.csv", "town-model/training/validations.csv",
        "town-model/training/tensorboard", "town-model/training/train.json", "town-model/training/summary.json",
        "town-model-2/card.json", "town-small/card.json", "town-mine/card.json",
        "town-int8/model.int8.onnx",
        "town-evaluation/report.html", "town-evaluation/metrics.json",
        "elsewhere/quicklook.png", "elsewhere/polygons.geojson", "elsewhere-evaluation/report.html",
    ):  # fmt: skip
        assert (tmp_path / made).exists(), made


def test_two_rasters_are_compared_as_it_is_written(in_process, tmp_path: Path) -> None:
    (words,) = [words for words in commands("evaluate.md") if "theirs.tif" in words]
    truth = np.zeros((40, 70), np.uint8)
    truth[5:25, 10:50] = 1
    theirs = truth * np.uint8(255)
    theirs[:, 10:20] = 7
    for name, pixels in (("theirs.tif", theirs), ("truth.tif", truth)):
        Image.fromarray(pixels).save(tmp_path / name)
    told = in_process(*words[1:], cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert found["by_class"]["building"]["iou"] == pytest.approx(30 / 40)


def known_options() -> set[str]:
    """Of all commands, as the command line spells them."""
    found: set[str] = set()
    waiting = [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting.extend(getattr(command, "commands", {}).values())
        for parameter in command.params:
            found.update([*parameter.opts, *parameter.secondary_opts])
    return found


@pytest.mark.parametrize("page", ["train.md", "evaluate.md"])
def test_every_option_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - {"--scenes", "--help"}  # of draw_scenes.py; of all
    assert len(named) > 10
    assert named <= known_options()


def test_every_name_within_an_option_exists() -> None:
    text = (DOCS / "train.md").read_text(encoding="utf-8")
    table = text[text.index("`--network` takes") : text.index("All others keep")]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+)=", cell)} | {"width"}
    assert named == set(NetworkSpec.model_fields)
    augmented = re.search(r"--augment ([a-z0-9.=,]+)`", text)
    assert augmented is not None
    assert {pair.partition("=")[0] for pair in augmented[1].split(",")} <= set(AugmentSpec.model_fields)
    keys = text[text.index("| key at the top | |") : text.index("255, nodata, transparent labels")]
    fields = {info.alias or name for name, info in DatasetSpec.model_fields.items()}
    told = set(re.findall(r"^\| `([a-z_]+)` \|", keys, flags=re.MULTILINE))
    assert told == fields - {"scenes", "folders", "voc"}
