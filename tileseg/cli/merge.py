"""``tileseg merge``: parse, call, report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tileseg.cli.option import chosen, expand
from tileseg.cli.shape_options import ShapeOptions


@expand
def command(
    folder: Annotated[str, typer.Argument(help="Folder of a batch, or any folder of run folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="One file: .parquet, .gpkg or .fgb.", show_default=False)],
    crs: Annotated[
        str | None,
        typer.Option(help="Such as EPSG:32637; default: that of the scenes if all share it, else EPSG:4326."),
    ] = None,
    *,
    shapes: ShapeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Join the polygons of neighbouring scenes into one layer, each piece of ground once."""
    from tileseg.batch.layer import write_layer
    from tileseg.errors import UsageError
    from tileseg.run.names import SUMMARY
    from tileseg.spec import VectorOptions
    from tileseg.storage.place import is_address, similar_name

    if is_address(folder):
        raise UsageError(f"{folder}: merge reads folders of this machine only; copy the results here first")
    options = VectorOptions.parse(chosen(shapes))
    place = Path(folder)
    if not place.is_dir():
        what = "a file" if place.exists() else f"not there{similar_name(place)}"
        raise UsageError(f"{folder}: is {what}; expected the folder of a batch, with a folder for each scene")
    if (place / SUMMARY).exists():
        raise UsageError(f"{folder}: is the folder of one scene; expected the one that it lies in, with its neighbours")
    report = write_layer(place, out, crs, options)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "output": str(out)}, indent=2))
    elif not quiet:
        typer.echo(
            f"{report.polygons} polygons of {report.scenes} scenes ({report.joined} joined across scenes, "
            f"{report.cut} cut where scenes overlap), {report.crs}\n  {out}"
        )
