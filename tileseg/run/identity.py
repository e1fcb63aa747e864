"""What must match for a run to go on in a folder, and which sizes may change on the way.

Three kinds of facts are kept in ``run.json`` and ``summary.json``:

* the identity: scene, model, card, area and options. All of it must match;
* what was chosen: block, tile, step, batch; engine, form of the network and precision. An earlier call's are kept;
* what the user asked for of them: ``--window`` and ``--batch``. Where the network's arithmetic does not depend on the
  window (float32, or int8, whose sums are whole numbers) and tiles are exact, other windows and batches give the same
  labels, so these may change (``--max-memory`` lowered after a kill, for example); blocks stay, because each is a shard
  of the mosaic. Otherwise another size is another result, and refused.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from tileseg.engine.choice import Choice
from tileseg.engine.kinds import engine_kind, how_to_get
from tileseg.errors import InputError, UsageError
from tileseg.plan import Plan, Precision
from tileseg.run.ledger import Ledger
from tileseg.run.names import STATE
from tileseg.run.sizes import shown_window
from tileseg.spec import ALGORITHM, VectorOptions
from tileseg.storage.digest import vector_sha256
from tileseg.storage.place import Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from tileseg.card import ModelCard
    from tileseg.run.prepare import PreparedRun
    from tileseg.spec import RunSpec

_SIZES_ASKED = ("window", "batch")
"""Options that decide sizes only: they are compared where sizes decide what comes out."""
_VECTOR_OPTIONS = frozenset(VectorOptions.model_fields) - {"pixel_size", "raw"}
"""Options that decide the polygons and nothing else: a finished run makes them anew from its mosaic. The others hold
what ``raw`` decides."""


def identity_of(spec: RunSpec, card: ModelCard, scene: str, base: Fraction) -> dict[str, Any]:
    """What must be the same for a run to go on in a folder, as JSON values.

    ``scene``: identity of the scene's file; ``base``: scale at which the model sees the scene.
    """
    apart = {"model", "aoi", *_SIZES_ASKED}
    return {
        "algorithm": ALGORITHM,
        "scene": scene,
        "model": card.sha256,
        "card": card.decides,
        "scale": str(base),
        "aoi": None if spec.aoi is None else vector_sha256(spec.aoi),
        **{name: value for name, value in spec.choices().items() if name not in apart},
        "formats": sorted(spec.formats),  # they are the same files in any order
    }


class Sizes(BaseModel):
    """The sizes that a call chose, as ``run.json`` keeps them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: tuple[int, int]
    tile: tuple[int, int]
    step: tuple[int, int]
    batch: int
    precision: Precision
    engine: str
    form: str
    """Name of the form's file."""
    form_sha256: str
    window_asked: int | None
    """``--window`` of the call that chose them."""
    batch_asked: int | None
    """``--batch`` of that call."""

    @classmethod
    def of(cls, plan: Plan, spec: RunSpec) -> Self:
        """The sizes of a plan, and what was asked for."""
        return cls(
            block=plan.block, tile=plan.tile, step=plan.step, batch=plan.batch, precision=plan.precision,
            engine=plan.engine, form=plan.form, form_sha256=plan.card.form(plan.form).sha256,
            window_asked=spec.window, batch_asked=spec.batch,
        )  # fmt: skip

    def apply(self, plan: Plan) -> Plan:
        """The plan with these sizes, this engine and this form."""
        return replace(
            plan, block=self.block, tile=self.tile, step=self.step, batch=self.batch, precision=self.precision,
            engine=self.engine, form=self.form,
        )  # fmt: skip

    def choice(self, card: ModelCard) -> Choice:
        """What the earlier call computed with. Raises UsageError where the model folder does not hold it any more."""
        form = next((form for form in card.forms if form.sha256 == self.form_sha256), None)
        if form is None or form.file != self.form:
            raise UsageError(f"was begun with {self.form}, which is another file by now or gone from the model folder")
        return Choice(self.engine, form, self.precision, "as the run was begun")


_UNKNOWN = Sizes(
    block=(1, 1), tile=(1, 1), step=(1, 1), batch=1, precision="float32", engine="", form="", form_sha256="",
    window_asked=None, batch_asked=None,
)  # fmt: skip
"""Sizes of runs of other versions: they are never used, because such runs are not resumed."""


