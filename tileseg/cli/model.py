"""``tileseg model``: look at a model, prove its halo, bring your own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tileseg.cli import export, quantize
from tileseg.cli.facts import describe
from tileseg.cli.option import expand, one_of
from tileseg.cli.pack_options import HandingOptions, MeaningOptions, OutputOptions, ValueOptions
from tileseg.errors import InputError

if TYPE_CHECKING:
    from tileseg.card import Form, ModelCard, PlaceCalibration, Scaling

app = typer.Typer(no_args_is_help=True)
app.command("quantize")(quantize.command)
app.command("export")(export.command)

_Model = Annotated[str, typer.Argument(metavar="MODEL", help="`embedded`, or a model folder.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks.")]


@app.command()
def info(
    model: _Model = "embedded",
    as_json: _Json = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the options of its training too, and tracebacks.")
    ] = False,
) -> None:
    """Print what MODEL expects and gives, and its scores. Reads the card only."""
    from tileseg.nn.folder import load_card, resolve_model

    card = load_card(resolve_model(model))
    if as_json:
        typer.echo(card.model_dump_json(indent=2))
    else:
        _print(_facts(card) | (_settings(card) if verbose else {}))


@app.command("list")
def list_models(as_json: _Json = False) -> None:
    """List the models that come with tileseg, by the names that --model takes."""
    from tileseg.nn.folder import load_card, packaged_models

    cards = {name: load_card(folder) for name, folder in packaged_models().items()}
    rows = {name: _short(card) for name, card in cards.items()}
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print({name: "; ".join(f"{what} {value}" for what, value in facts.items()) for name, facts in rows.items()})


def _short(card: ModelCard) -> dict[str, str]:
    """What tells one model from another."""
    elsewhere = next((text for name, text in _elsewhere(card.training.get(_ELSEWHERE)).items() if "mean" in name), None)
    facts = {
        "finds": ", ".join(info.name for info in card.classes if not info.background),
        "in": ", ".join(card.bands),
        "at": f"{card.ground_sample_distance:g} m per pixel" if card.ground_sample_distance else "any size of pixel",
        "parameters": f"{card.parameters:,}",
    }
    return facts if elsewhere is None else {**facts, "elsewhere": elsewhere}


@app.command()
def check(
    model: _Model = "embedded",
    engine: Annotated[str, typer.Option(help="As for `tileseg run`.")] = "auto",
    precision: Annotated[str, typer.Option(help="As for `tileseg run`.")] = "auto",
    as_json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Derive stride and halo from MODEL's graph, compare the card, and prove them on a random scene.

    The scene is predicted once whole and once in tiles, by the engine that a run takes here or the one that you name;
    exit code 42 where they differ by more than rounding, or at all in int8.
    """
    del verbose  # main() looks for it
    from tileseg.engine.choice import choose
    from tileseg.engine.proof import FAR, Provable, prove
    from tileseg.engine.registry import open_network
    from tileseg.nn.folder import load_card, resolve_model
    from tileseg.run.prepare import device_of, this_machine
    from tileseg.spec import PRECISIONS

    folder = resolve_model(model)
    card = load_card(folder)
    machine, _ = this_machine()
    choice = choose(card, engine, one_of("--precision", precision, PRECISIONS), device_of(machine))
    network = open_network(folder, card, machine.cpu.cores, engine=choice.engine, form=choice.form.file)
    facts: dict[str, object] = {
        "model": card.name,
        "engine": choice.engine,
        "form": choice.form.file,
        "precision": choice.precision,
        "stride": card.stride,
        "radius": card.radius,
        "halo": card.halo,
        "local": card.local,
        "nonlocal_layers": list(card.nonlocal_layers),
    }
    holds = True
    if card.local:
        if not isinstance(network, Provable):
            raise InputError(f"{folder}: its engine has no plain way to compute it that tiles could be compared with")
        proof = prove(network, choice.precision)
        holds = proof.holds
        facts |= {
            "scene": list(proof.scene),
            "tile": list(proof.tile),
            "largest_difference": proof.largest,
            "over_standard_deviation": proof.relative,
            "far_from_the_first_pixel": proof.far,
            "difference_by_folding": proof.folded,
            "exact": holds,
        }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print({name.replace("_", " "): _text(value) for name, value in facts.items()})
        if card.local and holds:
            typer.echo("Tiles equal the whole.")
        elif not card.local:
            typer.echo("Not local: tiles cannot equal the whole, so runs blend them (--stitch hann).")
    if not holds:
        raise InputError(
            f"{folder}: tiles differ from the whole by {proof.relative:.2g} standard deviations with a halo of "
            f"{proof.halo}, and by {proof.far:.2g} at pixel {FAR} of a strip (expected at most {proof.tolerance:g}), "
            f"and the network as a run computes it from the graph by {proof.folded / (proof.deviation or 1):.2g} (at "
            f"most {proof.folded_tolerance:.2g}): a layer does not do what its kind says"
        )


