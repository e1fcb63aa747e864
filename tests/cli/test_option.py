"""A command takes a few values; Typer sees one parameter per field of them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tileseg.cli.option import chosen, expand, option


@dataclass(frozen=True, slots=True)
class Size:
    """A value with an option that has to be given and one that need not."""

    height: Annotated[int, option("Size", "Rows.")]
    width: Annotated[int | None, option("Size", "Columns.", "--wide", "-w")] = None


@dataclass(frozen=True, slots=True)
class Options:
    """A value that holds another."""

    size: Size
    tags: Annotated[list[str] | None, option("More", "Words.", "--tag")] = None


def _app(seen: list[object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @expand
    def command(scene: str, out: str = "here", *, options: Options) -> None:
        seen.extend((scene, out, options))

    return app


def test_options_arrive_in_their_values() -> None:
    seen: list[object] = []
    called = CliRunner().invoke(_app(seen), ["a.tif", "--height", "3", "-w", "5", "--tag", "x", "--tag", "y"])
    assert called.exit_code == 0, called.output
    assert seen == ["a.tif", "here", Options(Size(3, 5), ["x", "y"])]
    assert chosen(seen[2]) == {"height": 3, "width": 5, "tags": ["x", "y"]}


def test_what_is_not_given_is_not_chosen() -> None:
    seen: list[object] = []
    assert CliRunner().invoke(_app(seen), ["a.tif", "--height", "3"]).exit_code == 0
    assert chosen(seen[2]) == {"height": 3}


def test_an_option_without_default_has_to_be_given() -> None:
    called = CliRunner().invoke(_app([]), ["a.tif"])
    assert called.exit_code == 2
    assert "--height" in called.output


def test_the_order_of_the_fields_is_the_order_of_the_help() -> None:
    @expand
    def command(options: Options, scene: str) -> None: ...

    assert list(inspect.signature(command).parameters) == ["height", "width", "tags", "scene"]


def test_two_options_of_one_name_are_refused() -> None:
    def command(options: Options, width: int) -> None: ...

    with pytest.raises(TypeError, match="one name"):
        expand(command)