class Record(BaseModel):
    """What a folder says of the run that it belongs to: contents of ``run.json``, and part of ``summary.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: dict[str, JsonValue]
    scene: str
    """Scene that the run is of, as the user named it."""
    begun: str
    """A token of this run: another one that begins anew in the folder has another."""
    sizes: Sizes
    earlier_sizes: tuple[Sizes, ...] = ()
    """Sizes that finished blocks had before they changed, oldest first."""

    @classmethod
    def read(cls, folder: Path | Url) -> Self | None:
        """The record in a folder, or None where no run has begun. Raises InputError where it is none of tileseg's."""
        ledger = Ledger(folder / STATE)
        values = ledger.read_run()
        return None if values is None else cls.parse(values, ledger.run_file)

    @classmethod
    def parse(cls, values: Any, path: Path | Url) -> Self:
        """Make a record from JSON values. Raises InputError, naming the file, where they are of something else."""
        identity = values.get("identity") if isinstance(values, dict) else None
        if isinstance(identity, dict) and identity.get("algorithm") != ALGORITHM:
            # Of another version, which may have written the rest in other words.
            return cls(identity=identity, scene=str(values.get("scene")), begun="", sizes=_UNKNOWN)
        try:
            return cls.model_validate(values)
        except ValidationError:
            raise foreign(path, values) from None

    @classmethod
    def start(cls, prepared: PreparedRun) -> Self:
        """That of a run that begins now."""
        return cls(
            identity=_as_json(prepared.identity),
            scene=str(prepared.spec.scene),
            begun=uuid4().hex,
            sizes=Sizes.of(prepared.plan, prepared.spec),
        )


def _as_json(values: Any) -> Any:
    """Values as they are read again."""
    return json.loads(json.dumps(values))


def foreign(path: Path | Url, found: object) -> InputError:
    """The refusal of a file that has the name of one of ours and is none."""
    kind = "a JSON object of something else" if isinstance(found, dict) else f"JSON of {_KINDS[type(found)]}"
    return InputError(
        f"{path}: not written by tileseg: found {kind}, expected a run's record; "
        "choose another --out, or start anew with --overwrite"
    )


_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def differences(prepared: PreparedRun) -> list[str]:
    """What was otherwise when the folder was made, by name; empty where it is new or the same. Raises InputError."""
    record = Record.read(prepared.folder)
    return [] if record is None else _differing(prepared, record)


def _differing(prepared: PreparedRun, record: Record) -> list[str]:
    before, now = record.identity, _as_json(prepared.identity)
    if before.get("algorithm") != now["algorithm"]:
        return ["algorithm"]
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if set(names) - _VECTOR_OPTIONS:
        return names  # of another card or scale, say, whose sizes are none of this one's
    return [*names, *_other_sizes(prepared, record)]


def _other_sizes(prepared: PreparedRun, record: Record) -> list[str]:
    """Sizes that were asked for otherwise, where they decide what comes out."""
    if sizes_are_free(record.sizes.apply(prepared.plan)):
        return []
    asked = {"window": record.sizes.window_asked, "batch": record.sizes.batch_asked}
    return [name for name, value in asked.items() if value != getattr(prepared.spec, name)]


def sizes_are_free(plan: Plan) -> bool:
    """Whether other windows and batches give the same labels, and logits within float32's rounding."""
    return plan.exact and plan.precision in ("float32", "int8")


def resumed(prepared: PreparedRun, record: Record) -> tuple[PreparedRun, Record]:
    """The run as it goes on in a folder that was begun, with the sizes that it has from now on, and its new record.

    The earlier sizes are kept, so that the result is byte-identical, unless the user asks for other windows or batches,
    or for less memory than the earlier ones take. Raises UsageError where something else differs that decides more than
    polygons, or where other sizes would give another result.
    """
    refuse_other(prepared, record)
    try:
        choice = record.sizes.choice(prepared.card)
    except UsageError as error:
        raise UsageError(f"{prepared.folder}: {error}; bring it back, or start anew with --overwrite") from None
    prepared = replace(prepared, sizing=prepared.sizing.at(choice))
    now = record.model_copy(update={"identity": _as_json(prepared.identity)})
    allowed = prepared.spec.max_memory
    kept = prepared.sizing.fed(record.sizes.apply(prepared.plan), allowed or prepared.max_memory)
    too_much = allowed is not None and kept.memory.total > allowed
    asked = prepared.spec.window, prepared.spec.batch
    other = asked not in ((None, None), (record.sizes.window_asked, record.sizes.batch_asked))
    if not too_much and not other:
        return replace(prepared, plan=kept, size_notices=()), now
    assert allowed is not None or other
    if not sizes_are_free(kept):
        raise UsageError(
            f"{prepared.folder}: --max-memory {_gib(allowed or 0)} is less than the {_gib(kept.memory.total)} that its "
            f"windows of {shown_window(kept)} pixels take, and in {kept.precision}{_blended(kept)} other windows would "
            "give another result; raise --max-memory, lower --workers, or start anew with --overwrite"
        )
    try:
        plan = prepared.sizing.plan(allowed if allowed is not None else prepared.max_memory, record.sizes.block)
    except UsageError as error:
        rows, cols = record.sizes.block
        raise UsageError(
            f"{prepared.folder}: was begun in blocks of {cols}x{rows} pixels, which stay: {error}; "
            "or start anew with --overwrite"
        ) from error
    notices: tuple[str, ...] = ()
    if (plan.tile, plan.batch) != (kept.tile, kept.batch):
        before, after = (f"{shown_window(each)}, {each.batch} at a time" for each in (kept, plan))
        notices = (f"windows of {after}, instead of {before} as in the blocks that are done",)
        now = now.model_copy(update={"earlier_sizes": (*now.earlier_sizes, now.sizes)})
    now = now.model_copy(update={"sizes": Sizes.of(plan, prepared.spec)})
    return replace(prepared, plan=plan, size_notices=notices), now


