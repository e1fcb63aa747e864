"""``tileseg batch``: parse, call, report. It has the options of ``tileseg run`` too."""

from __future__ import annotations

import json
from collections import Counter
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
    from tileseg.batch.entry import Entry
    from tileseg.batch.report import BatchReport
    from tileseg.cli.batch_progress import BatchProgress
    from tileseg.storage.place import Url

_PANEL = "Archive"

_option = partial(option, _PANEL)


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """Which scenes, where to, and what is done about those that fail."""

    out: Annotated[
        str, _option("Folder for all outputs (or s3://, gs://, az://): <stem>.tileseg for each scene.", "--out", "-o")
    ]
    shard: Annotated[str | None, _option("Only every n-th scene, from the i-th on: for array jobs.", metavar="I/N")] = (
        None
    )
    retries: Annotated[int, _option("How often a scene that failed is tried again at the end; default 1.")] = 1
    max_failures: Annotated[int | None, _option("Stop when more scenes than that have failed.", metavar="N")] = None
    catalogue: Annotated[
        bool,
        _option(
            "Whether to write catalog files (STAC, index.gpkg) at the end; default yes.", "--catalogue/--no-catalogue"
        ),
    ] = True


@dataclass(frozen=True, slots=True)
class Control:
    """How the command itself behaves."""

    dry_run: Annotated[bool, _option("List the scenes and their folders, and stop.", "--dry-run")] = False
    overwrite: Annotated[bool, _option("Start anew in folders that were made with other options.", "--overwrite")] = (
        False
    )
    config: Annotated[
        Path | None, _option("Options of runs from a TOML file; the command line wins.", metavar="FILE.toml")
    ] = None
    as_json: Annotated[bool, _option("Print batch.json (of a dry run: scenes and folders).", "--json")] = False
    quiet: Annotated[bool, _option("Print errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, _option("Print tracebacks, notices, and each block.", "--verbose", "-v")] = False


@expand
def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Rasters, quoted globs, folders, lists (.txt), tables (.csv) or STAC (.json).", show_default=False
        ),
    ],
    archive: ArchiveOptions,
    control: Control,
    options: RunOptions,
) -> None:
    """Segment many scenes; what is finished already is not done again. Exit code: 0, 1 (run it again), 42 (useless)."""
    from tileseg.batch.sources import read_sources
    from tileseg.batch.sources import shard as part_of
    from tileseg.errors import UsageError
    from tileseg.spec import read_config
    from tileseg.storage.place import parse_place

    if archive.retries < 0 or (archive.max_failures is not None and archive.max_failures < 0):
        raise UsageError("--retries and --max-failures: expected 0 or more")
    folder = parse_place(archive.out)
    entries = read_sources(sources, options.joining.asset)
    stem = "batch"
    if archive.shard is not None:
        entries, stem = part_of(entries, archive.shard), f"batch-{archive.shard.replace('/', '-of-')}"
    asked = packed({**(read_config(control.config) if control.config else {}), **chosen(options)})
    if control.dry_run:
        _list(entries, folder, as_json=control.as_json, trust_vrt=bool(asked.get("trust_vrt")))
        return
    asked = {name: value for name, value in asked.items() if name not in ("scene", "out")}
    from tileseg.batch.archive import run_batch
    from tileseg.batch.spec import BatchSpec
    from tileseg.cli.batch_progress import BatchProgress

    spec = BatchSpec(
        entries, folder, {**asked, "overwrite": control.overwrite}, archive.retries, archive.max_failures, stem
    )
    lines = BatchProgress(quiet=control.quiet or control.as_json, verbose=control.verbose)
    with lines, stop_on_interrupt(lines, *BLOCKS) as stop:
        report = run_batch(spec, lines, stop)
        if control.as_json:
            typer.echo(json.dumps(report.to_json(), indent=2))
        elif not control.quiet:
            _print(report, stem)
        if archive.catalogue:
            _catalogue(folder, lines)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _list(entries: tuple[Entry, ...], out: Path | Url, *, as_json: bool, trust_vrt: bool) -> None:
    from tileseg.batch.folders import folder_of
    from tileseg.errors import InputError
    from tileseg.source.scene import open_scene

    def identity(entry: Entry) -> str | None:
        try:
            return open_scene(entry.scene, expected=1, warp=True, trust_vrt=trust_vrt).identity
        except InputError:
            return None

    listed = ((entry.shown, folder_of(entry, out, partial(identity, entry))) for entry in entries)
    if as_json:
        scenes = [{"scene": scene, "folder": folder} for scene, folder in listed]
        typer.echo(json.dumps({"out": str(out), "scenes": scenes}, indent=2))
        return
    for scene, folder in listed:
        typer.echo(visible(f"{scene} -> {out / folder}"))


def _catalogue(out: Path | Url, lines: BatchProgress) -> None:
    from tileseg.batch.catalogue import write_catalogue
    from tileseg.errors import UsageError

    try:
        write_catalogue(out, lines.notice)
    except UsageError as error:  # an optional package is missing: the outputs are there all the same
        lines.notice(str(error))


def _print(report: BatchReport, stem: str) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in report.counts.items() if count)
    typer.echo(f"{len(report.results)} scene(s) in {report.wall_seconds:.1f} s: {counts or 'nothing to do'}")
    reasons = Counter(result.message for result in report.results if result.message)
    for reason, count in reasons.most_common(5):
        typer.echo(visible(f"  {count} x {reason[:300]}"))
    typer.echo(f"lists: {report.folder / stem}.json, {report.folder / stem}.csv")
