"""Model folders: cards of both formats, and several files of one network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tileseg.card import ClassInfo, Form, Loss, ModelCard
from tileseg.errors import InputError, UsageError
from tileseg.nn.folder import add_form, check_archive, load_card, save_card
from tileseg.storage.digest import file_sha256

CLASSES = tuple(ClassInfo(name=name, color="#c8b99a") for name in ("ground", "roof"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file that nobody opens, and its card."""
    (tmp_path / "model.onnx").write_bytes(b"float32")
    form = Form(file="model.onnx", sha256=file_sha256(tmp_path / "model.onnx"))
    card = ModelCard(
        name="net", bands=("r",), classes=CLASSES, output_channels=2, stride=1, radius=1, flops_per_pixel=1,
        activation_bytes_per_pixel=1, parameters=1, forms=(form,),
    )  # fmt: skip
    save_card(card, tmp_path)
    return tmp_path


def form_of(path: Path, file: str) -> Form:
    loss = Loss(iou=0.003, worst_iou=0.004, labels=0.005, ece=0.001, data="three scenes, their labels")
    return Form(file=file, sha256=file_sha256(path), precision="int8", calibration={"windows": 8}, loss=loss)


def test_a_folder_of_the_format_before_opens(folder: Path) -> None:
    before = load_card(folder)
    values = json.loads((folder / "card.json").read_text())
    sha256 = values.pop("forms")[0]["sha256"]
    (folder / "card.json").write_text(json.dumps(values | {"format": 1, "sha256": sha256}))
    assert load_card(folder) == before
    assert check_archive(load_card(folder), folder) == folder / "model.onnx"
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match=r"model\.onnx: not the file that the card was made for \(SHA-256 "):
        check_archive(load_card(folder), folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": 3}', "\N{BYTE ORDER MARK}", '{"format": 1}'])
def test_what_is_no_card_is_told_in_one_line(folder: Path, content: str) -> None:
    (folder / "card.json").write_text(content)
    with pytest.raises(InputError, match=r"card\.json: ") as error:
        load_card(folder)
    assert "\n" not in str(error.value)


def test_a_form_is_added_and_replaced(folder: Path) -> None:
    before = load_card(folder)
    for content in (b"first", b"second"):
        (folder / ".partial").write_bytes(content)
        form = form_of(folder / ".partial", "model.int8.onnx")
        card = add_form(folder, folder / ".partial", form)
        assert card.forms == (*before.forms, form)
        assert load_card(folder) == card
        assert check_archive(card.using("model.int8.onnx"), folder).read_bytes() == content
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.int8.onnx", "model.onnx"]
    assert card.sha256 == before.sha256, "it is the same network"
    assert card.using("model.int8.onnx").digest != card.using("model.onnx").digest == before.digest


def test_the_network_itself_is_not_replaced(folder: Path) -> None:
    (folder / ".partial").write_bytes(b"x")
    with pytest.raises(UsageError, match="is the network itself"):
        add_form(folder, folder / ".partial", form_of(folder / ".partial", "model.onnx"))
    assert (folder / "model.onnx").read_bytes() == b"float32"


def test_a_form_whose_file_is_gone_is_named(folder: Path) -> None:
    card = load_card(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"no model\.onnx beside card\.json"):
        check_archive(card, folder)


@pytest.mark.parametrize("file", ["../model.onnx", "model", "weights.onnx", "model.onnx/x", "model..onnx"])
def test_forms_are_files_of_the_folder(folder: Path, file: str) -> None:
    values = json.loads((folder / "card.json").read_text())
    values["forms"][0]["file"] = file
    (folder / "card.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"forms\.0\.file"):
        load_card(folder)


def test_a_file_stands_once(folder: Path) -> None:
    values = json.loads((folder / "card.json").read_text())
    values["forms"] *= 2
    (folder / "card.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="a file stands twice"):
        load_card(folder)
