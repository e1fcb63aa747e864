"""Every option of a run, strict, from the command line, TOML or Python."""

from __future__ import annotations

import math
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, PlainSerializer, ValidationError

from tileseg.errors import UsageError
from tileseg.nn.card import first_problem
from tileseg.plan import Keep, Stitch
from tileseg.tta import Flips, parse_scale

ALGORITHM = 1
"""Raised when the same options would give other pixels or polygons than before: old folders are then not resumed."""

VectorFormat = Literal["geojson", "geojsonseq", "gpkg", "parquet", "fgb"]


def _split(value: Any) -> Any:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _scale(value: Any) -> Fraction:
    try:
        return parse_scale(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _distance(value: Any) -> Any:
    if value in ("auto", "native"):
        return value
    try:
        metres = float(value)
    except (TypeError, ValueError):
        metres = math.nan
    if not 0 < metres < math.inf:
        raise ValueError(f"{value!r}: expected auto, native or metres per pixel, such as 0.3")
    return metres


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


Scale = Annotated[Fraction, BeforeValidator(_scale), PlainSerializer(str)]
Text = Annotated[str, BeforeValidator(_stripped)]
Bands = Annotated[tuple[Annotated[int, Field(ge=1, strict=False)], ...], BeforeValidator(_split)]


class RunSpec(BaseModel):
    """One run: which scene, which model, and how. Lists may be given as text with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scene: Path
    """A raster that GDAL reads."""
    out: Path | None = None
    """Output folder; by default ``<stem of the scene>.tileseg`` in the current folder."""
    model: str = "embedded"
    """``embedded``, or a model folder (card.json + model.keras)."""

    scales: Annotated[tuple[Scale, ...], BeforeValidator(_split), Field(min_length=1)] = (Fraction(1),)
    """Exact fractions; the network sees the scene at each of them."""
    gsd: Annotated[Literal["auto", "native"] | float, BeforeValidator(_distance)] = "auto"
    """Ground sample distance at which the model sees the scene. ``auto``: the model's own, where the scene's differs by
    more than a fifth; ``native``: the scene's; a number: as if the model's were so many metres. ``scales`` are relative
    to it."""
    flips: Flips = "none"
    """Symmetries of every scale: h 2, v 2, hv 4, d4 8 views."""
    merge: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the views."""
    stitch: Stitch = "exact"
    """``exact`` gives each window its halo; the others blend overlapping windows, for models that are not local."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a window that the next one covers again, when blending."""
    halo: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Context in pixels; ``auto`` derives it from the model's graph."""
    block: int | None = Field(default=None, ge=1)
    """Side of a block (task, shard) in pixels."""
    window: int | None = Field(default=None, ge=1)
    """Side of the network's input at scale 1, halo included, in pixels."""
    batch: int | None = Field(default=None, ge=1)
    """Windows in one call of the network."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The network's arithmetic; ``auto``: bfloat16 where the device has it, else float32."""
    keep: Keep = "logits"
    """What the mosaic keeps besides labels."""

    bands: Bands | None = None
    """1-based bands of the scene in the order that the model expects."""
    warp: bool = False
    """Warp a scene that has only ground control points or RPCs onto a grid, instead of refusing it."""
    aoi: Path | None = None
    """Vector file: only blocks that it touches are computed, outputs are clipped to it (pixel centres)."""

    classes: Annotated[tuple[Text, ...], BeforeValidator(_split)] | None = None
    """Names or ids of the classes to vectorise; by default all that the card does not call background."""
    formats: Annotated[tuple[VectorFormat, ...], BeforeValidator(_split), Field(min_length=1)] = ("geojson",)
    """Vector files to write."""
    min_area: str | None = None
    """Drop smaller polygons: square metres (``25``) or pixels (``50px``)."""
    fill_holes: str | None = None
    """Fill smaller holes; units as above."""
    simplify: str | None = None
    """Tolerance in metres (``0.5``) or pixels (``2px``); shared borders stay shared."""
    connectivity: Literal[4, 8] = 4
    """Whether pixels that touch at a corner are one polygon (8)."""

    workers: int | None = Field(default=None, ge=0)
    """Worker processes; 0 computes in this process."""
    max_memory: ByteSize | None = None
    """Most memory for all processes together, such as ``8GiB``."""
    overwrite: bool = False
    """Start anew in a folder that is finished or was made with other options."""

    @classmethod
    def parse(cls, options: dict[str, Any]) -> Self:
        """Check options (names as the fields). Raises UsageError in one line."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            raise UsageError(f"--{first_problem(error).replace('_', '-', 1)}") from error

    @property
    def folder(self) -> Path:
        """Where the outputs go."""
        return self.out or Path(f"{self.scene.name.removesuffix(self.scene.suffix) or 'scene'}.tileseg")

    def choices(self) -> dict[str, Any]:
        """The options that decide what comes out, as JSON values: two runs that differ here do not share a folder."""
        return self.model_dump(mode="json", exclude={"scene", "out", "workers", "max_memory", "overwrite"})


def read_config(path: Path) -> dict[str, Any]:
    """Options of a TOML file, unchecked. Raises UsageError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error
