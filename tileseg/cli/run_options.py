"""The options of a run, which ``tileseg run`` and ``tileseg batch`` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from tileseg.blend import BLENDS, stitches
from tileseg.choices import Missing, OnTop, Resampling, Values
from tileseg.cli.option import option
from tileseg.engine.kinds import ENGINES
from tileseg.formats import DEFAULT, FORMATS
from tileseg.hounsfield import PRESETS

MODEL, VIEWS, SIZES = "Model", "Views and stitching", "Sizes and resources"
SCENE, FILES, VECTORS, CONTROL = "Scene", "Several files, grids, bands of quality", "Polygons", "Control"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which network, what computes it, and its arithmetic."""

    model: Annotated[
        str | None, option(MODEL, "'embedded' (default), a model folder, or a network's file with --fact.")
    ] = None
    facts: Annotated[
        list[str] | None,
        option(
            MODEL,
            "Of a network's own file as --model: what `tileseg model pack` takes, such as "
            "classes=ground:#c8b99a,building:#d9544d, mean=..., gsd=0.3; may be given several times.",
            "--fact",
            metavar="NAME=VALUE",
        ),
    ] = None
    engine: Annotated[
        str | None,
        option(
            MODEL,
            "What computes the network; auto (default): the fastest that model and machine have (docs/engines.md).",
            metavar="|".join(["auto", *ENGINES]),
        ),
    ] = None
    precision: Annotated[
        str | None,
        option(
            MODEL,
            "auto (default), float32, bfloat16, float16, or int8 of a quantised form.",
            metavar="auto|float32|bfloat16|float16|int8",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How often and in what way the network sees the scene, and how windows become a whole."""

    scales: Annotated[
        str | None, option(VIEWS, "Exact fractions or decimals, such as 1/2,1,3/2; default 1.", metavar="LIST")
    ] = None
    gsd: Annotated[
        str | None,
        option(
            VIEWS,
            "Metres per pixel that the model is to see; auto (default): its own, where the scene's differ by more than "
            "a fifth; native: the scene's.",
            metavar="auto|native|METRES",
        ),
    ] = None
    flips: Annotated[
        str | None, option(VIEWS, "none (default), h, v, hv or d4: 1, 2, 2, 4, 8 views.", metavar="none|h|v|hv|d4")
    ] = None
    merge: Annotated[str | None, option(VIEWS, "What views average: logits (default) or probabilities.")] = None
    stitch: Annotated[
        str | None,
        option(VIEWS, f"exact (default), or blend windows: {', '.join(BLENDS)}.", metavar="|".join(stitches())),
    ] = None
    overlap: Annotated[
        float | None, option(VIEWS, "Overlap of blended windows, a share of their size; default 0.5.")
    ] = None
    halo: Annotated[
        str | None, option(VIEWS, "Context in pixels; auto (default) derives it from the model.", metavar="auto|N")
    ] = None


@dataclass(frozen=True, slots=True)
class SizeOptions:
    """In what pieces, and on what."""

    block: Annotated[int | None, option(SIZES, "Side of a block: one task, one shard.")] = None
    window: Annotated[int | None, option(SIZES, "Side of the network's input, halo included.")] = None
    batch: Annotated[int | None, option(SIZES, "Windows in one call of the network.")] = None
    workers: Annotated[
        int | None,
        option(
            SIZES,
            "Worker processes; 0: none, block by block. Default: none on one device (in a batch: one), one per GPU.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        option(SIZES, "Compute on the workers of this Dask scheduler, tcp:// or tls://.", metavar="ADDRESS"),
    ] = None
    scheduler_file: Annotated[
        Path | None, option(SIZES, "The same, by the file in which the scheduler wrote its address.", metavar="FILE")
    ] = None
    cluster: Annotated[
        Path | None, option(SIZES, "Compute on the cluster that this file describes.", metavar="SPEC.yaml")
    ] = None
    max_memory: Annotated[
        str | None, option(SIZES, "Most memory over all processes, such as 8GiB.", metavar="SIZE")
    ] = None


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What is left behind besides labels and polygons."""

    performance_report: Annotated[
        Path | None, option(CONTROL, "Write Dask's report of the run.", metavar="FILE.html")
    ] = None
    keep: Annotated[
        str | None,
        option(
            CONTROL,
            "What the mosaic keeps besides labels; default logits. Probabilities, and the disagreement of views that "
            "comes with any of them, become COGs too.",
            metavar="logits|probabilities|labels[,disagreement]",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """What of the scene is read, and how."""

    bands: Annotated[
        str | None,
        option(SCENE, "Bands in the model's order: numbers from 1 (4,3,2) or names (red,green,blue).", metavar="LIST"),
    ] = None
    aoi: Annotated[Path | None, option(SCENE, "Vector file: compute only what it touches, clip to it.")] = None
    window_center: Annotated[
        float | None, option(SCENE, "Middle of the values that are told apart (of a CT: HU); with --window-width.")
    ] = None
    window_width: Annotated[float | None, option(SCENE, "How many values are told apart.")] = None
    window_preset: Annotated[
        str | None, option(SCENE, f"Both, in Hounsfield units: {', '.join(PRESETS)}.", metavar="NAME")
    ] = None
    tissue: Annotated[
        str | None, option(SCENE, "Skip the glass of a slide (auto, default), or nothing of it.", metavar="auto|none")
    ] = None
    warp: Annotated[bool | None, option(SCENE, "Warp a scene that has only control points or RPCs.", "--warp")] = None
    pixel_size: Annotated[
        float | None,
        option(SCENE, "Metres per pixel, of a scene without a coordinate reference system.", metavar="METRES"),
    ] = None
    trust_vrt: Annotated[
        bool | None, option(SCENE, "Let a virtual raster refer to files outside its own folder.", "--trust-vrt")
    ] = None


@dataclass(frozen=True, slots=True)
class JoiningOptions:
    """How several files become one scene."""

    crs: Annotated[
        str | None, option(FILES, "Coordinate reference system of the scene; default: that of most files.")
    ] = None
    resolution: Annotated[
        float | None,
        option(FILES, "Side of its pixels, in units of that system; default: that of most files.", metavar="SIZE"),
    ] = None
    resampling: Annotated[
        str | None,
        option(
            FILES, "How files on another grid are warped; default bilinear.", metavar="|".join(get_args(Resampling))
        ),
    ] = None
    on_top: Annotated[
        str | None,
        option(
            FILES,
            "Which file counts where several have data: the first (default) or last in their order (of folders and "
            "patterns: by name), or the newest.",
            metavar="|".join(get_args(OnTop)),
        ),
    ] = None
    mask: Annotated[
        list[str] | None,
        option(
            FILES,
            "A band of quality, and what of it hides a pixel: SCL:3,8-10, or QA_PIXEL:bit1,bit3-4; may be given "
            "several times.",
            metavar="BAND:VALUES",
        ),
    ] = None
    values: Annotated[
        str | None,
        option(
            FILES,
            "stored (default); harmonized: without the offset that metadata says; physical: with its scale and offset.",
            metavar="|".join(get_args(Values)),
        ),
    ] = None
    asset: Annotated[str | None, option(FILES, "Key or role of the STAC asset that is the scene.", metavar="NAME")] = (
        None
    )
    missing: Annotated[
        str | None,
        option(
            FILES,
            "What becomes of files that are missing or broken: fail (default), or nodata: the run goes on without.",
            metavar="|".join(get_args(Missing)),
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class PolygonOptions:
    """Which polygons, and in what files."""

    classes: Annotated[
        str | None, option(VECTORS, "Names or ids to vectorise; default all but background.", metavar="LIST")
    ] = None
    formats: Annotated[
        str | None,
        option(VECTORS, f"Some of {', '.join(FORMATS)}; default {DEFAULT}.", "--format", metavar="LIST"),
    ] = None
    min_area: Annotated[
        str | None, option(VECTORS, "Drop smaller polygons: 25 (square metres) or 50px.", metavar="AREA")
    ] = None
    fill_holes: Annotated[str | None, option(VECTORS, "Fill smaller holes; as above.", metavar="AREA")] = None
    simplify: Annotated[
        str | None, option(VECTORS, "Tolerance: 0.5 (metres) or 2px; borders stay shared.", metavar="LENGTH")
    ] = None
    regularize: Annotated[
        str | None,
        option(
            VECTORS,
            "Straight walls and right angles for these classes, or all; borders stay shared.",
            metavar="LIST|all",
        ),
    ] = None
    tolerance: Annotated[
        str | None,
        option(VECTORS, "How far --regularize may move outlines: 1 (metres, default) or 3px.", metavar="LENGTH"),
    ] = None
    raw: Annotated[
        bool | None, option(VECTORS, "Not as the model's card says that its users hand over polygons.", "--raw")
    ] = None
    connectivity: Annotated[
        int | None, option(VECTORS, "4 (default) or 8: whether corners connect.", metavar="4|8")
    ] = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a scene is segmented: fields of :class:`tileseg.spec.RunSpec`, None where the user says nothing."""

    model: ModelOptions
    views: ViewOptions
    sizes: SizeOptions
    records: RecordOptions
    scene: SceneOptions
    joining: JoiningOptions
    polygons: PolygonOptions
