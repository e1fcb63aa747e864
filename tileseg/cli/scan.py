"""``tileseg scan``: parse, call, report. It has the options of ``tileseg run`` too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tileseg.cli.facts import packed
from tileseg.cli.interrupt import BLOCKS, stop_on_interrupt
from tileseg.cli.line import visible
from tileseg.cli.option import chosen, expand, option
from tileseg.cli.run_options import RunOptions

if TYPE_CHECKING:
    from tileseg.scan.scan import ScanReport

_option = partial(option, "Stack")


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Which stack, and what is made of it."""

    out: Annotated[Path, _option("Folder for all outputs.", "--out", "-o")]
    stack: Annotated[int | None, _option("Which one, where the files hold several.", metavar="N")] = None
    write: Annotated[
        str, _option("What is made of all slices: nifti, seg (DICOM segmentation), or none.", metavar="LIST|none")
    ] = "nifti,seg"
    identified: Annotated[
        bool, _option("Let the segmentation name the patient as the images do; nothing else ever does.", "--identified")
    ] = False


@dataclass(frozen=True, slots=True)
class Control:
    """How the command itself behaves."""

    overwrite: Annotated[bool, _option("Start anew in folders that were made with other options.", "--overwrite")] = (
        False
    )
    config: Annotated[
        Path | None, _option("Options of runs from a TOML file; the command line wins.", metavar="FILE.toml")
    ] = None
    as_json: Annotated[bool, _option("Print outputs and volumes as JSON.", "--json")] = False
    quiet: Annotated[bool, _option("Print errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, _option("Print tracebacks, notices, and each block.", "--verbose", "-v")] = False


@expand
def command(
    sources: Annotated[
        list[str],
        typer.Argument(help="DICOM files, folders of them, or a DICOMDIR.", show_default=False),
    ],
    stack: StackOptions,
    control: Control,
    options: RunOptions,
) -> None:
    """Segment a series of scans, slice by slice in their order: labels of all of them as one, areas and volumes."""
    from tileseg.cli.slice_progress import SliceProgress
    from tileseg.scan.scan import ScanSpec, run_scan
    from tileseg.scan.series import read_stack
    from tileseg.spec import read_config

    kinds = tuple(name.strip() for name in stack.write.split(",") if name.strip() not in ("", "none"))
    found, notes = read_stack(sources, stack.stack)
    asked = packed({**(read_config(control.config) if control.config else {}), **chosen(options)})
    asked = {name: value for name, value in asked.items() if name not in ("scene", "out")}
    spec = ScanSpec(found, stack.out, {**asked, "overwrite": control.overwrite}, kinds, stack.identified)
    lines = SliceProgress(
        frozenset(one.scene for one in found.slices), quiet=control.quiet or control.as_json, verbose=control.verbose
    )
    with lines, stop_on_interrupt(lines, *BLOCKS) as stop:
        for note in notes:
            lines.notice(note)
        report = run_scan(spec, lines, stop, lines.notice)
        _report(report, as_json=control.as_json, quiet=control.quiet)
    if report.slices.exit_code:
        raise typer.Exit(report.slices.exit_code)


def _report(report: ScanReport, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        outputs = {name: str(path) for name, path in report.outputs.items()}
        typer.echo(
            json.dumps({"outputs": outputs, "volumes": report.volumes, "slices": report.slices.to_json()}, indent=2)
        )
        return
    if quiet:
        return
    counts = ", ".join(f"{count} {status}" for status, count in report.slices.counts.items() if count)
    typer.echo(f"{len(report.slices.results)} slice(s) in {report.slices.wall_seconds:.1f} s: {counts}")
    for name, values in report.volumes.items():
        size = "" if values["volume_mm3"] is None else f", {values['volume_mm3'] / 1000:.3f} cm3"
        typer.echo(visible(f"  {name}: {values['pixels']} pixels{size}"))
    for name, path in report.outputs.items():
        typer.echo(visible(f"  {name:14}{path}"))
