"""``tileseg run``: parse, call, report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tileseg.cli.facts import packed
from tileseg.cli.interrupt import BLOCKS, stop_on_interrupt
from tileseg.cli.option import chosen, expand, option
from tileseg.cli.run_options import CONTROL, FILES, RunOptions
from tileseg.formats import FORMATS
from tileseg.imports import spared

if TYPE_CHECKING:
    from tileseg.storage.place import Url


@dataclass(frozen=True, slots=True)
class Control:
    """How the command itself behaves."""

    dry_run: Annotated[bool, option(CONTROL, "Print the plan and stop.", "--dry-run")] = False
    price_per_hour: Annotated[
        float | None, option(CONTROL, "What an hour of this machine costs, for the plan.", "--price-per-hour")
    ] = None
    watts: Annotated[float | None, option(CONTROL, "What this machine draws, for the plan.", "--watts")] = None
    overwrite: Annotated[bool | None, option(CONTROL, "Start anew in the output folder.", "--overwrite")] = None
    config: Annotated[
        Path | None,
        option(CONTROL, "Options from a TOML file, paths as here; the command line wins.", metavar="FILE.toml"),
    ] = None
    as_json: Annotated[bool, option(CONTROL, "Print the report (or plan) as JSON.", "--json")] = False
    quiet: Annotated[bool, option(CONTROL, "Print errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, option(CONTROL, "Print tracebacks, and each block.", "--verbose", "-v")] = False


@expand
def command(
    context: typer.Context,
    scene: Annotated[
        str | None,
        typer.Argument(
            help="Any raster that GDAL reads, also s3://, gs://, az://, https://; or files that are one scene: "
            "several, a folder, a quoted pattern, a list (.txt), a tile index, STAC items.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        option(
            CONTROL,
            "Output folder (or s3://, gs://, az://); default <stem>.tileseg in the current folder.",
            "--out",
            "-o",
        ),
    ] = None,
    *,
    band: Annotated[
        list[str] | None,
        option(
            FILES,
            "A scene with a file for each band, by the model's names of the bands; once for each, and for bands of "
            "quality.",
            metavar="NAME=FILE",
        ),
    ] = None,
    options: RunOptions,
    control: Control,
) -> None:
    """Segment SCENE: a mosaic of logits, a label COG, polygons, a quicklook and a summary in one folder."""
    from tileseg.errors import UsageError
    from tileseg.spec import RunSpec, read_config

    named: object = [scene, *context.args] if context.args else scene
    if band:
        named = _by_band(band, named)
    given = {"scene": named, "out": out, **chosen(options), "overwrite": control.overwrite}
    asked = {
        **(read_config(control.config) if control.config else {}),
        **{name: value for name, value in given.items() if value is not None},
    }
    if "scene" not in asked:
        raise UsageError("which scene? tileseg run SCENE, or scene = ... in --config")
    spec = RunSpec.parse(packed(asked))
    _check_out(spec.out)
    for name, value in (("--price-per-hour", control.price_per_hour), ("--watts", control.watts)):
        if value is not None and not (control.dry_run and 0 <= value < math.inf):
            raise UsageError(f"{name} {value:g}: expected a number from 0 on, beside --dry-run")
    with spared("boto3"):  # for credentials of stores that are read by other means here
        import tileseg.source.raster  # noqa: F401 - it imports rasterio
    from tileseg.cli.progress import RunProgress, print_plan, print_report
    from tileseg.cluster.allocator import keep_freed_memory
    from tileseg.run.pace import estimate
    from tileseg.run.prepare import prepare
    from tileseg.run.report import describe
    from tileseg.run.scene import run

    if control.dry_run:
        prepared = prepare(spec)
        expected = estimate(prepared)
        if control.as_json:
            typer.echo(json.dumps({**describe(prepared), "estimate": expected and expected.to_json()}, indent=2))
        else:
            print_plan(prepared, expected, control.price_per_hour, control.watts)
        return
    keep_freed_memory()  # as worker processes do, and this one computes as they would
    screen = RunProgress(quiet=control.quiet or control.as_json, verbose=control.verbose)
    with screen, stop_on_interrupt(screen, *BLOCKS) as stop:
        report = run(spec, screen, stop)
    if control.as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    elif not control.quiet:
        print_report(report, verbose=control.verbose)


def _by_band(given: Sequence[str], scene: object) -> dict[str, str]:
    """Bands and their files. Raises UsageError."""
    from tileseg.errors import UsageError

    if scene is not None:
        raise UsageError(f"--band: names the files of the scene, so {scene} is one too many")
    found: dict[str, str] = {}
    for text in given:
        name, equals, file = (part.strip() for part in text.partition("="))
        if not (name and equals and file):
            raise UsageError(f"--band {text}: expected NAME=FILE, such as red=B04.tif")
        if name in found:
            raise UsageError(f"--band {name}: is given twice, as {found[name]} and {file}")
        found[name] = file
    return found


def _check_out(out: Path | Url | None) -> None:
    """Raise UsageError where the name of a file is given for the folder of all outputs."""
    from tileseg.errors import UsageError

    form = {form.suffix: form.name for form in FORMATS.values()}.get(Path(out.name).suffix.lower()) if out else None
    if form is not None and not (isinstance(out, Path) and out.is_dir()):
        raise UsageError(
            f"--out {out}: is the name of a file, and outputs go into a folder; "
            f"give the name of one, and --format {form}"
        )
