"""The README's table of options, and the text around it, name what the command takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from tileseg.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = {"--help", "--install-completion", "--show-completion"}


def options(name: str | None = None) -> set[str]:
    """All spellings of the options of a command, or of all commands."""
    command = typer.main.get_command(app)
    commands = [command] if name is None else [command.commands[name]]  # type: ignore[attr-defined]
    found: set[str] = set()
    while commands:
        one = commands.pop()
        commands.extend(getattr(one, "commands", {}).values())
        found.update(text for option in one.params for text in (*option.opts, *option.secondary_opts))
    return {text for text in found if text.startswith("-")}


def short_or_long(name: str) -> list[tuple[str, ...]]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return [tuple(text for text in option.opts if text.startswith("-")) for option in command.params]


def test_the_readme_names_every_option_of_a_run() -> None:
    named = set(re.findall(r"(?<![\w-])-{1,2}[a-z][a-z-]*", README))
    assert [spellings for spellings in short_or_long("run") if spellings and not named & set(spellings)] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_options_that_docs_give_to_commands_exist(page: str) -> None:
    known = options() | OTHERS
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"(?m)^(?:\$ )?tileseg [a-z].*$", text)
    given = {option for call in calls for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", call.split("  #")[0])}
    assert given - known == set()
