"""``tileseg train``: parse, call, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tileseg.cli.interrupt import stop_on_interrupt
from tileseg.cli.option import chosen, expand, option
from tileseg.cli.train_options import CONTROL, TrainOptions

if TYPE_CHECKING:
    from tileseg.train.folds import FoldsReport
    from tileseg.train.trainer import TrainReport


@dataclass(frozen=True, slots=True)
class Control:
    """How the command itself behaves."""

    config: Annotated[
        Path | None, option(CONTROL, "Options from a TOML file; the command line wins.", metavar="FILE.toml")
    ] = None
    folds: Annotated[
        Path | None,
        option(CONTROL, "Train once for each fold, without its places, into --out/NAME.", metavar="FOLDS.toml"),
    ] = None
    overwrite: Annotated[bool | None, option(CONTROL, "Start anew in the folder.", "--overwrite")] = None
    as_json: Annotated[bool, option(CONTROL, "Print the report as JSON.", "--json")] = False
    quiet: Annotated[bool, option(CONTROL, "Print errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, option(CONTROL, "Print tracebacks.", "--verbose", "-v")] = False


@expand
def command(
    dataset: Annotated[
        Path | None, typer.Argument(help="TOML that lists scenes and labels.", show_default=False)
    ] = None,
    out: Annotated[Path | None, option(CONTROL, "Model folder to make.", "--out", "-o")] = None,
    name: Annotated[str | None, option(CONTROL, "Of the model; default the folder's name.")] = None,
    *,
    options: TrainOptions,
    control: Control,
) -> None:
    """Train a network on DATASET and write a model folder. The same command goes on with a training that stopped."""
    from tileseg.errors import UsageError
    from tileseg.spec import read_config
    from tileseg.train.spec import TrainSpec

    given = {"dataset": dataset, "out": out, "name": name, **chosen(options), "overwrite": control.overwrite}
    asked = {
        **(read_config(control.config) if control.config else {}),
        **{field: value for field, value in given.items() if value is not None},
    }
    for needed, said in (("dataset", "tileseg train DATASET.toml --out FOLDER"), ("out", "--out FOLDER")):
        if needed not in asked:
            raise UsageError(f"which {needed}? {said}, or {needed} = ... in --config")
    spec = TrainSpec.parse(asked)
    from tileseg.cli.train_progress import TrainingProgress
    from tileseg.train.trainer import train

    ending, kept = "saving the state and the best model", "the last saved state is kept"
    screen = TrainingProgress(quiet=control.quiet or control.as_json)
    with screen, stop_on_interrupt(screen, ending, kept) as stop:
        if control.folds is not None:
            from tileseg.train.folds import read_folds, train_folds

            folds = train_folds(spec, read_folds(control.folds), screen, stop)
            facts, tell = folds.to_json(), partial(_print_folds, folds)
        else:
            report = train(spec, screen, stop)
            facts, tell = report.to_json(), partial(_print, report)
    if control.as_json:
        typer.echo(json.dumps(facts, indent=2))
    elif not control.quiet:
        tell()


def _print_folds(report: FoldsReport) -> None:
    """A row for each place that was left out, and their mean."""
    from rich.console import Console
    from rich.table import Table

    from tileseg.train.folds import TABLE

    shown = [info.name for info in report.classes if not info.background] or [info.name for info in report.classes]
    table = Table("fold", "place", *(f"IoU {name}" for name in shown))
    for row in report.rows:
        table.add_row(row.fold, row.place, *(f"{row.iou[name]:.4f}" if name in row.iou else "-" for name in shown))
    table.add_section()
    means = (f"{report.mean[name]:.4f}" if name in report.mean else "-" for name in shown)
    table.add_row("", f"mean of {len(report.rows)} place{'s' * (len(report.rows) != 1)}", *means)
    Console(highlight=False, markup=False).print(table)
    typer.echo(f"  {report.out / TABLE}")


def _print(report: TrainReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from tileseg.cli.line import span

    progress = report.progress
    if report.already:
        typer.echo(f"{report.out}: finished already, {progress.step} steps (--overwrite starts anew)")
        return
    table = Table(title=str(report.out), show_header=False, title_justify="left")
    seconds = max(progress.seconds, 1e-9)
    rows = {
        "trained": f"{progress.step} steps in {span(progress.seconds)}; best after step {progress.best_step}",
        "time": f"{100 * progress.waited / seconds:.1f} % waiting for patches, "
        f"{100 * progress.validating / seconds:.1f} % validating",
    }
    if report.score is not None:
        rows |= {f"IoU {name}": f"{value:.4f}" for name, value in report.score.iou.items()}
        rows["mean IoU"] = f"{report.score.mean_iou:.4f}"
        places = report.score.iou_by_place
        if len(places) > 1:
            each = {
                place: ", ".join(f"{name} {value:.4f}" for name, value in iou.items()) for place, iou in places.items()
            }
            rows |= {f"IoU in {place}": text for place, text in each.items()}
    for what, text in rows.items():
        table.add_row(what, text)
    Console(highlight=False, markup=False).print(table)
    typer.echo(f"try it: tileseg run SCENE --model {report.out}")
