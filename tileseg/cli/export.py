"""``tileseg model export``: parse, call, report."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from tileseg.cli.option import expand, one_of, option
from tileseg.errors import UsageError

_FORMAT, _INSIDE, _OUTPUT = "Format", "What is inside", "Output"


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """What is written."""

    to: Annotated[str, option(_FORMAT, "Format.", metavar="keras|savedmodel|onnx|litert|openvino")]
    precision: Annotated[
        str, option(_FORMAT, "float32 (default), float16 or int8.", metavar="float32|float16|int8")
    ] = "float32"
    size: Annotated[
        str | None,
        option(
            _FORMAT,
            "Of the image; by default free, and 512x512 for savedmodel and litert.",
            metavar="ROWSxCOLUMNS|free",
        ),
    ] = None
    layout: Annotated[
        str | None,
        option(_FORMAT, "Order of axes, of onnx and openvino; by default the network's own.", metavar="nhwc|nchw"),
    ] = None
    scenes: Annotated[
        list[str] | None,
        option(
            _FORMAT, "For litert in int8: a dataset or scenes that give the ranges, as for `tileseg model quantize`.",
            "--with", metavar="SCENES|DATASET",
        ),
    ] = None  # fmt: skip
    seed: Annotated[int, option(_FORMAT, "Decides which windows of them are drawn (default 0).")] = 0
    trust_vrt: Annotated[
        bool, option(_FORMAT, "Virtual rasters may refer to files outside their own folder.", "--trust-vrt")
    ] = False


@dataclass(frozen=True, slots=True)
class InsideOptions:
    """What stands around the network."""

    scaling: Annotated[
        bool,
        option(_INSIDE, "Take pixel values, or (default) values that are scaled.", "--with-scaling/--without-scaling"),
    ] = False
    softmax: Annotated[
        bool,
        option(_INSIDE, "Give probabilities, or (default) what the network gives.", "--with-softmax/--without-softmax"),
    ] = False


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where it goes."""

    out: Annotated[Path, option(_OUTPUT, "File to write (of savedmodel: folder).", "--out", "-o")]
    overwrite: Annotated[bool, option(_OUTPUT, "Replace what is there.", "--overwrite")] = False
    as_json: Annotated[bool, option(_OUTPUT, "Print JSON.", "--json")] = False
    verbose: Annotated[bool, option(_OUTPUT, "Print tracebacks.", "--verbose", "-v")] = False


@expand
def command(
    model: Annotated[str, typer.Argument(help="`embedded`, or a model folder.")],
    *,
    format: FormatOptions,  # noqa: A002 - its name
    inside: InsideOptions,
    output: OutputOptions,
) -> None:
    """Write MODEL as a file for another program: Keras, TensorFlow, ONNX Runtime, TensorRT, LiteRT, OpenVINO."""
    from typing import get_args

    from tileseg.export.files import TARGETS, ExportSpec, Precision, export
    from tileseg.nn.onnx_wrap import Layout

    found = export(
        ExportSpec(
            model=model,
            to=one_of("--to", format.to, tuple(TARGETS)),
            out=output.out,
            precision=one_of("--precision", format.precision, get_args(Precision)),
            scaling=inside.scaling,
            softmax=inside.softmax,
            size=_size(format.size),
            layout=None if format.layout is None else one_of("--layout", format.layout, get_args(Layout)),
            scenes=tuple(format.scenes or ()),
            seed=format.seed,
            overwrite=output.overwrite,
            trust_vrt=format.trust_vrt,
        )
    )
    facts = found.facts()
    if output.as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        for name, fact in facts.items():
            typer.echo(f"{name:<6} {fact}")


def _size(text: str | None) -> tuple[int, int] | Literal["free"] | None:
    if text is None:
        return None
    if text == "free":
        return "free"
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise UsageError(f"--size {text}: expected ROWSxCOLUMNS such as 512x512, or free")
    return int(match[1]), int(match[2])
