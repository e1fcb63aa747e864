"""Every option of a run, strict, from the command line, TOML or Python."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from tileseg.blend import EXACT, stitches
from tileseg.card import HandedOver
from tileseg.errors import InputError, UsageError, did_you_mean
from tileseg.formats import DEFAULT, FORMATS, known_format
from tileseg.globe import globe_of
from tileseg.grid import Grid
from tileseg.plan import Keep
from tileseg.polygons.quantity import Quantity
from tileseg.problems import first_problem, toml_of
from tileseg.reading import ReadingOptions, split
from tileseg.storage.place import BandFiles, Places, Url, fitting, named_after, parse_place, parse_places
from tileseg.tta import Flips, parse_scale, views

AskedPrecision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[AskedPrecision, ...] = get_args(AskedPrecision)
"""What ``--precision`` takes."""

ALGORITHM = 4
"""Raised when the same options would give other pixels or polygons than before: old folders are then not resumed."""

_ELSEWHERE = {
    "scene", "out", "workers", "scheduler", "scheduler_file", "cluster", "max_memory", "performance_report",
    "overwrite", "trust_vrt", "raw", "asset", "missing",
}  # fmt: skip
"""Options that do not decide what comes out."""

Place = Annotated[
    Path | InstanceOf[Url], BeforeValidator(parse_place), PlainSerializer(str, return_type=str, when_used="json")
]
"""A path or an address: made of text."""

DISAGREEMENT = "disagreement"
"""What ``--keep`` takes besides one of :data:`tileseg.plan.Keep`."""

FormatName = Annotated[str, AfterValidator(known_format)]
"""A name of :data:`tileseg.formats.FORMATS`."""


def _scale(value: Any) -> Fraction:
    try:
        return parse_scale(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _stitch(value: str) -> str:
    if value not in stitches():
        raise ValueError(f"{value!r}: expected one of {', '.join(stitches())}{did_you_mean(value, stitches())}")
    return value


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


def _size(value: Any) -> Any:
    if isinstance(value, Quantity):
        return value
    try:
        return Quantity.parse(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _text(value: Any) -> Any:
    """Numbers are meant as they are written, in TOML and in Python."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value}"
    return value.strip() if isinstance(value, str) else value


def _kept(value: Any) -> Any:
    """One of Keep, and perhaps disagreement, in one order: runs are compared by it."""
    names = [str(part).strip() for part in (value.split(",") if isinstance(value, str) else value)]
    extra = [DISAGREEMENT] if DISAGREEMENT in names else []
    main = [name for name in dict.fromkeys(names) if name != DISAGREEMENT] or ["logits"]
    if len(main) > 1 or main[0] not in get_args(Keep):
        raise ValueError(
            f"{','.join(names)}: expected one of {', '.join(get_args(Keep))}, with {DISAGREEMENT} besides or not"
            + did_you_mean(main[0], [*get_args(Keep), DISAGREEMENT])
        )
    return ",".join([*main, *extra])


Scale = Annotated[Fraction, BeforeValidator(_scale), PlainSerializer(str)]
Text = Annotated[str, BeforeValidator(_text)]
Size = Annotated[InstanceOf[Quantity], BeforeValidator(_size), PlainSerializer(str, return_type=str, when_used="json")]
"""An area or a length, made of text or a number."""


class Adapt(BaseModel):
    """Between how many workers a cluster grows and shrinks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: int = Field(default=1, ge=1)
    maximum: int = Field(ge=1)


class Security(BaseModel):
    """Certificates for a ``tls://`` scheduler: PEM files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca_file: Path
    cert: Path
    key: Path


