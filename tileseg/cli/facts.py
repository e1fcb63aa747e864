"""What no graph says of itself, in the words of the command line: the options of ``model pack``, and ``--fact``."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tileseg.cli.option import one_of
from tileseg.errors import UsageError, did_you_mean
from tileseg.storage.local import cache_folder

if TYPE_CHECKING:
    from tileseg.card import ClassInfo, Scaling
    from tileseg.nn.description import Description

DEFAULTS: dict[str, str | float | None] = {
    "classes": None, "bands": "red,green,blue", "name": None, "background": None, "scaling": "fixed", "center": None,
    "width": None, "divisor": 1.0, "mean": "0", "std": "1", "output": None, "activation": "logits", "gsd": None,
    "dtypes": "uint8", "min_area": None, "fill_holes": None, "regularize": None, "tolerance": None,
}  # fmt: skip
"""Facts of a network, and what they are where nobody says."""


def describe(facts: Mapping[str, Any], name: str) -> Description:
    """A network's description by facts named as in :data:`DEFAULTS`; ``name``: where they give none.

    Raises UsageError in one line.
    """
    from pydantic import ValidationError

    from tileseg.card import HandedOver
    from tileseg.nn.description import Description
    from tileseg.problems import first_problem

    try:
        return Description(
            name=facts["name"] or name,
            bands=_names(facts["bands"]),
            classes=_classes(facts["classes"], _names(facts["background"] or "")),
            scaling=_scaling(facts),
            dtypes=_names(facts["dtypes"]),
            ground_sample_distance=_number("gsd", facts["gsd"]),
            activation=one_of("--activation", facts["activation"], ("logits", "softmax", "sigmoid")),
            hands_over=HandedOver(
                min_area=facts["min_area"],
                fill_holes=facts["fill_holes"],
                regularize=_names(facts["regularize"] or ""),
                tolerance=facts["tolerance"],
            ),
        )
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error


def packed(asked: dict[str, Any]) -> dict[str, Any]:
    """The options of a run, whose model may be a network's file with ``facts``: it is packed, once, into a cache.

    ``facts``: ``NAME=VALUE`` each. Raises UsageError or InputError in one line.
    """
    given = asked.pop("facts", None)
    if given is None:
        return asked
    from tileseg.nn.packing import PACKERS, pack
    from tileseg.storage.digest import file_sha256

    file = Path(str(asked.get("model", "")))
    if file.suffix not in PACKERS or not file.is_file():
        raise UsageError(f"--fact is for a network's own file: expected --model NETWORK{' or NETWORK'.join(PACKERS)}")
    facts: dict[str, Any] = DEFAULTS | _pairs([given] if isinstance(given, str) else given)
    if facts["classes"] is None:
        raise UsageError(f"{file}: which classes does it give? --fact classes=NAME[:#RRGGBB],...")
    key = hashlib.sha256(json.dumps([file_sha256(file), facts], sort_keys=True).encode()).hexdigest()[:16]
    folder = _cache() / key / file.stem
    if not (folder / "card.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as begun:
            pack(file, Path(begun) / file.stem, describe(facts, file.stem), facts["output"])
            try:
                (Path(begun) / file.stem).rename(folder)
            except OSError:  # another command was quicker
                if not (folder / "card.json").is_file():
                    raise
    return asked | {"model": str(folder)}


def _cache() -> Path:
    """Where packed networks are kept."""
    folder = cache_folder("models")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / f"tileseg-models-{os.getuid()}"
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / f"tileseg-models-{os.getuid()}"


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in DEFAULTS:
            raise UsageError(
                f"--fact {text}: expected NAME=VALUE with a name of {', '.join(DEFAULTS)}{did_you_mean(name, DEFAULTS)}"
            )
        pairs[name] = value
    return pairs


def _scaling(facts: Mapping[str, Any]) -> Scaling:
    from tileseg.card import Scaling

    return Scaling(
        kind=one_of("--scaling", facts["scaling"], ("fixed", "scene", "window")),
        center=_number("center", facts["center"]),
        width=_number("width", facts["width"]),
        divisor=_number("divisor", facts["divisor"]) or 0.0,
        mean=_numbers(facts["mean"]),
        std=_numbers(facts["std"]),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        raise UsageError(f"{name} {value}: expected a number") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers such as 0.485,0.456,0.406") from None


def _classes(text: str, background: tuple[str, ...]) -> tuple[ClassInfo, ...]:
    """``NAME:#RRGGBB,NAME,...``: without a colour a class gets one by its place among them."""
    from tileseg.card import ClassInfo, default_color

    # What follows the last colon is a colour, or a mistake in one.
    pairs = [part.rpartition(":") if ":" in part else (part, "", "") for part in _names(text)]
    if any(not name or (colon and not color) for name, colon, color in pairs):
        raise UsageError(
            f"--classes {text}: expected NAME,... or NAME:#RRGGBB,... such as ground:#c8b99a,building:#d9544d"
        )
    if len(pairs) < 2:
        raise UsageError(
            f"--classes {text}: expected at least two classes; what is none of yours is one too: "
            "background (with --background background)"
        )
    unknown = set(background) - {name for name, _, _ in pairs}
    if unknown:
        raise UsageError(f"--background {', '.join(sorted(unknown))}: not among --classes")
    return tuple(
        ClassInfo(
            name=name,
            color=color or default_color(i, background=name in background),
            background=name in background,
        )
        for i, (name, _, color) in enumerate(pairs)
    )
