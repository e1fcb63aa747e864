"""The first complaint about a file or a value that a model checks, in one line and in the user's words."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tileseg.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Model = TypeVar("_Model", bound=BaseModel)


def read_toml(path: Path, model: type[_Model]) -> _Model:
    """What a TOML file says, checked by ``model``. Raises InputError in one line."""
    try:
        return model.model_validate(toml_of(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, model)}") from error


def toml_of(path: Path) -> dict[str, Any]:
    """What a TOML file says, unchecked. Raises InputError in one line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {first_problem(error)}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error


def first_problem(error: ValidationError | UnicodeDecodeError, model: type[BaseModel] | None = None) -> str:
    """The first complaint of a validation error as ``field: what is wrong``, in one line.

    Where a key is none of ``model``'s, or a table is missing, it names those that are.
    """
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    problems = error.errors()
    first, place = problems[0], problems[0]["loc"]
    match first["type"]:
        case "missing" if isinstance(place[-1], int):  # the values of a list that is too short, one complaint each
            given, place = place[-1], place[:-1]
            said = f"has {given} value{'s' * (given != 1)}; expected {given + _absent(problems, place)}"
        case "missing":
            said = "is missing"
        case "extra_forbidden":
            known = _keys(model, place[:-1])
            choice = f"; expected one of {', '.join(known)}" if known else ""
            said = f"is not known{did_you_mean(str(place[-1]), known)}{choice}"
        case "model_type":
            said = f"expected a table of {', '.join(_keys(model, place))}, not {reprlib.repr(first['input'])}"
        case "tuple_type" | "list_type":
            said = f"expected a list, not {reprlib.repr(first['input'])}"
        case "literal_error":
            expected = first["ctx"]["expected"]  # 'a', 'b' or 'c'
            known = expected.replace("'", "").replace(" or ", ", ").split(", ")
            said = f"{reprlib.repr(first['input'])}: expected {expected}{did_you_mean(str(first['input']), known)}"
        case _:
            said = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in place)
    return f"{where}: {said}" if where else said


def _absent(problems: Sequence[ErrorDetails], place: tuple[int | str, ...]) -> int:
    return sum(problem["type"] == "missing" and problem["loc"][:-1] == place for problem in problems)


def _keys(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> list[str]:
    """What may be said at a place in a model, as users write it."""
    for part in place:  # positions in lists, which name no field, are passed over
        fields = {} if model is None else model.model_fields
        field = next((field for name, field in fields.items() if part in (name, field.alias)), None)
        model = model if field is None else _model_in(field.annotation)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, itself or as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
