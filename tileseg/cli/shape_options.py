"""Options for the outlines of polygons, where their headings are no matter: of ``vectorize`` and ``merge``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """Which polygons, and their outlines: fields of :class:`tileseg.spec.VectorOptions`."""

    min_area: Annotated[
        str | None, typer.Option(help="Drop smaller polygons: 25 (square metres) or 50px.", metavar="AREA")
    ] = None
    fill_holes: Annotated[str | None, typer.Option(help="Fill smaller holes; as above.", metavar="AREA")] = None
    simplify: Annotated[
        str | None, typer.Option(help="Tolerance: 0.5 (metres) or 2px; borders stay shared.", metavar="LENGTH")
    ] = None
    regularize: Annotated[
        str | None,
        typer.Option(
            help="Straight walls and right angles for these classes, or all; borders stay shared.",
            metavar="LIST|all",
            show_default=False,
        ),
    ] = None
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="How far --regularize may move outlines: 1 (metres, default) or 3px.",
            metavar="LENGTH",
            show_default=False,
        ),
    ] = None