@app.command()
@expand
def pack(
    archive: Annotated[Path, typer.Argument(help="A .keras file, saved by Keras 3, an .onnx or a .tflite file.")],
    folder: Annotated[Path, typer.Argument(help="Where to make the model folder.")],
    meaning: MeaningOptions,
    values: ValueOptions,
    output: OutputOptions,
    handing: HandingOptions,
    verbose: _Verbose = False,
) -> None:
    """Make a model folder from a .keras, .onnx or .tflite file: the card comes from its graph and what you say here."""
    del verbose
    from tileseg.nn.packing import pack as pack_model

    facts = asdict(meaning) | asdict(values) | asdict(output) | asdict(handing)
    card = pack_model(archive, folder, describe(facts, folder.resolve().name), output.output)
    _print(_facts(card))
    typer.echo(f"{folder}: packed; prove it with: tileseg model check {folder}")


def _facts(card: ModelCard) -> dict[str, str]:
    """The card as rows of a table."""
    shown = {
        "name": card.name,
        "description": card.description,
        "bands": ", ".join(card.bands),
        "pixel types": ", ".join(card.dtypes),
        "scaling": _formula(card.scaling),
        "ground sample distance": f"{card.ground_sample_distance:g} m" if card.ground_sample_distance else "any",
        "classes": ", ".join(
            f"{i} {c.name} {c.color}{' (background)' if c.background else ''}" for i, c in enumerate(card.classes)
        ),
        "gives": card.activation,
        "stride": f"{card.stride} px",
        "halo": f"{card.halo} px (radius {card.radius})" if card.local else "none: tiles are blended",
        "not local": ", ".join(card.nonlocal_layers),
        "hands over": card.hands_over.told,
        "cost": f"{card.flops_per_pixel / 1e3:,.0f} kFLOP and {card.activation_bytes_per_pixel:,.0f} bytes per pixel",
        "parameters": f"{card.parameters:,}",
        **_rows_of(card.training),
        "temperature": _temperature(card),
        **{
            f"confidence, {name}": f"chance to match a real object at IoU 0.5 ({_errors(chance.places)}; {chance.data})"
            for name, chance in card.objects.items()
        },
        "looks": _looks(card),
        "credits": "; ".join(card.credits),
        **{form.file: _form(form) for form in card.forms},
    }
    return {name: value for name, value in shown.items() if value}


def _temperature(card: ModelCard) -> str:
    """What logits are divided by, and how far probabilities are off without and with it."""
    found = card.temperature
    return "" if found is None else f"{found.value:g} ({_errors(found.places)}; {found.data})"


def _looks(card: ModelCard) -> str:
    """From which distance on a scene looks unlike those of the training."""
    usual = card.appearance
    if usual is None:
        return ""
    return f"a scene farther than {usual.far:g} looks unlike the training's ({_text(usual.places)} from the others)"


def _errors(places: Sequence[PlaceCalibration]) -> str:
    """How far probabilities are off, as means over places."""
    before, after = (
        sum(getattr(place, name) for place in places) / max(1, len(places)) for name in ("ece_before", "ece_after")
    )
    return f"calibration error {before:.3f} without, {after:.3f} with"


