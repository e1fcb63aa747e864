"""``tileseg dataset``: look at labelled scenes before a network is trained on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tileseg.errors import InputError, TilesegError, UsageError, disk_full

if TYPE_CHECKING:
    from tileseg.dataset.facts import DatasetReport

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _dataset() -> None:
    """Keep `check` a command of its own although it is the only one."""


@app.command()
def check(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET.toml", help="Lists scenes and their labels.")],
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write a contact sheet of images and labels.", metavar="FILE.png", show_default=False),
    ] = None,
    gsd: Annotated[
        str | None,
        typer.Option(help="Metres per pixel, or native; default: what the file says.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks.")] = False,
) -> None:
    """Read all scenes and labels of a dataset; list sizes, class shares, and everything that is wrong.

    Exit code 42 where the dataset cannot be used as it is.
    """
    del verbose  # main() looks for it
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet}: expected a name that ends in .png")
    if sheet is not None and not sheet.absolute().parent.is_dir():
        raise UsageError(f"--sheet {sheet}: {sheet.absolute().parent} is no folder")
    target = _gsd(gsd)
    from tileseg.dataset.check import check_dataset

    if sys.stderr.isatty() and not quiet:
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            report = check_dataset(
                dataset, gsd=target, progress=lambda done, total, name: status.update(f"{done} of {total}  {name}")
            )
    else:
        report = check_dataset(dataset, gsd=target)
    if sheet is not None and report.scenes:
        from tileseg.dataset.sheet import write_sheet

        try:
            write_sheet(sheet, report)
        except OSError as error:
            if isinstance(error, TilesegError) or disk_full(error):
                raise
            raise InputError(f"--sheet {sheet}: cannot be written: {error.strerror or error}") from error
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report, quiet=quiet)
        if sheet is not None and report.scenes and not quiet:
            typer.echo(f"contact sheet: {sheet}")
    if report.errors:
        raise InputError(
            f"{dataset}: cannot be used as it is: {report.errors} error{'s' * (report.errors != 1)} (see above)"
        )


def _gsd(text: str | None) -> float | Literal["native"] | None:
    if text is None:
        return None
    if text == "native":
        return "native"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--gsd {text}: expected metres per pixel, or native") from None


def _print(report: DatasetReport, *, quiet: bool) -> None:
    if not quiet and report.facts:
        at, count = report.ground_sample_distance, len(report.facts)
        typer.echo(
            f"{report.path}: {count} scene{'s' * (count != 1)}, bands {', '.join(report.bands)}, "
            + ("each at its own ground sample distance" if at is None else f"resampled to {at:g} m per pixel")
        )
        _print_scenes(report)
    for finding in report.findings:
        typer.echo(f"{finding.level}: {finding.message}")


def _print_scenes(report: DatasetReport) -> None:
    """A line per scene; classes have numbers as headings, which a line before explains, so that the table is narrow."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scene", overflow="fold")
    for name in ("pixels", "m/px", "type", "CRS", "labels"):
        table.add_column(name, no_wrap=True)
    for i in range(len(report.classes)):
        table.add_column(str(i), justify="right", no_wrap=True)
    table.add_column("unknown", justify="right", no_wrap=True)
    for split, name in (("train", "for training"), ("validate", "for validation")):
        facts = [fact for fact in report.facts if fact.split == split]
        if not facts:
            continue
        shares = report.shares("train" if split == "train" else "validate")
        table.add_row(name, *[""] * 5, *map(_percent, shares), "", style="bold")
        for fact in facts:
            own = fact.ground_sample_distance
            table.add_row(
                f"  {fact.name}",
                f"{fact.size[1]} x {fact.size[0]}",
                "?" if own is None else f"{own:.3g}",
                fact.dtype,
                fact.crs or "none",
                fact.source,
                *map(_percent, fact.shares),
                _percent(fact.unknown),
            )
    names = (f"{i} {info.name}{' (background)' if info.background else ''}" for i, info in enumerate(report.classes))
    console = Console(highlight=False, markup=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=200)
    console.print(f"classes: {', '.join(names)}")
    console.print(table)


def _percent(share: float) -> str:
    return "-" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
