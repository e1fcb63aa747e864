"""``tileseg run``: parse, call, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tileseg.cli.interrupt import BLOCKS, stop_on_interrupt
from tileseg.cli.option import option

if TYPE_CHECKING:
    from tileseg.run.report import RunReport

_MODEL, _VIEWS, _SIZES = "Model", "Views and stitching", "Sizes and resources"
_SCENE, _VECTORS, _CONTROL = "Scene", "Polygons", "Control"


def command(  # noqa: PLR0913 - one parameter per option of the command
    scene: Annotated[
        str | None,
        typer.Argument(help="Any raster that GDAL reads; or s3://, gs://, az://, https://.", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        option(
            _CONTROL,
            "Output folder (or s3://, gs://, az://); default <stem>.tileseg in the current folder.",
            "--out",
            "-o",
        ),
    ] = None,
    model: Annotated[str | None, option(_MODEL, "'embedded' (default) or a model folder.")] = None,
    precision: Annotated[
        str | None,
        option(_MODEL, "auto (default), float32, bfloat16 or float16.", metavar="auto|float32|bfloat16|float16"),
    ] = None,
    scales: Annotated[
        str | None, option(_VIEWS, "Exact fractions or decimals, such as 1/2,1,3/2; default 1.", metavar="LIST")
    ] = None,
    gsd: Annotated[
        str | None,
        option(
            _VIEWS,
            "Metres per pixel that the model is to see; auto (default): its own, where the scene's differ by more than "
            "a fifth; native: the scene's.",
            metavar="auto|native|METRES",
        ),
    ] = None,
    flips: Annotated[
        str | None, option(_VIEWS, "none (default), h, v, hv or d4: 1, 2, 2, 4, 8 views.", metavar="none|h|v|hv|d4")
    ] = None,
    merge: Annotated[str | None, option(_VIEWS, "What views average: logits (default) or probabilities.")] = None,
    stitch: Annotated[
        str | None,
        option(_VIEWS, "exact (default), or blend windows with hann or gaussian.", metavar="exact|hann|gaussian"),
    ] = None,
    overlap: Annotated[
        float | None, option(_VIEWS, "Overlap of blended windows, a share of their size; default 0.5.")
    ] = None,
    halo: Annotated[
        str | None, option(_VIEWS, "Context in pixels; auto (default) derives it from the model.", metavar="auto|N")
    ] = None,
    block: Annotated[int | None, option(_SIZES, "Side of a block: one task, one shard.")] = None,
    window: Annotated[int | None, option(_SIZES, "Side of the network's input, halo included.")] = None,
    batch: Annotated[int | None, option(_SIZES, "Windows in one call of the network.")] = None,
    workers: Annotated[int | None, option(_SIZES, "Worker processes; 0 computes in this process; default 1.")] = None,
    scheduler: Annotated[
        str | None,
        option(_SIZES, "Compute on the workers of this Dask scheduler, tcp:// or tls://.", metavar="ADDRESS"),
    ] = None,
    scheduler_file: Annotated[
        Path | None, option(_SIZES, "The same, by the file in which the scheduler wrote its address.", metavar="FILE")
    ] = None,
    cluster: Annotated[
        Path | None, option(_SIZES, "Compute on the cluster that this file describes.", metavar="SPEC.yaml")
    ] = None,
    performance_report: Annotated[
        Path | None, option(_CONTROL, "Write Dask's report of the run.", metavar="FILE.html")
    ] = None,
    max_memory: Annotated[
        str | None, option(_SIZES, "Most memory over all processes, such as 8GiB.", metavar="SIZE")
    ] = None,
    bands: Annotated[
        str | None, option(_SCENE, "1-based bands in the model's order, such as 4,3,2.", metavar="LIST")
    ] = None,
    aoi: Annotated[Path | None, option(_SCENE, "Vector file: compute only what it touches, clip to it.")] = None,
    warp: Annotated[bool | None, option(_SCENE, "Warp a scene that has only control points or RPCs.", "--warp")] = None,
    keep: Annotated[
        str | None,
        option(_CONTROL, "What the mosaic keeps besides labels.", metavar="logits|probabilities|labels"),
    ] = None,
    classes: Annotated[
        str | None, option(_VECTORS, "Names or ids to vectorise; default all but background.", metavar="LIST")
    ] = None,
    formats: Annotated[
        str | None,
        option(_VECTORS, "geojson (default), geojsonseq, gpkg, parquet, fgb.", "--format", metavar="LIST"),
    ] = None,
    min_area: Annotated[
        str | None, option(_VECTORS, "Drop smaller polygons: 25 (square metres) or 50px.", metavar="AREA")
    ] = None,
    fill_holes: Annotated[str | None, option(_VECTORS, "Fill smaller holes; as above.", metavar="AREA")] = None,
    simplify: Annotated[
        str | None, option(_VECTORS, "Tolerance: 0.5 (metres) or 2px; borders stay shared.", metavar="LENGTH")
    ] = None,
    connectivity: Annotated[
        int | None, option(_VECTORS, "4 (default) or 8: whether corners connect.", metavar="4|8")
    ] = None,
    dry_run: Annotated[bool, option(_CONTROL, "Print the plan and stop.", "--dry-run")] = False,
    overwrite: Annotated[bool | None, option(_CONTROL, "Start anew in the output folder.", "--overwrite")] = None,
    config: Annotated[
        Path | None,
        option(_CONTROL, "Options from a TOML file, paths as here; the command line wins.", metavar="FILE.toml"),
    ] = None,
    as_json: Annotated[bool, option(_CONTROL, "Print the report (or plan) as JSON.", "--json")] = False,
    quiet: Annotated[bool, option(_CONTROL, "Print errors only.", "--quiet", "-q")] = False,
    verbose: Annotated[bool, option(_CONTROL, "Print tracebacks, and each block.", "--verbose", "-v")] = False,
) -> None:
    """Segment SCENE: a mosaic of logits, a label COG, polygons, a quicklook and a summary in one folder."""
    given = {
        "scene": scene, "out": out, "model": model, "precision": precision, "scales": scales, "gsd": gsd,
        "flips": flips, "merge": merge, "stitch": stitch, "overlap": overlap, "halo": halo, "block": block,
        "window": window, "batch": batch, "workers": workers, "scheduler": scheduler, "scheduler_file": scheduler_file,
        "cluster": cluster, "performance_report": performance_report, "max_memory": max_memory, "bands": bands,
        "aoi": aoi, "warp": warp, "keep": keep, "classes": classes, "formats": formats, "min_area": min_area,
        "fill_holes": fill_holes, "simplify": simplify, "connectivity": connectivity, "overwrite": overwrite,
    }  # fmt: skip
    from tileseg.errors import UsageError
    from tileseg.spec import RunSpec, read_config

    options = {**(read_config(config) if config else {}), **{k: v for k, v in given.items() if v is not None}}
    if "scene" not in options:
        raise UsageError("which scene? tileseg run SCENE, or scene = ... in --config")
    spec = RunSpec.parse(options)
    from tileseg.cli.progress import Progress, print_plan, print_report
    from tileseg.run.prepare import prepare
    from tileseg.run.report import describe
    from tileseg.run.scene import run

    if dry_run:
        prepared = prepare(spec)
        if as_json:
            typer.echo(json.dumps(describe(prepared), indent=2))
        else:
            print_plan(prepared)
        return
    with Progress(quiet=quiet or as_json, verbose=verbose) as progress, stop_on_interrupt(progress, *BLOCKS) as stop:
        report = run(spec, progress, stop)
    _print(report, as_json=as_json, quiet=quiet, print_report=print_report)


def _print(report: RunReport, *, as_json: bool, quiet: bool, print_report: Any) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    elif not quiet:
        print_report(report)
