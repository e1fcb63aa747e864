"""``tileseg evaluate``: parse, call, report."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from tileseg.cli.evaluate_options import ClassOptions, Control, MeasureOptions, RunOptions, SubjectOptions
from tileseg.cli.facts import packed
from tileseg.cli.option import chosen, expand, one_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tileseg.card import PlaceCalibration
    from tileseg.evaluate.evaluate import EvaluateSpec, ModelSpec
    from tileseg.evaluate.results import Evaluation
    from tileseg.run.prepare import PreparedRun
    from tileseg.run.report import Listener

_SIDE_BY_SIDE = 4
"""Classes at most, and of those only as many as fit the terminal."""
_TELLING = ("iou", "precision", "sensitivity", "boundary_iou", "hausdorff95_px", "hausdorff95_m")


@expand
def command(
    dataset: Annotated[
        Path | None, typer.Argument(help="With --model: labelled scenes, as for `tileseg train`.", show_default=False)
    ] = None,
    *,
    subject: SubjectOptions,
    control: Control,
    meaning: ClassOptions,
    measures: MeasureOptions,
    run: RunOptions,
) -> None:
    """Score a model on a DATASET, or existing labels: overlap, borders, calibration, polygons; a table and a page."""
    from tileseg.errors import UsageError
    from tileseg.evaluate.evaluate import SPLITS, Calibrates, EvaluateSpec, ModelSpec

    if [subject.model, subject.labels, subject.pairs].count(None) != 2:
        raise UsageError(
            "what is evaluated? tileseg evaluate --model M DATASET.toml, --labels PRED TRUTH, or --pairs PAIRS.csv"
        )
    scenes = SPLITS.get(subject.split)
    if scenes is None:
        raise UsageError(f"--split {subject.split}: expected one of {', '.join(SPLITS)}")
    spec = EvaluateSpec(
        out=control.out,
        classes=_listed(meaning.classes),
        map_prediction=tuple(meaning.mapping or ()),
        map_truth=tuple(meaning.map_truth or ()),
        attribute=meaning.attribute,
        image=subject.image,
        pixel=subject.pixel,
        boundary=measures.boundary,
        min_area=measures.min_area,
        distances=measures.distances,
        polygons=measures.polygons,
        overwrite=control.overwrite,
        trust_vrt=subject.trust_vrt,
    )
    given, quiet = chosen(run), control.quiet or control.as_json
    if subject.model is None:
        option = "--labels" if subject.pairs is None else "--pairs"
        if dataset is not None or given or subject.places or subject.calibrate:
            raise UsageError(
                f"{option} compares files: DATASET, --places, --calibrate and the options of a run are for --model"
            )
        if subject.pairs is not None and (subject.image or subject.pixel):
            raise UsageError("--image and --pixel are for one pair: --labels PRED TRUTH")
        found = _files(subject, spec, quiet=quiet, verbose=control.verbose)
    else:
        if dataset is None:
            raise UsageError("--model: on which scenes? tileseg evaluate --model M DATASET.toml")
        _refuse(spec)
        if subject.calibrate and run.facts:
            raise UsageError("--calibrate writes into a model's card; pack the network first: tileseg model pack")
        given = packed(given | {"model": subject.model})
        asked = subject.calibrate
        wanted = None if asked is None else one_of("--calibrate", asked, get_args(Calibrates))
        model = ModelSpec(given.pop("model"), dataset, scenes, _listed(subject.places), wanted, given)
        found = _model(model, spec, quiet=quiet, verbose=control.verbose)
    if control.as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    elif not control.quiet:
        _print(found, spec)


def _listed(text: str | None) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _refuse(spec: EvaluateSpec) -> None:
    """Options that a dataset has said already."""
    from tileseg.errors import UsageError

    for name, value in (
        ("--map-truth", spec.map_truth),
        ("--classes", spec.classes),
        ("--attribute", spec.attribute),
        ("--image", spec.image),
        ("--pixel", spec.pixel),
        ("--trust-vrt", spec.trust_vrt),
    ):
        if value:
            raise UsageError(f"{name} is for --labels: with --model, the dataset says it")


def _files(subject: SubjectOptions, spec: EvaluateSpec, *, quiet: bool, verbose: bool) -> Evaluation:
    from tileseg.evaluate.evaluate import evaluate_labels, evaluate_pairs

    with _live(quiet=quiet, verbose=verbose) as (_, compared):
        if subject.pairs is not None:
            return evaluate_pairs(subject.pairs, spec, compared)
        assert subject.labels is not None
        return evaluate_labels(*subject.labels, spec, compared)


def _model(model: ModelSpec, spec: EvaluateSpec, *, quiet: bool, verbose: bool) -> Evaluation:
    from tileseg.evaluate.evaluate import evaluate_model

    with _live(quiet=quiet, verbose=verbose) as (listener, compared):
        return evaluate_model(model, spec, listener, compared)


@contextmanager
def _live(*, quiet: bool, verbose: bool) -> Iterator[tuple[Listener, Callable[[str, int, int], None]]]:
    """One live line at a time: of a run, or of the comparison that follows it."""
    from rich.console import Console
    from rich.status import Status

    from tileseg.cli.progress import RunProgress

    class Runs(RunProgress):
        """The progress of one run after another."""

        def start(self, prepared: PreparedRun, done: int) -> None:
            self.close()
            super().start(prepared, done)

        def notice(self, text: str) -> None:
            status.stop()
            super().notice(text)

    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty(), highlight=False)
    status = Status("", console=console)
    with Runs(quiet=quiet, verbose=verbose) as runs:

        def compared(scene: str, done: int, blocks: int) -> None:
            runs.close()
            status.update(f"comparing {scene}: {done}/{blocks} blocks")
            status.start()
            if done == blocks:
                status.stop()

        try:
            yield runs, compared
        finally:
            status.stop()


def _cell(value: float, name: str, shown: Callable[[float, str], str]) -> str:
    return "-" if math.isnan(value) else shown(value, name)


def _tabled(found: Evaluation, *, beside: bool) -> Table:
    """Scores of the classes: side by side, or below each other with those scores only that say most."""
    from rich.table import Table
    from rich.text import Text

    from tileseg.evaluate.report import COLUMNS, shown

    scores = found.by_class()
    rows = [(info.name, {name: float(scores[name][i]) for name in scores}) for i, info in enumerate(found.classes)]
    rows.append(("mean", found.means()))
    if len(found.foreground) < len(found.classes):
        rows.append(("mean without background", found.means(background=False)))
    measured = [name for name in COLUMNS if name in scores and (beside or name in _TELLING)]
    cells = [[_cell(values[name], name, shown) for name in measured] for _, values in rows]
    names, headings = [name for name, _ in rows], [COLUMNS[name] for name in measured]
    if beside:
        cells, names, headings = [list(row) for row in zip(*cells, strict=True)], headings, names
    table = Table()
    table.add_column(overflow="fold")
    for heading in headings:
        table.add_column(Text("\n".join(heading.rsplit(" ", 1))), justify="right", no_wrap=True)
    for name, row in zip(names, cells, strict=True):
        table.add_row(Text(name), *row)
    return table


def _places_table(found: Evaluation) -> Table:
    """Scores of each place, and their means."""
    from rich.table import Table
    from rich.text import Text

    from tileseg.evaluate.report import PLACE_COLUMNS, place_rows, shown

    rows = place_rows(found)
    names = [name for name in PLACE_COLUMNS if name in rows[0][1]]
    table = Table()
    table.add_column("place", overflow="fold")
    for name in names:
        table.add_column(Text("\n".join(PLACE_COLUMNS[name].rsplit(" ", 1))), justify="right", no_wrap=True)
    for place, scores in rows:
        table.add_row(Text(place), *(_cell(scores[name], name, shown) for name in names))
    return table


_HOW = "with what was found in the other places, if there are any"


def _print_places(places: Sequence[PlaceCalibration], what: str, console: Console) -> None:
    """What was found does in each place."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("place", overflow="fold")
    for heading in (what, "ECE before", "ECE after"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in places:
        table.add_row(Text(one.place), f"{one.count:,}", f"{one.ece_before:.4f}", f"{one.ece_after:.4f}")
    console.print(table)


def _fact(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _print(found: Evaluation, spec: EvaluateSpec) -> None:
    """The table of scores, polygons, and where the outputs are."""
    from rich.console import Console
    from rich.text import Text

    from tileseg.evaluate.evaluate import METRICS, REPORT

    console = Console(highlight=False)
    many = len(found.classes) > _SIDE_BY_SIDE
    table = _tabled(found, beside=True)
    unlimited = console.options.update(max_width=1 << 16)
    if many or console.measure(table, options=unlimited).maximum > console.width:
        table = _tabled(found, beside=False)
    console.print(table)
    facts = found.to_json()
    for name, polygons in () if many else facts["polygons"].items():
        half = next(value for key, value in polygons.items() if key.startswith("at_iou"))
        said = ", ".join(f"{key} {'-' if value is None else f'{value:.3f}'}" for key, value in half.items())
        console.print(
            f"polygons, {name}: {polygons['matched']} of {polygons['true']} found at IoU 0.5, "
            f"{polygons['predicted']} predicted; {said}"
        )
        outlines = polygons["outlines"]
        vertices, angles = (
            f"{_fact(outlines['predicted'][name], form)} (true ones: {_fact(outlines['true'][name], form)})"
            for name, form in (("median_vertices", "g"), ("right_angles", ".0%"))
        )
        console.print(
            f"  {polygons['split']} true ones split, {polygons['true_in_merged']} merged into {polygons['merged']}; "
            f"vertices {vertices}, right angles {angles}"
        )
    if len(found.places) > 1:
        console.print(_places_table(found))
    if facts["calibration"] is not None:
        console.print(f"calibration error (ECE): {facts['calibration']['expected_calibration_error']:.4f}")
    if found.temperature is not None:
        _print_places(found.temperature.places, "pixels", console)
        console.print(f"temperature {found.temperature.value:g}, now in the model's card (ECE after: {_HOW})")
    for name, chance in found.objects.items():
        _print_places(chance.places, "objects", console)
        console.print(Text(f"confidence of {name}, now in the model's card (ECE after: {_HOW})"))
    for notice in found.notices:
        console.print(Text(f"note: {notice}", style="yellow"))
    for name in (REPORT, METRICS):
        console.print(Text(f"  {spec.out / name}"))
