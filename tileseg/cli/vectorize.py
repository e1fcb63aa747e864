"""``tileseg vectorize``: parse, call, report."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tileseg.cli.option import chosen, expand
from tileseg.cli.shape_options import ShapeOptions
from tileseg.formats import DEFAULT, FORMATS, vector_paths

if TYPE_CHECKING:
    from tileseg.card import HandedOver
    from tileseg.run.vectorize import Classes, LabelSource
    from tileseg.storage.place import Url

_OTHER_FORMATS = {".shp", ".json", ".kml", ".kmz", ".gml", ".gdb", ".tab", ".dxf", ".csv", ".sqlite", ".zip"}
"""Endings of vector files that tileseg does not write: a folder of such a name is not what anybody means."""

_SHOWN = 10
"""Classes at most whose polygons are counted in a line; an image, taken by mistake, has hundreds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonOptions:
    """Which polygons: fields of :class:`tileseg.spec.VectorOptions`."""

    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"Some of {', '.join(FORMATS)}; default {DEFAULT}.",
            metavar="LIST",
            show_default=False,
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(help="Names or ids to vectorise; default all but background.", metavar="LIST", show_default=False),
    ] = None
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            help="Give pixels a class from this probability on, instead of the stored labels; may be repeated.",
            metavar="CLASS=P",
            show_default=False,
        ),
    ] = None
    shapes: ShapeOptions
    raw: Annotated[
        bool, typer.Option("--raw", help="Not as the card of the run's model says that its users hand over.")
    ] = False
    connectivity: Annotated[int, typer.Option(help="4 or 8: whether corners connect.", metavar="4|8")] = 4
    pixel_size: Annotated[
        float | None,
        typer.Option(help="Metres per pixel, of labels without a coordinate reference system.", metavar="METRES"),
    ] = None


@dataclass(frozen=True, slots=True)
class SizeOptions:
    """In what pieces, and on what."""

    block: Annotated[
        int, typer.Option(help="Side of a block in pixels; decides the polygons' order, not the polygons.")
    ] = 2048
    workers: Annotated[
        int | None, typer.Option(help="Threads that read and trace; default one per core.", show_default=False)
    ] = None


@dataclass(frozen=True, slots=True)
class Control:
    """How the command itself behaves."""

    trust_vrt: Annotated[
        bool, typer.Option("--trust-vrt", help="Let a virtual raster refer to files outside its own folder.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks.")] = False


@expand
def command(
    labels: Annotated[
        str, typer.Argument(help="A mosaic.zarr, the folder of a run, or a label raster; or s3://, gs://, az://.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Output folder, or a file such as buildings.gpkg; default: the run's folder, for a raster the current "
            "one.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the files, without suffix; default polygons.", show_default=False)
    ] = None,
    *,
    polygons: PolygonOptions,
    sizes: SizeOptions,
    control: Control,
) -> None:
    """Make polygons of LABELS without running a network: of a mosaic (with thresholds of your own) or any raster."""
    from tileseg.errors import UsageError
    from tileseg.run.vectorize import vectorize
    from tileseg.spec import VectorOptions
    from tileseg.storage.place import parse_place

    options = VectorOptions.parse({key: value for key, value in chosen(polygons).items() if key != "threshold"})
    if sizes.block < 1 or (sizes.workers is not None and sizes.workers < 1):
        raise UsageError("--block and --workers: expected at least 1")
    place = parse_place(labels)
    source, meaning, usual = _source(place, polygons.threshold or [], options.classes, trust_vrt=control.trust_vrt)
    options, usual = options.handing_over(usual)
    notices = options.vector_notices(source.grid)
    if usual.given:
        notices.append(f"as the model's users hand over: {usual.told} (--raw: as the pixels have them)")
    if _is_unfinished(place.parent):
        notices.append(f"{place.parent}: the run is not finished: what it has not computed counts as nodata")
    for notice in notices:
        if not control.quiet:
            typer.echo(f"note: {notice}", err=True)
    outputs = _outputs(out, name, options.formats if polygons.formats else None, _folder_of(place))
    for path in outputs.values():
        if path.exists() and not control.overwrite:
            raise UsageError(f"{path}: exists; choose another --out or --name, or --overwrite it")
    report = vectorize(source, outputs, meaning, options, block=sizes.block, threads=sizes.workers)
    facts: dict[str, Any] = {
        "polygons": report.counts,
        "outputs": {form: str(path) for form, path in report.paths.items()},
        "seconds": {stage: round(spent, 3) for stage, spent in report.seconds.items()},
    }
    if control.as_json:
        typer.echo(json.dumps(facts, indent=2))
    elif not control.quiet:
        typer.echo(f"polygons: {_listed(report.counts, set(meaning.names.values()))}")
        for form, path in report.paths.items():
            typer.echo(f"  {form:<10}  {path}")


