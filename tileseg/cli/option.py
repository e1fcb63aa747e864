"""How options of commands are declared: each once, as a field of a small value; a command takes a few such values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import typer

from tileseg.errors import UsageError, did_you_mean

Choice = TypeVar("Choice", bound=str)


def option(panel: str, text: str, *names: str, metavar: str | None = None) -> Any:
    """An option under a heading of the help; ``names`` where the field's own is not it."""
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flat signature that Typer reads: one parameter per option.

    A parameter of the command whose type is a dataclass stands for the fields of it, in their order, and where a field
    is a dataclass too, for the fields of that. Any other parameter stays as it is. What Typer then passes is gathered
    into the dataclasses again. Raises TypeError where two fields have one name.
    """
    hints = get_type_hints(command, include_extras=True)
    whole = inspect.signature(command).parameters
    flat = [p for name, given in whole.items() for p in _parameters(name, hints[name], given.default)]
    names = [parameter.name for parameter in flat]
    if len(set(names)) < len(names):
        raise TypeError(f"{command.__qualname__}: two options have one name: {sorted(names)}")

    @wraps(command)
    def expanded(**values: Any) -> None:
        command(**{name: _gathered(name, hints[name], values) for name in whole})

    expanded.__signature__ = inspect.Signature(flat, return_annotation=None)  # type: ignore[attr-defined]
    expanded.__annotations__ = {**{parameter.name: parameter.annotation for parameter in flat}, "return": None}
    return expanded


def chosen(options: Any) -> dict[str, Any]:
    """What the user has chosen, of all fields of a dataclass and of the dataclasses in it: those that are not None."""
    found: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            found |= chosen(value)
        elif value is not None:
            found[field.name] = value
    return found


def one_of(name: str, text: str, choices: tuple[Choice, ...]) -> Choice:
    """The choice that an option's text is. Raises UsageError, naming the option, if it is none."""
    for choice in choices:
        if choice == text:
            return choice
    raise UsageError(f"{name} {text}: expected one of {', '.join(choices)}{did_you_mean(text, choices)}")


def _parameters(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    if not is_dataclass(hint):
        # By keyword, so that one without a default may follow one that has it.
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        preset = inspect.Parameter.empty if field.default is MISSING else field.default
        yield from _parameters(field.name, hints[field.name], preset)


def _gathered(name: str, hint: Any, values: Mapping[str, Any]) -> Any:
    if not is_dataclass(hint):
        return values[name]
    hints = get_type_hints(hint)
    kind: Any = hint
    return kind(**{field.name: _gathered(field.name, hints[field.name], values) for field in fields(hint)})
