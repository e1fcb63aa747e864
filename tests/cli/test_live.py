"""Notices and lines on the way are plain text, whatever names of files are in them."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from tileseg.cli.live import LiveView
from tileseg.cli.progress import RunProgress

NAMES = ["a[red]b.tif", "[/bold].tif", ":smile:.tif", "line\nbreak.tif", "tab\there.tif"]


def shown(name: str) -> str:
    return name.replace("\n", "\\n").replace("\t", "\\t")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_are(name, capsys) -> None:
    with LiveView(quiet=False) as view:
        view.notice(f"{name}: has no CRS")
    assert capsys.readouterr().err == f"note: {shown(name)}: has no CRS\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_of_a_run(name, capsys) -> None:
    plan = SimpleNamespace(blocks=3, scene=(20, 30), views=(1,), engine="onnx", form="model.onnx", precision="float32")
    spec = SimpleNamespace(scene=name, model="embedded")
    sizing = SimpleNamespace(choice=SimpleNamespace(why="the fastest here"))
    prepared = SimpleNamespace(spec=spec, plan=plan, sizing=sizing, aoi=None, wanted=(3, 3))
    with RunProgress(quiet=False, verbose=False) as view:
        view.start(prepared, done=1)
    assert capsys.readouterr().err == (
        f"{shown(name)}: 30 x 20 pixels, 3 blocks, 1 of them done before, 1 view, model embedded\n"
        "engine onnx (model.onnx, float32): the fastest here\n"
    )


def test_the_live_line_goes_on_and_ends() -> None:
    view = LiveView(quiet=False)
    view.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with view:
        view.update(completed=1)
        assert not view.is_live
        view.show(total=4, completed=1)
        view.update(completed=2, description="half")
        assert view.is_live
    assert not view.is_live
    assert view.console.file.getvalue()


def test_quiet_is_quiet(capsys) -> None:
    with LiveView(quiet=True) as view:
        view.notice("nothing")
        view.show(total=1)
    assert capsys.readouterr().err == ""