def check_engine(prepared: PreparedRun) -> None:
    """Raise UsageError where blocks are left to compute and the engine of the earlier ones is not here."""
    name = prepared.plan.engine
    if prepared.spec.remote is None and engine_kind(name).missing:
        raise UsageError(f"{prepared.folder}: was begun with another engine: {how_to_get(name)}")


def _blended(plan: Plan) -> str:
    return "" if plan.exact else " with approximate seams"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"


def polygons_differ(prepared: PreparedRun, record: Record) -> bool:
    """Whether options that decide the polygons are other ones than before."""
    now = _as_json(prepared.identity)
    return any(record.identity.get(name) != now[name] for name in _VECTOR_OPTIONS)


def tracing_differs(prepared: PreparedRun, record: Record) -> bool:
    """Whether the polygons of single blocks would be other ones, and not only what is made of them."""
    now = _as_json(prepared.identity)
    return any(record.identity.get(name) != now[name] for name in ("classes", "connectivity"))


def refuse_other(prepared: PreparedRun, record: Record) -> None:
    """Raise UsageError in one line where a folder was made with something else.

    Options that decide polygons alone may differ where the mosaic keeps what they are made of.
    """
    names = _differing(prepared, record)
    if set(names) <= _VECTOR_OPTIONS and (not names or prepared.plan.keep != "labels"):
        return
    what = "made with other options"
    if names == ["algorithm"]:
        what = "made by another version of tileseg, whose results may differ"
    elif "scene" in names:
        same = record.scene == str(prepared.spec.scene)
        what = (
            "made of the scene as it was before it changed" if same else f"belongs to {record.scene or 'another scene'}"
        )
    # The scale follows from the scene's pixels.
    rest = [name for name in names if name not in ({"scene", "scale"} if "scene" in names else {"algorithm"})]
    listed = [text for name in rest for text in _difference(name, prepared, record)]
    if set(names) <= _VECTOR_OPTIONS:
        listed.append(
            "with --keep labels there are no probabilities to make polygons anew with; "
            f"tileseg vectorize {shlex.quote(str(prepared.folder))} makes them without"
        )
    why = f" ({'; '.join(listed)})" if listed else ""
    raise UsageError(f"{prepared.folder}: {what}{why}; choose another --out, or start anew with --overwrite")


def _difference(name: str, prepared: PreparedRun, record: Record) -> list[str]:
    """What differs, in the user's words."""
    was, now = record.identity.get(name), prepared.identity.get(name)
    match name:
        case "aoi" if was is None or now is None:
            return [f"it was made {'without' if was is None else 'with'} --aoi"]
        case "aoi":
            return ["the area of interest was another"]
        case "model":
            return ["the model was another"]
        case "card":
            return _card_differences(was, _as_json(now))
        case "scale":
            return [f"the scene was resampled by {was}, is by {now}"]
        case "window" | "batch":
            asked = record.sizes.window_asked if name == "window" else record.sizes.batch_asked
            return [f"{name} was {_short(asked)}, is {_short(getattr(prepared.spec, name))}"]
        case _:
            option = "format" if name == "formats" else name.replace("_", "-")
            return [f"{option} was {_short(was)}, is {_short(now)}"]


def _card_differences(was: Any, now: dict[str, Any]) -> list[str]:
    if not isinstance(was, dict):
        return ["the model's card was another"]
    return [
        f"the card's {place} was {_short(before)}, is {_short(after)}"
        for name in {**was, **now}
        for place, before, after in _changes(name, was.get(name), now.get(name))
    ]


def _changes(place: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where in two JSON values something differs, and what: ``classes.1.name``, ``"roof"``, ``"house"``."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in now:
            yield from _changes(f"{place}.{name}", was.get(name), now[name])
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now) and isinstance((*now, 0)[0], dict):
        for i, (before, after) in enumerate(zip(was, now, strict=True)):
            yield from _changes(f"{place}.{i}", before, after)
    elif was != now:
        yield place, was, now


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 32 else f"{text[:12]}..."
