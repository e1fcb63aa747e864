"""A model as a file for another program: Keras, SavedModel, ONNX, LiteRT, OpenVINO."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tileseg.card import ModelCard, Scaling
from tileseg.cluster import hardware
from tileseg.engine.registry import open_network
from tileseg.errors import InputError, UsageError
from tileseg.export.loss import Labeller
from tileseg.export.scenes import Seen, SeenScene, open_scenes
from tileseg.export.windows import choose
from tileseg.labels import Labels
from tileseg.nn.folder import load_card, resolve_model

if TYPE_CHECKING:
    import onnx

    from tileseg.nn.backend import keras
    from tileseg.nn.onnx_graph import OnnxGraph
    from tileseg.nn.onnx_wrap import Layout

Precision = Literal["float32", "float16", "int8"]

PLAIN_SIDE = 512
"""Pixels: rows and columns of formats that need a size, where none is given."""
WINDOWS = 32
"""Windows that give the ranges of LiteRT's int8."""


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What is written, and how."""

    model: str
    """``embedded`` or a model folder."""
    to: str
    """A name of :data:`TARGETS`."""
    out: Path
    precision: Precision = "float32"
    scaling: bool = False
    """Whether the file takes pixel values; otherwise they have to be scaled already."""
    softmax: bool = False
    """Whether it gives probabilities, where the network gives logits."""
    size: tuple[int, int] | Literal["free"] | None = None
    """Rows and columns of the image; None: any, where the format can."""
    layout: Layout | None = None
    scenes: tuple[str, ...] = ()
    """For int8 of LiteRT: what the ranges of values are found on."""
    seed: int = 0
    overwrite: bool = False
    trust_vrt: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """An export whose options are known to make sense."""

    spec: ExportSpec
    folder: Path
    card: ModelCard
    size: tuple[int, int] | None
    """Rows and columns; None: any."""

    @property
    def scaling(self) -> Scaling | None:
        """What goes into the file."""
        return self.card.scaling if self.spec.scaling else None

    @property
    def probabilities(self) -> bool:
        """Whether a softmax or sigmoid is to follow the network."""
        return self.spec.softmax and self.card.activation == "logits"


@dataclass(frozen=True, slots=True)
class Target:
    """A format that models are written in."""

    suffix: str
    """Of the file; empty: a folder."""
    precisions: tuple[Precision, ...]
    write: Callable[[Job, Path], None]
    from_keras: bool
    """Whether Keras writes it, from ``model.keras`` alone."""
    any_size: bool
    """Whether it can take images of any size."""
    package: str = "tileseg"
    """What has to be importable."""
    extra: str = ""
    """Which extra brings the package."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    job: Job
    layout: Layout

    @property
    def bytes(self) -> int:
        """Of all its files."""
        files = [self.path] if self.path.is_file() else [p for p in self.path.rglob("*") if p.is_file()]
        files += [beside for beside in [self.path.with_suffix(".bin")] if self.path.suffix == ".xml"]
        return sum(file.stat().st_size for file in files)

    def facts(self) -> dict[str, str]:
        """What somebody needs to know who opens it."""
        job, card = self.job, self.job.card
        given = "pixel values" if job.spec.scaling else "values scaled as `tileseg model info` says"
        gives = {"logits": "logits", "softmax": "probabilities", "sigmoid": "the probability of the second class"}
        what = gives[card.activation]
        if job.probabilities:
            what = gives["softmax" if card.output_channels > 1 else "sigmoid"]
        return {
            "file": f"{self.path}, {self.bytes / 1e6:.1f} MB: {job.spec.to}, {job.spec.precision}",
            "image": f"{self._shape(len(card.bands))} float32: {given} of {', '.join(card.bands)}",
            "map": f"{self._shape(card.output_channels)} float32: {what} of {', '.join(i.name for i in card.classes)}",
            "sides": f"multiples of {card.stride}"
            + (f"; what is nearer than {card.halo} pixels to an edge lacks its surroundings" if card.local else ""),
        }

    def _shape(self, channels: int) -> str:
        """Of image or map."""
        sizes = ["n", "rows", "columns"] if self.job.size is None else ["1", *map(str, self.job.size)]
        sizes.insert(3 if self.layout == "nhwc" else 1, str(channels))
        return f"({', '.join(sizes)})"