class ClusterSpec(BaseModel):
    """A Dask cluster to compute on: a scheduler that runs already, or a class that starts one."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    scheduler: str | None = Field(default=None, pattern=r"^(tcp|tls|ws|wss|ucx)://\S+$")
    """Address of a running scheduler, such as ``tcp://head:8786``."""
    scheduler_file: Path | None = None
    """File in which a running scheduler wrote its address (``dask scheduler --scheduler-file``)."""
    kind: str | None = Field(default=None, alias="class", pattern=r"^\w+(\.\w+)+$")
    """Dotted path of the class that starts a cluster, such as ``dask_jobqueue.SLURMCluster``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the class is called with."""
    workers: int | None = Field(default=None, ge=1)
    """How many workers the cluster is asked for, where its arguments do not say."""
    adapt: Adapt | None = None
    """Lets the cluster grow and shrink instead."""
    security: Security | None = None
    """Certificates for a scheduler's address."""
    gpu: bool = False
    """Use only workers that see a GPU."""
    wait: float = Field(default=25.0, gt=0)
    """Seconds until the first worker must have come: more where jobs wait in a queue. By default few enough that a run
    without one is refused within half a minute, its own start and end included."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.scheduler, self.scheduler_file, self.kind)) != 1:
            raise ValueError("expected one of scheduler, scheduler_file and class")
        if self.kind is None and (self.arguments or self.workers or self.adapt):
            raise ValueError("arguments, workers and adapt are for a class, not for a scheduler that runs already")
        if self.workers is not None and self.adapt is not None:
            raise ValueError("expected workers or adapt, not both")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a YAML file. Raises UsageError in one line."""
        import yaml

        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8-sig")))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            raise UsageError(f"{path}: {first_problem(error, cls)}") from error


def _cluster(value: Any) -> Any:
    return ClusterSpec.read(Path(value)) if isinstance(value, str | Path) else value


class VectorOptions(BaseModel):
    """Which polygons are wanted, and in which files. Lists may be given as text with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    classes: Annotated[tuple[Text, ...], BeforeValidator(split)] | None = None
    """Names or ids of the classes to vectorise; by default all but background."""
    formats: Annotated[tuple[FormatName, ...], BeforeValidator(split), Field(min_length=1)] = Field(
        default=(DEFAULT,), alias="format"
    )
    """Vector files to write; ``format`` is the same, as on the command line."""
    min_area: Size | None = None
    """Drop smaller polygons: square metres (``25``) or pixels (``50px``)."""
    fill_holes: Size | None = None
    """Fill smaller holes, before polygons are measured; units as above."""
    simplify: Size | None = None
    """Tolerance in metres (``0.5``) or pixels (``2px``); shared borders stay shared. Holds all polygons in memory."""
    regularize: Annotated[tuple[Text, ...], BeforeValidator(split), Field(min_length=1)] | None = None
    """Names or ids of the classes whose outlines get straight walls and right angles, or ``all``; borders that they
    share stay shared."""
    tolerance: Size | None = None
    """How far such outlines may lie from the raw ones: metres (``1``) or pixels (``3px``). By default 1 m, or 2.5
    pixels where that is more; 3 pixels where nothing says how large they are."""
    raw: bool = False
    """Without what the model's card says its users hand over: polygons as GDAL would give them, but for other options
    that are given."""
    connectivity: Literal[4, 8] = 4
    """Whether pixels that touch at a corner are one polygon (8)."""
    pixel_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Metres per pixel of a scene that does not say it: without a coordinate reference system."""

    @model_validator(mode="after")
    def _one_outline(self) -> Self:
        if self.regularize is not None and self.simplify is not None:
            raise ValueError("regularize and --simplify: give only one of them; --tolerance bounds the first")
        if self.tolerance is not None and self.regularize is None:
            raise ValueError("tolerance: is that of --regularize, which is not given")
        return self

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Check options (names as the fields). Raises UsageError in one line."""
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            raise UsageError(option_problem(error, cls)) from error

    def handing_over(self, usual: HandedOver) -> tuple[Self, HandedOver]:
        """The options with those that the model's users usually take, unless given or ``raw``; and which were taken.

        Outlines are made regular only where nothing is said of them.
        """
        taken = {} if self.raw else {name: v for name, v in usual.given.items() if getattr(self, name) is None}
        if self.simplify is not None or self.regularize is not None:
            for name in ("regularize", "tolerance"):
                taken.pop(name, None)
        if not taken:
            return self, HandedOver()
        parsed = VectorOptions.parse(taken)
        options = self.model_copy(update={name: getattr(parsed, name) for name in taken})
        return options, HandedOver.model_validate(taken)

    @property
    def shapes(self) -> bool:
        """Whether polygons are wanted otherwise than the pixels have them."""
        return any(size is not None for size in (self.min_area, self.fill_holes, self.simplify, self.regularize))

    def pixel_metres(self, grid: Grid) -> tuple[float, float] | None:
        """Metres from a pixel to the next along a row and along a column: the grid's own, or as the user says."""
        if grid.pixel_metres is None and self.pixel_size is not None:
            return self.pixel_size, self.pixel_size
        return grid.pixel_metres

    def vector_notices(self, grid: Grid) -> list[str]:
        """What the user should know of the polygons that come of these options on this grid, a line each."""
        if grid.geod is not None:
            in_degrees = [name for name in self.formats if FORMATS[name].in_degrees]
            if not in_degrees or grid.crs_wkt is None or globe_of(grid.crs_wkt).is_earth:
                return []
            body = globe_of(grid.crs_wkt).degrees.name
            what = f"{', '.join(in_degrees)} will hold longitude and latitude in {body!r}"
            return [f"the scene is not of the Earth: {what}; the other formats keep the scene's CRS"]
        if self.pixel_metres(grid) is not None:
            return []
        sizes = {
            "--min-area": self.min_area, "--fill-holes": self.fill_holes,
            "--simplify": self.simplify, "--tolerance": self.tolerance,
        }  # fmt: skip
        return [
            f"{name} {size} counts pixels: nothing says how large they are; --pixel-size METRES does"
            for name, size in sizes.items()
            if size is not None and not size.in_pixels
        ]