def _folder_of(labels: Path | Url) -> Path:
    """Where polygons go unless the user says otherwise: the run's folder, or the current one for any raster."""
    from tileseg.run.names import MOSAIC

    if not isinstance(labels, Path):
        return Path()
    if _is_folder(labels / MOSAIC):
        return labels
    return labels.parent if labels.name == MOSAIC else Path()


def _outputs(out: Path | None, name: str | None, formats: Sequence[str] | None, usual: Path) -> dict[str, Path]:
    """The file of each format. ``formats``: as asked for, or None; ``usual``: folder where none is given.

    Raises UsageError where ``out`` is the name of a file that does not go with the rest.
    """
    from tileseg.errors import UsageError

    wanted = formats or (DEFAULT,)
    if out is None or out.is_dir():
        return vector_paths(out or usual, wanted, name or "polygons")
    by_suffix = {kind.suffix: kind.name for kind in FORMATS.values()}
    form = by_suffix.get(out.suffix.lower())
    if form is None:
        if out.suffix.lower() in _OTHER_FORMATS:
            raise UsageError(
                f"--out {out}: {out.suffix} is no format that tileseg writes; expected a folder, or a file ending in "
                + ", ".join(by_suffix)
            )
        return vector_paths(out, wanted, name or "polygons")
    if name is not None:
        raise UsageError(f"--out {out} is the name of a file already; leave out --name, or give a folder")
    if formats is not None and tuple(formats) != (form,):
        raise UsageError(
            f"--out {out} is a file of the format {form}, but --format says {','.join(formats)}; leave out --format, "
            "or give a folder"
        )
    return {form: out}


def _listed(counts: Mapping[str, int], names: Container[str]) -> str:
    """How many polygons of each class; of an id without a name, so that it is not taken for a number of them."""
    shown = [f"{count} {name}" if name in names else f"{name}: {count}" for name, count in counts.items()]
    more = (
        [f"and {sum(list(counts.values())[_SHOWN:])} of {len(shown) - _SHOWN} more classes"]
        if len(shown) > _SHOWN
        else []
    )
    return ", ".join([*shown[:_SHOWN], *more]) or "none"


def _source(
    path: Path | Url, thresholds: list[str], wanted: tuple[str, ...] | None, *, trust_vrt: bool
) -> tuple[LabelSource, Classes, HandedOver]:
    """What is read, what its labels mean, and which polygons the users of the model hand over that made them."""
    from tileseg.card import HandedOver
    from tileseg.errors import TilesegError, UsageError
    from tileseg.run.names import MOSAIC
    from tileseg.run.vectorize import Classes, chances_of

    folder = path / MOSAIC if _is_folder(path / MOSAIC) else path
    if folder != path and _is_unfinished(path):
        raise TilesegError(
            f"{path}: the run is not finished: run the same command again first, "
            f"or give {folder} to vectorise what there is"
        )
    if _is_folder(folder):
        from tileseg.mosaic import Mosaic

        mosaic = Mosaic(folder).with_thresholds(thresholds)
        classes = Classes.of_card(mosaic.classes, wanted)
        chances = chances_of(mosaic.classes, mosaic.chances)
        return mosaic, replace(classes, chances=chances), mosaic.hands_over
    if thresholds:
        raise UsageError(f"--threshold: {path} has no probabilities; expected a mosaic of tileseg")
    from tileseg.source.label_raster import open_labels

    raster = open_labels(path, trust_vrt=trust_vrt)
    classes = Classes.of_raster(raster.names, wanted, raster.background)
    return raster, replace(classes, colors=raster.colors), HandedOver()


def _is_unfinished(run: Path | Url) -> bool:
    """Whether this is the folder of a run that is not finished."""
    from tileseg.run.ledger import Ledger
    from tileseg.run.names import STATE, SUMMARY
    from tileseg.storage.store import at

    if not isinstance(run, Path) and not run.writable:
        return False
    return at(Ledger(run / STATE).run_file).exists() and not at(run / SUMMARY).exists()


def _is_folder(place: Path | Url) -> bool:
    """A folder, or what is one on an object store: a Zarr group."""
    from tileseg.storage.store import at

    return place.is_dir() if isinstance(place, Path) else place.writable and at(place / "zarr.json").exists()
