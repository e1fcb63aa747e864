"""The options of ``tileseg model pack``: what a graph does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class MeaningOptions:
    """What the channels of input and output are."""

    classes: Annotated[str, typer.Option(metavar="NAME[:#RRGGBB],...", help="In the order of the output's channels.")]
    bands: Annotated[str, typer.Option(metavar="NAME,...", help="In the order of the input's channels.")] = (
        "red,green,blue"
    )
    name: Annotated[str | None, typer.Option(help="Default: the folder's name.", show_default=False)] = None
    background: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Classes that are not vectorised.", show_default=False)
    ] = None


@dataclass(frozen=True, slots=True)
class ValueOptions:
    """How pixel values become the network's input."""

    scaling: Annotated[
        str,
        typer.Option(
            metavar="fixed|scene|window", help="scene: mean and deviation of each scene; window: --center and --width."
        ),
    ] = "fixed"
    center: Annotated[
        float | None, typer.Option(help="Of the window of values that are mapped to 0...1.", show_default=False)
    ] = None
    width: Annotated[
        float | None, typer.Option(help="Of that window; values beyond it are clipped.", show_default=False)
    ] = None
    divisor: Annotated[float, typer.Option(help="Pixel values are divided by it first.")] = 1.0
    mean: Annotated[str, typer.Option(metavar="M,...", help="Then this is taken off: one, or one per band.")] = "0"
    std: Annotated[str, typer.Option(metavar="S,...", help="Then it is divided by this.")] = "1"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the graph gives, and what it was made for."""

    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which output of an ONNX file is the map.", show_default=False),
    ] = None
    activation: Annotated[str, typer.Option(metavar="logits|softmax|sigmoid", help="What the graph gives.")] = "logits"
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel in training.", show_default=False)] = None
    dtypes: Annotated[str, typer.Option(metavar="TYPE,...", help="Pixel types that the scaling is for.")] = "uint8"


@dataclass(frozen=True, slots=True)
class HandingOptions:
    """Which polygons the model's users hand over, where a run says nothing else."""

    min_area: Annotated[
        str | None,
        typer.Option(metavar="AREA", help="Runs drop smaller polygons: 4 (square metres) or 50px.", show_default=False),
    ] = None
    fill_holes: Annotated[
        str | None, typer.Option(metavar="AREA", help="Runs fill smaller holes; as above.", show_default=False)
    ] = None
    regularize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...|all", help="Runs give these classes straight walls and right angles.", show_default=False
        ),
    ] = None
    tolerance: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="How far that may move outlines: 1 (metres) or 3px.", show_default=False),
    ] = None