def export(spec: ExportSpec) -> Exported:
    """Write a model in another format, whole or not at all.

    Raises:
        InputError: If the network cannot be said in it.
        UsageError: If options do not go together, a package is missing, or the file is there already.
    """
    target = TARGETS[spec.to]
    folder = resolve_model(spec.model)
    card = load_card(folder)
    job = Job(spec, folder, card, _size(spec, target, card))
    _check(job, target)
    with _written(spec.out, overwrite=spec.overwrite) as partial:
        target.write(job, partial)
    return Exported(spec.out, job, _layout(job, target))


def _keras(job: Job, path: Path) -> None:
    from tileseg.nn.keras_files import write_keras

    write_keras(_keras_model(job), path)


def _savedmodel(job: Job, path: Path) -> None:
    from tileseg.nn.keras_files import write_savedmodel

    write_savedmodel(_keras_model(job), path)


def _litert(job: Job, path: Path) -> None:
    from tileseg.nn.keras_files import write_litert

    images = _representative(job) if job.spec.precision == "int8" else ()
    write_litert(_keras_model(job), path, job.spec.precision, images)


def _onnx(job: Job, path: Path) -> None:
    from tileseg.nn.onnx_file import write_onnx

    write_onnx(_onnx_model(job), path)


def _openvino(job: Job, path: Path) -> None:
    from tileseg.nn.openvino_file import write_openvino

    write_openvino(_onnx_model(job), path, half=job.spec.precision == "float16")


TARGETS: dict[str, Target] = {
    "keras": Target(".keras", ("float32",), _keras, from_keras=True, any_size=True),
    "savedmodel": Target("", ("float32",), _savedmodel, from_keras=True, any_size=False),
    "onnx": Target(".onnx", ("float32", "float16", "int8"), _onnx, from_keras=False, any_size=True),
    "litert": Target(".tflite", ("float32", "float16", "int8"), _litert, from_keras=True, any_size=False),
    "openvino": Target(
        ".xml", ("float32", "float16", "int8"), _openvino, from_keras=False, any_size=True,
        package="openvino", extra="openvino",
    ),
}  # fmt: skip
"""Name for ``--to`` -> format. Another one is a line, and a function that writes it."""


def _keras_model(job: Job) -> keras.Model:
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.keras_files import wrapped

    return wrapped(load_bundle(job.folder)[0], job.size, job.scaling, probabilities=job.probabilities)


def _onnx_model(job: Job) -> onnx.ModelProto:
    """The network in the precision that is asked for, as the file is to have it; OpenVINO makes float16 itself."""
    from tileseg.nn.onnx_wrap import Wrapping, halved, wrapped

    wrapping = Wrapping(job.scaling, job.probabilities, job.size, job.spec.layout)
    model = wrapped(_graph(job), wrapping)
    return halved(model) if job.spec.precision == "float16" and job.spec.to == "onnx" else model


