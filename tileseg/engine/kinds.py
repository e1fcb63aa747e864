"""Which engines there are, and which files of a network each of them computes. Quick to import."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tileseg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from tileseg.plan import Precision


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What is known of an engine before it is imported."""

    function: str
    """``module:function`` that opens a form: takes the folder, the card with that form alone, and the processor threads
    that the network may use; returns a :class:`tileseg.engine.protocol.Network`, raises InputError in one line."""
    suffixes: tuple[str, ...]
    """Of the files that it computes."""
    float32: Mapping[Precision, float]
    """In which precisions it computes a form in float32, and how fast: relative to the others, on a processor that has
    the precision in hardware (benchmarks/RESULTS.md, engines)."""
    int8: Mapping[Precision, float]
    """The same of a form that is statically quantised; empty where it computes none."""
    package: str = "tileseg"
    """What has to be importable."""
    extra: str = ""
    """Name of the extra that brings the package, where it is not a plain dependency."""
    gpu: Mapping[Precision, float] = field(default_factory=dict)
    """The same of a form in float32 on a GPU; empty where it uses none. A form in int8 stays on the processor."""
    gpu_library: str = ""
    """Pattern of a file of its package without which it uses no GPU."""
    only_asked: bool = False
    """Whether it is taken only if it is asked for by its name."""
    remedy: str = ""
    """How its package is had, where neither an extra nor the package's own name says so."""
    below: tuple[str, ...] = ()
    """Distributions that compute for its package."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that decide what it gives."""
        return tuple(dict.fromkeys(("tileseg", self.package, *self.below)))

    @property
    def missing(self) -> bool:
        """Whether its package is not installed here, or not the part of it without which it computes nothing."""
        if importlib.util.find_spec(self.package) is None:
            return True
        return not self.float32 and not self.int8 and not self.on_gpu()

    def on_gpu(self, precision: Precision = "float32") -> bool:
        """Whether it would use a GPU in a precision, as far as its package as it is installed here can."""
        if precision not in self.gpu:
            return False
        if not self.gpu_library:
            return True
        found = importlib.util.find_spec(self.package)
        folders = (found and found.submodule_search_locations) or ()
        return any(any(Path(folder).glob(self.gpu_library)) for folder in folders)


ENGINES: dict[str, EngineKind] = {
    "keras": EngineKind(
        "tileseg.engine.keras:open_keras", (".keras",),
        {"float32": 1.0, "bfloat16": 1.6, "float16": 0.5}, {}, package="keras",
        gpu={"float32": 1.0, "bfloat16": 1.6, "float16": 1.5}, below=("tensorflow",),
    ),
    "openvino": EngineKind(
        "tileseg.engine.openvino:open_openvino", (".onnx",),
        {"float32": 1.3, "bfloat16": 2.1}, {"int8": 3.7}, package="openvino", extra="openvino",
    ),
    "litert": EngineKind(
        "tileseg.engine.litert:open_litert", (".tflite",), {"float32": 1.0}, {"int8": 2.0}, package="ai_edge_litert",
        extra="litert",
    ),
    "onnx": EngineKind(
        "tileseg.engine.onnx:open_onnx", (".onnx",), {"float32": 1.05}, {"int8": 2.5}, package="onnxruntime",
        gpu={"float32": 0.9, "float16": 1.4}, gpu_library="capi/*onnxruntime_providers_cuda.*",
    ),
    "tensorrt": EngineKind(
        "tileseg.engine.onnx_gpu:open_tensorrt", (".onnx",), {}, {}, package="onnxruntime",
        gpu={"float32": 0.9, "float16": 1.4}, gpu_library="capi/*onnxruntime_providers_tensorrt.*", only_asked=True,
        remedy="pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
    ),
}  # fmt: skip
"""Name for ``--engine`` -> engine."""


def engine_kind(name: str) -> EngineKind:
    """An engine by its name. Raises UsageError."""
    if name not in ENGINES:
        raise UsageError(
            f"--engine {name}: no such engine{did_you_mean(name, ['auto', *ENGINES])}; "
            f"expected auto, {', '.join(ENGINES)}"
        )
    return ENGINES[name]


def no_engine() -> str:
    """What is said of a file that none computes."""
    suffixes = dict.fromkeys(f"model{suffix}" for kind in ENGINES.values() for suffix in kind.suffixes)
    return f"no engine computes such a model; expected {', '.join(suffixes)}"


def how_to_get(name: str) -> str:
    """What is said of an engine whose package is missing here."""
    kind = ENGINES[name]
    if kind.remedy:
        return f"the engine {name} needs a part of {kind.package} that is not installed: {kind.remedy}"
    remedy = f'pip install "tileseg[{kind.extra}]"' if kind.extra else f"pip install {kind.package}"
    return f"the engine {name} needs {kind.package}, which is not installed: {remedy}"
