"""``tileseg model``: parse, call, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tileseg.cli.model import app
from tileseg.errors import InputError, UsageError
from tileseg.nn.backend import keras
from tileseg.nn.folder import load_card, resolve_model, save_card

layers = keras.layers
THREE = "a:#000000,b:#111111,c:#222222"
SAID = ["--bands", "a,b", "--classes", THREE, "--activation", "softmax"]
runner = CliRunner()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    image = keras.Input((None, None, 2))
    x = layers.SeparableConv2D(4, 5, padding="same", activation="relu")(image)
    keras.Model(image, layers.Conv2D(3, 1, activation="softmax")(x)).save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def test_pack_then_info_then_check(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = runner.invoke(
        app,
        [
            "pack", str(archive), str(folder), "--bands", "vv,vh", "--classes", "sea:#0000ff,ice:#ffffff,land:#00ff00",
            "--background", "sea", "--activation", "softmax", "--divisor", "100", "--mean", "0.1,0.2", "--std", "2",
            "--gsd", "10", "--dtypes", "float32",
        ],
        catch_exceptions=False,
    )  # fmt: skip
    assert made.exit_code == 0
    assert "tileseg model check" in made.output
    card = json.loads(runner.invoke(app, ["info", str(folder), "--json"], catch_exceptions=False).stdout)
    assert (card["name"], card["radius"], card["activation"]) == ("mine", 2, "softmax")
    scaling = {"kind": "fixed", "divisor": 100.0, "mean": [0.1, 0.2], "std": [2.0], "center": None, "width": None}
    assert card["scaling"] == scaling
    assert [c["background"] for c in card["classes"]] == [True, False, False]
    table = runner.invoke(app, ["info", str(folder)], catch_exceptions=False).stdout
    assert "2 px (radius 2)" in table
    facts = json.loads(runner.invoke(app, ["check", str(folder), "--json"], catch_exceptions=False).stdout)
    assert facts["exact"] is True
    assert facts["over_standard_deviation"] <= 1e-5


def test_a_window_and_nested_facts_are_shown(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    options = [*SAID, "--scaling", "window", "--center", "40", "--width", "400"]
    runner.invoke(app, ["pack", str(archive), str(folder), *options, "--mean", "0.5"], catch_exceptions=False)
    facts = {"loss": "ce+dice", "network": {"encoder": "vgg16", "width": 0.25}, "iou": [0.5, 0.25]}
    save_card(load_card(folder).model_copy(update={"training": facts}), folder)
    assert load_card(folder).training == facts
    table = " ".join(runner.invoke(app, ["info", str(folder)], catch_exceptions=False).stdout.split())
    assert "((clip(value, -160, 240) + 160) / 400 - 0.5) / 1" in table
    assert "loss ce+dice, network: {encoder vgg16, width 0.25}, iou 0.5, 0.25" in table


def test_scores_have_rows_of_their_own_and_options_are_told_on_demand(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    runner.invoke(app, ["pack", str(archive), str(folder), *SAID], catch_exceptions=False)
    scores = {
        "mean_iou": 0.75,
        "iou_a": 0.5,
        "iou_b": 1.0,
        "iou_by_scene": {"hill": {"a": 0.25}, "mean_iou": {"b": 0.125}},
    }
    facts = {"steps": 40, **scores, "spec": {"network": {"width": 0.375}, "loss": "dice"}}
    save_card(load_card(folder).model_copy(update={"training": facts}), folder)

    def told(*options: str) -> list[tuple[str, str]]:
        lines = runner.invoke(app, ["info", str(folder), *options], catch_exceptions=False).stdout.splitlines()
        return [(name.strip(), value.strip()) for name, _, value in (line.partition("  ") for line in lines)]

    rows = told()
    wanted = [
        ("mean IoU", "0.75"), ("IoU a", "0.5"), ("IoU b", "1"),
        ("IoU in hill", "a 0.25"), ("IoU in mean_iou", "b 0.125"), ("training", "steps 40"),
    ]  # fmt: skip
    start = rows.index(wanted[0])
    assert rows[start : start + len(wanted)] == wanted
    assert not any("0.375" in value for _, value in rows)
    assert ("training options", "network: {width 0.375}, loss dice") in told("-v")


def test_places_have_rows_and_what_is_reached_elsewhere_stands_apart(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    runner.invoke(app, ["pack", str(archive), str(folder), *SAID], catch_exceptions=False)
    facts = {
        "iou_by_place": {"hill": {"a": 0.25}, "made": {"a": 0.75}},
        "iou_by_scene": {"hill_0": {"a": 0.5}, "hill_1": {"a": 0.125}, "made": {"a": 0.75}},
        "drawn_places": ["made"],
        "elsewhere": [
            {"place": "coast", "iou": 0.5, "f1": 0.25, "images": 3},
            {"place": "town", "iou": 0.25, "f1": None, "images": 1},
        ],
    }
    before = load_card(folder)
    save_card(before.model_copy(update={"training": facts}), folder)
    assert load_card(folder).digest == before.digest, "what is said of a model does not make it another one"
    lines = runner.invoke(app, ["info", str(folder)], catch_exceptions=False).stdout.splitlines()
    rows = [(name.strip(), value.strip()) for name, _, value in (line.partition("  ") for line in lines)]
    assert ("IoU in hill", "a 0.25") in rows
    assert ("IoU in made (drawn)", "a 0.75") in rows
    assert not any("hill_0" in text for row in rows for text in row)
    start = rows.index(("elsewhere, mean of 2 places", "iou 0.375, f1 0.25"))
    assert rows[start + 1 : start + 3] == [
        ("elsewhere, coast", "iou 0.5, f1 0.25, images 3"), ("elsewhere, town", "iou 0.25, f1 -, images 1")
    ]  # fmt: skip


def test_a_false_card_ends_the_check(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    runner.invoke(app, ["pack", str(archive), str(folder), *SAID])
    text = (folder / "card.json").read_text().replace('"radius": 2', '"radius": 1')
    (folder / "card.json").write_text(text)
    found = runner.invoke(app, ["check", str(folder)])
    assert isinstance(found.exception, InputError)
    assert "radius 1 in the card, 2 in the model's graph" in str(found.exception)


def test_a_class_without_a_colour_gets_one(archive: Path, tmp_path: Path) -> None:
    said = ["--bands", "a,b", "--classes", "ground,b:#102030,c", "--background", "ground", "--activation", "softmax"]
    done = runner.invoke(app, ["pack", str(archive), str(tmp_path / "m"), *said])
    assert done.exit_code == 0, done.exception
    classes = load_card(tmp_path / "m").classes
    assert [(info.name, info.color) for info in classes] == [("ground", "#c8b99a"), ("b", "#102030"), ("c", "#4f9a4d")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "a:,b,c"], "expected NAME,... or NAME:#RRGGBB"),
        (["--classes", ":#000000,b,c"], "expected NAME,... or NAME:#RRGGBB"),
        (["--classes", "a"], "at least two classes"),
        (["--classes", THREE, "--background", "d"], "not among"),
        (["--classes", "a:#000000,b:#111111,c:#22"], "pattern"),
        (["--classes", THREE, "--mean", "x"], "not a list of numbers"),
        (["--classes", THREE, "--scaling", "tile"], "expected one of fixed, scene, window"),
        (["--classes", THREE, "--scaling", "window", "--center", "40"], "needs its center and its width"),
        (["--classes", THREE, "--scaling", "window", "--center", "40", "--width", "0"], "greater than 0"),
        (["--classes", THREE, "--center", "40", "--width", "400"], 'expected kind "window"'),
        (
            ["--classes", THREE, "--scaling", "window", "--center", "4", "--width", "4", "--divisor", "2"],
            "a window has no divisor",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(archive: Path, tmp_path: Path, options: list[str], said: str) -> None:
    found = runner.invoke(app, ["pack", str(archive), str(tmp_path / "out"), "--bands", "a,b", *options])
    assert isinstance(found.exception, UsageError)
    assert said in str(found.exception)


def test_models_are_listed_by_the_names_that_a_run_takes() -> None:
    done = runner.invoke(app, ["list", "--json"])
    listed = json.loads(done.stdout)
    assert listed["buildings"]["finds"] == "building"
    assert listed["buildings"]["at"] == "0.3 m per pixel"
    assert "iou" in listed["buildings"]["elsewhere"]
    for name in listed:
        assert load_card(resolve_model(name)).name == name
    assert "buildings" in runner.invoke(app, ["list"]).stdout
