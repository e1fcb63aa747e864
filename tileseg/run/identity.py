"""What must be the same for a run to go on in a folder."""

from __future__ import annotations

import json
from typing import Any

from tileseg.errors import (
    UsageError,
)
from tileseg.run.ledger import Ledger
from tileseg.run.names import STATE
from tileseg.run.prepare import PreparedRun


def differences(prepared: PreparedRun) -> list[str]:
    """What was otherwise when the folder was made: names of the identity; empty where it is new. Raises InputError."""
    earlier = Ledger(prepared.folder / STATE).read_run()
    return [] if earlier is None else _differing(prepared, earlier["identity"])


def _differing(prepared: PreparedRun, before: dict[str, Any]) -> list[str]:
    now = json.loads(json.dumps(prepared.identity))
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


def refuse_other(prepared: PreparedRun, before: dict[str, Any], scene: str | None) -> None:
    """``scene``: of which the folder was made, as far as that is known."""
    differ = _differing(prepared, before)
    if not differ:
        return
    what = "made with other options"
    if "scene" in differ:
        same = scene == str(prepared.spec.scene)
        what = "made of the scene as it was before it changed" if same else f"belongs to {scene or 'another scene'}"
        differ = [name for name in differ if name not in ("scene", "scale")]  # which follows from the scene's pixels
    told = [_difference(name, before.get(name), prepared.identity.get(name)) for name in differ]
    why = f" ({'; '.join(told)})" if told else ""
    raise UsageError(f"{prepared.folder}: {what}{why}; choose another --out, or start anew with --overwrite")


def _difference(name: str, was: Any, now: Any) -> str:
    """What differs, in the user's words: areas, models and versions are known by digests, which say nothing."""
    match name:
        case "aoi" if was is None or now is None:
            return f"it was made {'without' if was is None else 'with'} --aoi"
        case "aoi":
            return "the area of interest was another"
        case "model":
            return "the model was another"
        case "algorithm":
            return "it was made by another version of tileseg"
        case "scale":
            return f"the scene was resampled by {was}, is by {now}"
        case _:
            option = "format" if name == "formats" else name.replace("_", "-")
            return f"{option} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 32 else f"{text[:12]}..."
