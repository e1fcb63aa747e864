"""``tileseg suggest``: parse, call, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_SHOWN = 10


def command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or of a batch.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="One file: .gpkg, .parquet or .fgb.", show_default=False)],
    count: Annotated[int, typer.Option(help="How many windows.")] = 20,
    size: Annotated[int, typer.Option(help="Their side, in pixels of the scenes.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the windows as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Find the windows of RUNs where labels would teach most: uncertain, unlike the training's images, apart."""
    from dataclasses import asdict

    from tileseg.batch.outputs import finished_at
    from tileseg.batch.suggest import suggest
    from tileseg.errors import UsageError

    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; choose another --out, or --overwrite it")
    runs = [run for folder in folders for run in finished_at(folder)]
    chosen = suggest(runs, out, count, size, lambda line: typer.echo(f"note: {line}", err=True) if not quiet else None)
    if as_json:
        rows = [{**asdict(one), "run": str(runs[one.run].folder), "score": one.score} for one in chosen]
        typer.echo(json.dumps(rows, indent=2))
    elif not quiet:
        for rank, one in enumerate(chosen[:_SHOWN], start=1):
            place = f"{runs[one.run].name}, rows {one.window.row_off}-{one.window.row_stop}"
            typer.echo(f"{rank:3}  {one.score:.2f}  {place}, columns {one.window.col_off}-{one.window.col_stop}")
        more = f" ({len(chosen) - _SHOWN} more)" if len(chosen) > _SHOWN else ""
        typer.echo(f"{len(chosen)} windows{more}\n  {out}")
        typer.echo(f'draw labels within them, then train with known = "{out.name}" in the dataset (docs/train.md)')