def _graph(job: Job) -> OnnxGraph:
    """The network's ONNX form; one that is not there is made, and not kept."""
    from tileseg.nn.onnx_bundle import load_graph
    from tileseg.nn.onnx_file import open_onnx
    from tileseg.nn.onnx_graph import OnnxGraph

    weights = "int8" if job.spec.precision == "int8" else "float32"
    files = [form.file for form in job.card.forms if form.suffix == ".onnx" and form.precision == weights]
    if files:
        return load_graph(job.folder, job.card.using(files[0]))
    from tileseg.nn.bundle import load_bundle
    from tileseg.nn.keras_export import export_onnx

    with tempfile.TemporaryDirectory(prefix="tileseg-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(load_bundle(job.folder)[0], path)
        return OnnxGraph(open_onnx(path), len(job.card.bands), job.card.name)


def _representative(job: Job) -> Sequence[npt.NDArray[np.float32]]:
    """Images (rows, columns, bands) of real scenes, as the file will be given them."""
    card, size = job.card, job.size
    assert size is not None
    scenes = open_scenes(job.spec.scenes, card, trust_vrt=job.spec.trust_vrt)
    network = open_network(job.folder, card, hardware.cpu().cores)
    side = max(size)
    labeller: list[Labeller] = []

    def labels_of(scene: SeenScene, seen: Seen) -> Labels:
        if scene.truth is not None:
            return seen.labels
        labeller.extend([] if labeller else [Labeller(network, side)])
        return labeller[0].labels(seen.image, seen.valid)

    places = choose(
        scenes, labels_of, classes=len(card.classes), stride=card.stride, counts=(WINDOWS, 1), seed=job.spec.seed,
        side=side,
    )  # fmt: skip
    images = [place.scene.read(place.window, side).image[: size[0], : size[1]] for place in places.calibration]
    if job.scaling is None:
        return images
    unit, zero = (np.asarray(values, np.float32) for values in (job.scaling.unit, job.scaling.zero))
    return [image * unit + zero for image in images]


def _size(spec: ExportSpec, target: Target, card: ModelCard) -> tuple[int, int] | None:
    """The size of the image: what is asked for, or what the format needs. Raises UsageError."""
    if spec.size == "free" and not target.any_size:
        raise UsageError(
            f"--size free: files of {spec.to} are for images of one size; expected ROWSxCOLUMNS such as 512x512"
        )
    if spec.size is None or spec.size == "free":
        side = -(-PLAIN_SIDE // card.stride) * card.stride
        return None if target.any_size else (side, side)
    if any(length < 1 or length % card.stride for length in spec.size):
        near = "x".join(str(max(1, round(length / card.stride)) * card.stride) for length in spec.size)
        raise UsageError(
            f"--size {spec.size[0]}x{spec.size[1]}: expected multiples of the model's stride {card.stride}, such as "
            f"{near}"
        )
    return spec.size


def _check(job: Job, target: Target) -> None:
    """Raise UsageError or InputError for what the format, the model or this machine has not."""
    spec, card = job.spec, job.card
    forms = [(form.suffix, form.precision) for form in card.forms]
    held = " and ".join(form.file for form in card.forms)
    if spec.out.suffix.lower() != target.suffix and target.suffix:
        raise UsageError(f"--out {spec.out}: expected a name that ends in {target.suffix} for --to {spec.to}")
    if spec.precision not in target.precisions:
        raise UsageError(f"--precision {spec.precision}: {spec.to} is written in {' or '.join(target.precisions)} here")
    if target.from_keras and ".keras" not in {suffix for suffix, _ in forms}:
        others = " or ".join(name for name, each in TARGETS.items() if not each.from_keras)
        raise InputError(f"{job.folder}: holds {held}: {spec.to} is made from a Keras model; expected --to {others}")
    if not target.from_keras and spec.precision == "int8" and (".onnx", "int8") not in forms:
        raise UsageError(
            f"--precision int8: model {card.name} has {held}; make an int8 form first: tileseg model quantize "
            f"{spec.model} --with SCENES"
        )
    if not target.from_keras and spec.precision != "int8" and all(precision == "int8" for _, precision in forms):
        raise UsageError(f"--precision {spec.precision}: model {card.name} has {held} alone; expected --precision int8")
    if target.from_keras and spec.layout == "nchw":
        raise UsageError(f"--layout nchw: {spec.to} has channels last; it is for onnx and openvino")
    if spec.scaling and card.scaling.kind == "scene":
        raise UsageError(
            f"--with-scaling: model {card.name} scales by each scene's own mean and deviation, which no file can know; "
            "leave it out, and scale before"
        )
    wanted = spec.to == "litert" and spec.precision == "int8"
    if wanted != bool(spec.scenes):
        raise UsageError(
            "--to litert --precision int8 needs scenes to find ranges on: --with SCENES or --with DATASET.toml"
            if wanted
            else "--with is for --to litert --precision int8; other formats take what `tileseg model quantize` made"
        )
    if find_spec(target.package) is None:
        raise UsageError(f'--to {spec.to} needs {target.package}: pip install "tileseg[{target.extra}]"')


def _layout(job: Job, target: Target) -> Layout:
    """Order of axes of image and map."""
    if target.from_keras:
        return "nhwc"
    return job.spec.layout or ("nhwc" if _graph(job).band_axis == 3 else "nchw")


@contextmanager
def _written(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path to write to, in a folder beside ``out``: what lies in it when all is done takes its place."""
    parent = out.absolute().parent
    there = [path for path in (out, *([out.with_suffix(".bin")] if out.suffix == ".xml" else [])) if path.exists()]
    if there and not overwrite:
        raise UsageError(f"--out {out}: {there[0]} is there already; --overwrite replaces it")
    if not parent.is_dir():
        raise UsageError(f"--out {out}: no folder {parent} to write it in")
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=parent) as folder:
        yield Path(folder) / out.name
        # What is beside the file goes first: that is there when the file is.
        for made in sorted(Path(folder).iterdir(), key=lambda path: path.name == out.name):
            target = parent / made.name
            if target.is_dir():
                shutil.rmtree(target)
            made.replace(target)
