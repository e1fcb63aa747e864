"""``tileseg evaluate``: parse, call, report."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tileseg.cli.option import option

if TYPE_CHECKING:
    from rich.table import Table

    from tileseg.evaluate.evaluate import EvaluateSpec, Split
    from tileseg.evaluate.results import Evaluation
    from tileseg.run.prepare import PreparedRun
    from tileseg.run.report import Listener

_WHAT, _MEANING, _MEASURES, _RUN = "What is compared", "Classes", "Measures", "Running the model"
_CONTROL = "Control"
_SIDE_BY_SIDE = 4
"""Classes at most, and of those only as many as fit the terminal."""
_TELLING = ("iou", "precision", "sensitivity", "boundary_iou", "hausdorff95_px", "hausdorff95_m")


def command(  # noqa: PLR0913 - one parameter per option of the command
    dataset: Annotated[
        Path | None, typer.Argument(help="With --model: labelled scenes, as for `tileseg train`.", show_default=False)
    ] = None,
    labels: Annotated[
        tuple[Path, Path] | None,
        option(_WHAT, "Existing labels: rasters, vector files or run folders.", metavar="PRED TRUTH"),
    ] = None,
    model: Annotated[str | None, option(_WHAT, "Run this model on DATASET: 'embedded' or a model folder.")] = None,
    split: Annotated[
        str, option(_WHAT, "Scenes of DATASET; default validate.", metavar="validate|train|all")
    ] = "validate",
    image: Annotated[
        Path | None, option(_WHAT, "With --labels: image shown in the report; gives polygons their pixels.")
    ] = None,
    pixel: Annotated[
        float | None, option(_WHAT, "Metres per pixel, where both sides are polygons and there is no --image.")
    ] = None,
    out: Annotated[
        Path, option(_CONTROL, "Output folder; default 'evaluation' in the current folder.", "--out", "-o")
    ] = Path("evaluation"),
    mapping: Annotated[
        list[str] | None,
        option(
            _MEANING,
            "What a predicted class counts as: building=1, *=0 for all others, road=ignore; may be repeated.",
            "--map",
            metavar="PRED=CLASS",
        ),
    ] = None,
    map_truth: Annotated[
        list[str] | None,
        option(_MEANING, "The same for the truth: 255=1, 0=ignore; may be repeated.", metavar="TRUE=CLASS"),
    ] = None,
    classes: Annotated[str | None, option(_MEANING, "Names of the classes, by id from 0.", metavar="LIST")] = None,
    attribute: Annotated[
        str | None, option(_MEANING, "Column of vector files that says the class; default class_name.")
    ] = None,
    boundary: Annotated[
        str | None,
        option(
            _MEASURES,
            "Width of the boundary IoU's band: 0.5 (metres) or 3px; default 2 % of the diagonal, at most 15px.",
            metavar="LENGTH",
        ),
    ] = None,
    min_area: Annotated[
        str | None, option(_MEASURES, "Leave smaller polygons out of the matching: 25 or 50px.", metavar="AREA")
    ] = None,
    distances: Annotated[bool, option(_MEASURES, "Measure Hausdorff distances.", "--distances/--no-distances")] = True,
    polygons: Annotated[bool, option(_MEASURES, "Match polygons.", "--polygons/--no-polygons")] = True,
    scales: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="LIST")] = None,
    flips: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="none|h|v|hv|d4")] = None,
    precision: Annotated[str | None, option(_RUN, "As for `tileseg run`.")] = None,
    workers: Annotated[int | None, option(_RUN, "As for `tileseg run`.")] = None,
    max_memory: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="SIZE")] = None,
    gsd: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="auto|native|METRES")] = None,
    overwrite: Annotated[bool, option(_CONTROL, "Replace an earlier evaluation in --out.", "--overwrite")] = False,
    as_json: Annotated[bool, option(_CONTROL, "Print the metrics as JSON.", "--json")] = False,
    quiet: Annotated[bool, option(_CONTROL, "Print errors only.", "--quiet", "-q")] = False,
    verbose: Annotated[bool, option(_CONTROL, "Print tracebacks, and each block.", "--verbose", "-v")] = False,
) -> None:
    """Score a model on a DATASET, or existing labels: overlap, borders, calibration, polygons; a table and a page."""
    from tileseg.errors import UsageError
    from tileseg.evaluate.evaluate import SPLITS, EvaluateSpec

    if (model is None) == (labels is None):
        raise UsageError("what is evaluated? tileseg evaluate --model M DATASET.toml, or --labels PRED TRUTH")
    scenes = SPLITS.get(split)
    if scenes is None:
        raise UsageError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    spec = EvaluateSpec(
        out=out,
        classes=tuple(name.strip() for name in (classes or "").split(",") if name.strip()),
        map_prediction=tuple(mapping or ()),
        map_truth=tuple(map_truth or ()),
        attribute=attribute,
        image=image,
        pixel=pixel,
        boundary=boundary,
        min_area=min_area,
        distances=distances,
        polygons=polygons,
        overwrite=overwrite,
    )
    run = {
        "scales": scales, "flips": flips, "precision": precision, "workers": workers, "max_memory": max_memory,
        "gsd": gsd,
    }  # fmt: skip
    given = {name: value for name, value in run.items() if value is not None}
    if labels is not None:
        if dataset is not None or given:
            raise UsageError("--labels compares two files: DATASET and the options of a run are for --model")
        found = _files(labels, spec, quiet=quiet or as_json, verbose=verbose)
    else:
        assert model is not None
        if dataset is None:
            raise UsageError("--model: on which scenes? tileseg evaluate --model M DATASET.toml")
        _refuse(spec)
        found = _model((model, dataset, scenes), given, spec, quiet=quiet or as_json, verbose=verbose)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    elif not quiet:
        _print(found, spec)


def _refuse(spec: EvaluateSpec) -> None:
    """Options that a dataset has said already."""
    from tileseg.errors import UsageError

    for name, value in (
        ("--map-truth", spec.map_truth),
        ("--classes", spec.classes),
        ("--attribute", spec.attribute),
        ("--image", spec.image),
        ("--pixel", spec.pixel),
    ):
        if value:
            raise UsageError(f"{name} is for --labels: with --model, the dataset says it")


def _files(labels: tuple[Path, Path], spec: EvaluateSpec, *, quiet: bool, verbose: bool) -> Evaluation:
    from tileseg.evaluate.evaluate import evaluate_labels

    with _live(quiet=quiet, verbose=verbose) as (_, compared):
        return evaluate_labels(*labels, spec, compared)


def _model(
    what: tuple[str, Path, Split], run: dict[str, Any], spec: EvaluateSpec, *, quiet: bool, verbose: bool
) -> Evaluation:
    from tileseg.evaluate.evaluate import ModelSpec, evaluate_model

    model, dataset, split = what
    with _live(quiet=quiet, verbose=verbose) as (listener, compared):
        return evaluate_model(ModelSpec(model, dataset, split, run), spec, listener, compared)


@contextmanager
def _live(*, quiet: bool, verbose: bool) -> Iterator[tuple[Listener, Callable[[str, int, int], None]]]:
    """One live line at a time: of a run, or of the comparison that follows it."""
    from rich.console import Console
    from rich.status import Status

    from tileseg.cli.progress import Progress

    class Runs(Progress):
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
    if facts["calibration"] is not None:
        console.print(f"calibration error (ECE): {facts['calibration']['expected_calibration_error']:.4f}")
    for notice in found.notices:
        console.print(Text(f"note: {notice}", style="yellow"))
    for name in (REPORT, METRICS):
        console.print(Text(f"  {spec.out / name}"))
