"""The options of ``tileseg evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tileseg.cli.option import option

_WHAT, _MEANING, _MEASURES, _RUN = "What is compared", "Classes", "Measures", "Running the model"
CONTROL = "Control"


@dataclass(frozen=True, slots=True)
class SubjectOptions:
    """What is compared with what."""

    labels: Annotated[
        tuple[Path, Path] | None,
        option(_WHAT, "Existing labels: rasters, vector files or run folders.", metavar="PRED TRUTH"),
    ] = None
    pairs: Annotated[
        Path | None,
        option(_WHAT, "A table of such: columns prediction, truth, and maybe place, drawn.", metavar="PAIRS.csv"),
    ] = None
    model: Annotated[str | None, option(_WHAT, "Run this model on DATASET: 'embedded' or a model folder.")] = None
    split: Annotated[str, option(_WHAT, "Scenes of DATASET; default validate.", metavar="validate|train|all")] = (
        "validate"
    )
    places: Annotated[
        str | None, option(_WHAT, "Scenes of these places of DATASET instead of a split.", metavar="PLACE,...")
    ] = None
    calibrate: Annotated[
        str | None,
        option(
            _WHAT,
            "Put into the model's card what makes probabilities mean what they say in these scenes (a temperature), or "
            "how likely polygons are real objects.",
            metavar="probabilities|objects",
        ),
    ] = None
    image: Annotated[
        Path | None, option(_WHAT, "With --labels: image shown in the report; gives polygons their pixels.")
    ] = None
    pixel: Annotated[
        float | None, option(_WHAT, "Metres per pixel, where both sides are polygons and there is no --image.")
    ] = None
    trust_vrt: Annotated[
        bool,
        option(_WHAT, "With --labels: let a virtual raster refer to files outside its own folder.", "--trust-vrt"),
    ] = False


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """What classes mean."""

    mapping: Annotated[
        list[str] | None,
        option(
            _MEANING,
            "What a predicted class counts as: building=1, *=0 for all others, road=ignore; may be repeated.",
            "--map",
            metavar="PRED=CLASS",
        ),
    ] = None
    map_truth: Annotated[
        list[str] | None,
        option(_MEANING, "The same for the truth: 255=1, 0=ignore; may be repeated.", metavar="TRUE=CLASS"),
    ] = None
    classes: Annotated[str | None, option(_MEANING, "Names of the classes, by id from 0.", metavar="LIST")] = None
    attribute: Annotated[
        str | None, option(_MEANING, "Column of vector files that says the class; default class_name.")
    ] = None


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """What is measured."""

    boundary: Annotated[
        str | None,
        option(
            _MEASURES,
            "Width of the boundary IoU's band: 0.5 (metres) or 3px; default 2 % of the diagonal, at most 15px.",
            metavar="LENGTH",
        ),
    ] = None
    min_area: Annotated[
        str | None, option(_MEASURES, "Leave smaller polygons out of the matching: 25 or 50px.", metavar="AREA")
    ] = None
    distances: Annotated[bool, option(_MEASURES, "Measure Hausdorff distances.", "--distances/--no-distances")] = True
    polygons: Annotated[bool, option(_MEASURES, "Match polygons.", "--polygons/--no-polygons")] = True


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How the model is run: fields of :class:`tileseg.spec.RunSpec`."""

    scales: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="LIST")] = None
    flips: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="none|h|v|hv|d4")] = None
    facts: Annotated[list[str] | None, option(_RUN, "As for `tileseg run`.", "--fact", metavar="NAME=VALUE")] = None
    engine: Annotated[str | None, option(_RUN, "As for `tileseg run`.")] = None
    precision: Annotated[str | None, option(_RUN, "As for `tileseg run`.")] = None
    workers: Annotated[int | None, option(_RUN, "As for `tileseg run`.")] = None
    max_memory: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="SIZE")] = None
    gsd: Annotated[str | None, option(_RUN, "As for `tileseg run`.", metavar="auto|native|METRES")] = None


@dataclass(frozen=True, slots=True)
class Control:
    """Where results go, and how the command itself behaves."""

    out: Annotated[
        Path, option(CONTROL, "Output folder; default 'evaluation' in the current folder.", "--out", "-o")
    ] = Path("evaluation")
    overwrite: Annotated[bool, option(CONTROL, "Replace an earlier evaluation in --out.", "--overwrite")] = False
    as_json: Annotated[bool, option(CONTROL, "Print the metrics as JSON.", "--json")] = False
    quiet: Annotated[bool, option(CONTROL, "Print errors only.", "--quiet", "-q")] = False
    verbose: Annotated[bool, option(CONTROL, "Print tracebacks, and each block.", "--verbose", "-v")] = False
