"""How options of commands are declared."""

from __future__ import annotations

from typing import Any

import typer


def option(panel: str, text: str, *names: str, metavar: str | None = None) -> Any:
    """An option under a heading of the help; ``names`` where the parameter's own is not it."""
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)