def _form(form: Form) -> str:
    """What one file of the network is."""
    parts: list[str] = [form.precision]
    if form.loss is not None:
        loss = form.loss
        parts.append(f"{loss.told} (in one scene {100 * loss.worst_iou:.2f} points; {loss.data})")
        parts.append(f"{100 * loss.labels:.2f} % of labels differ")
    if form.calibration:
        parts.append(f"calibrated with {_text(form.calibration)}")
    return ", ".join([*parts, f"SHA-256 {form.sha256}"])


_SETTINGS = "spec"
"""Where the card of a model that was trained by tileseg has the options: too many to be read among other facts."""
_BY_SCENE = "iou_by_scene"
_BY_PLACE = "iou_by_place"
"""Score of each place; of older cards, of each scene only."""
_BY_KIND = "iou_by_kind"
"""Score of real and of drawn places apart, where there are drawn ones."""
_DRAWN = ("drawn_places", "drawn_scenes")
_ELSEWHERE = "elsewhere"
"""Scores of places that the model was not trained on, a table each: place, iou, f1, images."""


def _rows_of(training: Mapping[str, object]) -> dict[str, str]:
    """The training's scores, a row each: of each class over all validation places, of each of these; elsewhere."""
    rows, parts, rest = dict[str, str](), dict[str, str](), dict[str, object]()
    drawn = [name for key in _DRAWN if isinstance(names := training.get(key), list) for name in names]
    shown = _BY_PLACE if _BY_PLACE in training else _BY_SCENE
    for name, fact in training.items():
        if name == shown and isinstance(fact, dict):
            names = {part: f"{part} (drawn)" if part in drawn else part for part in fact}
            parts |= {f"IoU in {names[part]}": _text(scores) for part, scores in fact.items()}
        elif name == _BY_KIND and isinstance(fact, dict):
            parts = {**{f"IoU in {kind} scenes": _text(scores) for kind, scores in fact.items()}, **parts}
        elif name == "mean_iou" or (name.startswith("iou_") and isinstance(fact, float)):
            rows["mean IoU" if name == "mean_iou" else f"IoU {name.removeprefix('iou_')}"] = _text(fact)
        elif name not in (_SETTINGS, _ELSEWHERE, _BY_SCENE, *_DRAWN):
            rest[name] = fact
    return {**rows, **parts, "training": _text(rest), **_elsewhere(training.get(_ELSEWHERE))}


def _elsewhere(places: object) -> dict[str, str]:
    """What the model reaches where it was not trained, a row for each place, after their mean."""
    tables = [place for place in places if isinstance(place, dict)] if isinstance(places, list) else []
    if not tables:
        return {}
    scores = dict.fromkeys(
        name for place in tables for name, value in place.items() if isinstance(value, float) and name != "place"
    )
    known = {name: [value for place in tables if isinstance(value := place.get(name), float)] for name in scores}
    means = {name: sum(values) / len(values) for name, values in known.items()}
    rows = {f"elsewhere, mean of {len(tables)} place{'s' * (len(tables) != 1)}": _text(means)}
    return rows | {
        f"elsewhere, {place.get('place', 'a place')}": _text({n: v for n, v in place.items() if n != "place"})
        for place in tables
    }


def _settings(card: ModelCard) -> dict[str, str]:
    """The options of the training."""
    return {"training options": _text(card.training[_SETTINGS])} if card.training.get(_SETTINGS) else {}


def _formula(scaling: Scaling) -> str:
    """What is done to pixel values."""
    if scaling.kind == "scene":
        return f"value / {scaling.divisor:g}, then mean 0 and deviation 1 over each scene"
    low, high = scaling.limits
    unit = f"clip(value, {low:g}, {high:g})" if scaling.kind == "window" else "value"
    unit += f" - {low:g}" if low > 0 else f" + {-low:g}" if low < 0 else ""
    unit = f"({unit})" if low else unit
    return f"({unit} / {high - low:g} - {_text(scaling.mean)}) / {_text(scaling.std)}"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name}: {{{_text(part)}}}" if isinstance(part, dict) else f"{name} {_text(part)}"
            for name, part in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part) for part in value) or "none"
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print(rows: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, markup=False).print(table)
