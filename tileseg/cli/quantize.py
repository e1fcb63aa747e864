"""``tileseg model quantize``: parse, call, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tileseg.cli.option import expand, one_of, option

if TYPE_CHECKING:
    from tileseg.export.quantise import Quantised

_DATA, _OUTPUT = "Data", "Output"


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """What the ranges are found on, and how."""

    scenes: Annotated[
        list[str],
        option(
            _DATA,
            "A dataset (TOML), or scenes as for `tileseg batch`: files, folders, patterns, lists; may be repeated.",
            "--with",
            metavar="SCENES|DATASET",
        ),
    ]
    calibration: Annotated[
        str,
        option(
            _DATA,
            "How ranges are found: percentile, minmax or entropy; by default by the one of them that loses least.",
            metavar="METHOD",
        ),
    ] = "auto"
    windows: Annotated[int, option(_DATA, "Windows to calibrate with (default 32); 96 others are measured on.")] = 32
    seed: Annotated[int, option(_DATA, "Decides which windows are drawn (default 0).")] = 0
    trust_vrt: Annotated[
        bool, option(_DATA, "Virtual rasters may refer to files outside their own folder.", "--trust-vrt")
    ] = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What form it is, and where it goes."""

    to: Annotated[
        str,
        option(_OUTPUT, "Format: onnx (default) for ONNX Runtime and OpenVINO, or litert.", metavar="onnx|litert"),
    ] = "onnx"
    out: Annotated[
        Path | None,
        option(_OUTPUT, "A new folder for the model with its forms; by default the model's own gets one more."),
    ] = None
    overwrite: Annotated[bool, option(_OUTPUT, "Replace an int8 form that is there.", "--overwrite")] = False
    as_json: Annotated[bool, option(_OUTPUT, "Print JSON.", "--json")] = False
    verbose: Annotated[bool, option(_OUTPUT, "Print tracebacks.", "--verbose", "-v")] = False


@expand
def command(
    model: Annotated[str, typer.Argument(help="`embedded`, or a model folder.")],
    *,
    calibration: CalibrationOptions,
    output: OutputOptions,
) -> None:
    """Give MODEL a form in static int8: calibrated on some windows of scenes, its loss measured on others."""
    from typing import get_args

    from tileseg.export.int8 import TARGETS, Calibration
    from tileseg.export.quantise import QuantiseSpec, quantise

    found = quantise(
        QuantiseSpec(
            model=model,
            scenes=tuple(calibration.scenes),
            to=one_of("--to", output.to, tuple(TARGETS)),
            calibration=one_of("--calibration", calibration.calibration, ("auto", *get_args(Calibration))),
            windows=calibration.windows,
            seed=calibration.seed,
            out=output.out,
            overwrite=output.overwrite,
            trust_vrt=calibration.trust_vrt,
        )
    )
    if output.as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found)


def _print(found: Quantised) -> None:
    """A table of what is lost, scene by scene."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("scene", overflow="fold")
    for heading in ("IoU\nfloat32", "IoU\nint8", "lost,\npoints", "labels\nthat differ", "ECE\nfloat32", "ECE\nint8"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for scene in found.scenes:
        ece = (f"{side.calibration_error:.4f}" if scene.truth else "-" for side in (scene.first, scene.second))
        table.add_row(
            Text(scene.name),
            *(f"{scene.score(side):.4f}" for side in (scene.first, scene.second)),
            _points(scene.loss),
            f"{scene.differ / max(1, scene.pixels):.2%}",
            *ece,
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    loss = found.form.loss
    assert loss is not None
    console.print(
        f"int8 ({found.form.calibration['method']}) loses {_points(loss.iou)} points of IoU on "
        f"average and {_points(loss.worst_iou)} at most; "
        f"{loss.labels:.2%} of the labels differ ({loss.data})"
    )
    console.print(f"  {found.folder / found.form.file}")


def _points(loss: float) -> str:
    """Percentage points; 0.00 has no sign."""
    return f"{round(100 * loss, 2) + 0.0:.2f}"