class RunSpec(VectorOptions, ReadingOptions):
    """One run: which scene, which model, how, and which polygons. Lists may be given as text with commas."""

    scene: Annotated[
        Path | InstanceOf[Url] | InstanceOf[Places] | InstanceOf[BandFiles],
        BeforeValidator(parse_places),
        PlainSerializer(str, return_type=str, when_used="json"),
    ]
    """A raster that GDAL reads: a path, or an address such as ``s3://bucket/scene.tif``. Or many on one grid: a folder,
    a pattern, a list of files (in a file, or of Python). Or a file for each band: a table, name = file."""
    out: Place | None = None
    """Output folder, or an address on an object store; by default ``<stem>.tileseg`` in the current folder
    (``<stem>-<page or table>.tileseg`` of one raster of several in a file)."""
    model: str = "embedded"
    """``embedded``, or a model folder (card.json + model.keras or model.onnx)."""

    scales: Annotated[tuple[Scale, ...], BeforeValidator(split), Field(min_length=1)] = (Fraction(1),)
    """Exact fractions; the network sees the scene at each of them."""
    gsd: Annotated[Literal["auto", "native"] | float, BeforeValidator(_distance)] = "auto"
    """Ground sample distance at which the model sees the scene. ``auto``: the model's own, where the scene's differs by
    more than a fifth; ``native``: the scene's; a number: as if the model's were so many metres. ``scales`` are relative
    to it."""
    flips: Flips = "none"
    """Symmetries of every scale: h 2, v 2, hv 4, d4 8 views."""
    merge: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the views."""
    stitch: Annotated[str, AfterValidator(_stitch)] = EXACT
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
    engine: str = "auto"
    """What computes the network: a name of the registry of engines; ``auto``: the fastest for model and machine."""
    precision: AskedPrecision = "auto"
    """The network's arithmetic; ``auto``: the fastest that engine and machine have, at next to no loss."""
    keep: Annotated[str, BeforeValidator(_kept)] = "logits"
    """What the mosaic keeps besides labels: logits, probabilities (also as COGs) or nothing (``labels``), and with
    ``,disagreement`` the standard deviation of probabilities over the views (also as a COG and of polygons).
    ``disagreement`` alone is with logits."""

    aoi: Path | None = None
    """Vector file: only blocks that it touches are computed, outputs are clipped to it (pixel centres)."""

    workers: int | None = Field(default=None, ge=0)
    """Worker processes; 0: none, and one block at a time. None: none on one device, one for each of several GPUs."""
    max_memory: ByteSize | None = None
    """Most memory for all processes together, such as ``8GiB``."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers compute the blocks."""
    scheduler_file: Path | None = None
    """The same, from the file that the scheduler wrote."""
    cluster: Annotated[ClusterSpec | None, BeforeValidator(_cluster)] = Field(default=None, exclude=True)
    """A cluster to start or to connect to; as text: a YAML file. Left out of dumps: it may hold secrets."""
    performance_report: Path | None = None
    """Where to write Dask's own report (HTML) of the run."""
    overwrite: bool = False
    """Start anew in a folder that is finished or was made with other options."""

    @field_validator("out")
    @classmethod
    def _can_be_written(cls, value: Path | Url | None) -> Path | Url | None:
        if isinstance(value, Url) and not value.writable:
            raise ValueError(f"{value}: web servers are only read; expected a folder, s3://, gs:// or az://")
        if isinstance(value, Url) and not value.key:
            raise ValueError(f"{value}: expected a place in the bucket, such as {value}/results")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(way is not None for way in (self.scheduler, self.scheduler_file, self.cluster)) > 1:
            raise ValueError("scheduler, --scheduler-file, --cluster: give only one of them")
        if self.workers is not None and (self.scheduler or self.scheduler_file):
            raise ValueError("workers: a scheduler that runs already has its own workers; all of them are used")
        if self.workers == 0 and (self.cluster or self.performance_report):
            raise ValueError("workers 0: computes in this process, so without --cluster and --performance-report")
        return self

    @model_validator(mode="after")
    def _several_views(self) -> Self:
        if self.keeps_disagreement and len(views(self.scales, self.flips)) < 2:
            raise ValueError(
                "keep disagreement: there is one view, which has none to disagree with; add --flips h (hv, d4) or more "
                "--scales"
            )
        return self

    @property
    def kept(self) -> Keep:
        """What the mosaic has of each class besides labels."""
        return cast(Keep, self.keep.partition(",")[0])

    @property
    def keeps_disagreement(self) -> bool:
        """Whether the disagreement of views is kept."""
        return self.keep.endswith(DISAGREEMENT)

    @property
    def remote(self) -> ClusterSpec | None:
        """The cluster that computes, or None: processes on this machine.

        Without an option for it, DASK_SCHEDULER_ADDRESS counts, unless ``workers`` says how many local ones there are.
        Raises UsageError where an address is none.
        """
        address = self.scheduler
        if address is None and self.scheduler_file is None and self.cluster is None and self.workers is None:
            address = os.environ.get("DASK_SCHEDULER_ADDRESS")
        if address:
            try:
                return ClusterSpec(scheduler=address)
            except ValidationError:
                raise UsageError(
                    f"{address}: not the address of a scheduler: expected tcp://HOST:PORT or tls://HOST:PORT"
                ) from None
        if self.scheduler_file is not None:
            return ClusterSpec(scheduler_file=self.scheduler_file)
        if self.cluster is not None and self.workers is not None:
            return self.cluster.model_copy(update={"workers": self.workers, "adapt": None})
        return self.cluster

    @property
    def folder(self) -> Path | Url:
        """Where the outputs go."""
        return self.out or Path(fitting(named_after(self.scene), ".tileseg"))

    def choices(self) -> dict[str, Any]:
        """The options that decide what comes out, as JSON values: two runs that differ here do not share a folder."""
        return self.model_dump(mode="json", exclude=_ELSEWHERE)


def option_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint about options, as the command line spells them."""
    where, colon, problem = first_problem(error, model).partition(": ")
    name = where.partition(".")[0].replace("_", "-")  # the option, not the place in its list
    return f"--{'format' if name == 'formats' else name}{colon}{problem}"


def option_name(text: str) -> str:
    """The field of an option, which may be written as on the command line."""
    name = text.replace("-", "_")
    return "formats" if name == "format" else name


def read_config(path: Path) -> dict[str, Any]:
    """Options of a TOML file, unchecked: as on the command line, or with underscores. Raises UsageError."""
    try:
        options = toml_of(path)
    except InputError as error:
        raise UsageError(f"--config {error}") from error
    return {option_name(name): value for name, value in options.items()}
