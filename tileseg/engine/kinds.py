"""Which engines there are, and which files of a network each of them computes. Quick to import."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
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
    gpu: bool = False
    """Whether it uses a GPU."""
    below: tuple[str, ...] = ()
    """Distributions that compute for its package."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that decide what it gives."""
        return tuple(dict.fromkeys(("tileseg", self.package, *self.below)))

    @property
    def missing(self) -> bool:
        """Whether its package is not installed here."""
        return importlib.util.find_spec(self.package) is None


ENGINES: dict[str, EngineKind] = {
    "keras": EngineKind(
        "tileseg.engine.keras:open_keras", (".keras",),
        {"float32": 1.0, "bfloat16": 1.6, "float16": 0.5}, {}, package="keras", gpu=True,
        below=("tensorflow",),
    ),
    "openvino": EngineKind(
        "tileseg.engine.openvino:open_openvino", (".onnx",),
        {"float32": 1.3, "bfloat16": 2.1}, {"int8": 3.7}, package="openvino", extra="openvino",
    ),
    "onnx": EngineKind(
        "tileseg.engine.onnx:open_onnx", (".onnx",), {"float32": 1.05}, {"int8": 2.5}, package="onnxruntime",
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
    remedy = f'pip install "tileseg[{kind.extra}]"' if kind.extra else f"pip install {kind.package}"
    return f"the engine {name} needs {kind.package}, which is not installed: {remedy}"
