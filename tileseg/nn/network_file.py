"""A network of the user's, from a ``.keras`` file, made again to be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tileseg.card import Activation
from tileseg.errors import InputError, TilesegError, first_line
from tileseg.nn.activation import RandomImages, contradiction, contradiction_of_outputs
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import facts_of, load_archive, load_bundle
from tileseg.nn.fake_quantised import fake_quantised_kind
from tileseg.nn.fused import fused_kind
from tileseg.nn.keras_graph import Graph, Step, flatten
from tileseg.nn.twin import folded, head_of

_STRIPPED: tuple[Activation, ...] = ("softmax", "sigmoid")
"""Last activations that are left out, for losses take logits."""


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """The network of a ``.keras`` file, of which models with layers and weights of their own can be made."""

    name: str
    graph: Graph
    stride: int
    """Pixels: patches must be multiples of it."""
    stripped: int | None
    """The first value of the step whose softmax or sigmoid is left out; None: it gives logits."""
    own_weights: bool
    """Whether weights are those of the file; otherwise they start at random."""
    rounded: frozenset[int] = frozenset()
    """First values of the steps that learn to be computed in int8."""

    def build(self, precision: str, *, fused: bool = False) -> keras.Model:
        """A network (n, rows, columns, bands) -> logits (n, rows, columns, channels), both float32.

        Args:
            precision: ``float32``, ``bfloat16`` or ``float16``: that of the layers. Weights are float32, and the last
                layer that has weights, with what follows it, is computed in it.
            fused: With batch normalisation as one kernel, where the backend has one.
        """
        image = keras.Input((None, None, self.graph.bands), name="image")
        values: dict[int, Any] = {0: image}
        head = head_of(self.graph)
        made: dict[int, Any] = {}
        names: set[str] = set()
        for step in self.graph.steps:
            operation: Any = step.operation
            last = step.outputs[0] == self.stripped
            if last and not getattr(operation, "weights", None):
                values[step.outputs[0]] = values[step.inputs[0]]
                continue
            if isinstance(operation, keras.layers.Layer) and id(operation) not in made:
                policy = "float32" if precision == "float32" or step.outputs[0] in head else f"mixed_{precision}"
                kind = fused_kind(operation) if fused else type(operation)
                if fused and step.outputs[0] in self.rounded:
                    kind = fake_quantised_kind(operation) or kind
                made[id(operation)] = _again(operation, kind, policy, _free(operation.name, names), last=last)
            values.update(zip(step.outputs, step(values, made.get(id(operation))), strict=True))
        output = values[self.graph.output]
        if keras.backend.standardize_dtype(output.dtype) != "float32":
            output = keras.layers.Identity(dtype="float32", name=_free("float32_logits", names))(output)
        model = keras.Model(image, output, name=self.name)
        if self.own_weights:
            for step in self.graph.steps:
                if (layer := made.get(id(step.operation))) is not None:
                    own = step.operation.get_weights()
                    layer.set_weights([*own, *layer.get_weights()[len(own) :]])
        return model


def open_network_file(path: Path, bands: tuple[str, ...], classes: int, *, own_weights: bool) -> NetworkFile:
    """Open a network to be trained on images of these bands, and check what can be checked before hours are spent.

    Any functional graph that ``tileseg model pack`` takes will do. Raises InputError in one line for anything else.
    """
    if path.suffix != ".keras":
        raise InputError(f"--network {path}: expected a .keras file, saved by Keras 3: others can be run, not trained")
    if not path.is_file():
        raise InputError(f"--network {path}: no such file")
    return _network(f"--network {path}", load_archive(path), bands, classes, own_weights=own_weights)


def open_for_int8(folder: Path, bands: tuple[str, ...], classes: int) -> NetworkFile:
    """Open the Keras form of a model to learn to be computed in int8: with its weights, and normalisation folded in.

    What is rounded is what :func:`tileseg.nn.onnx_quantise.quantise` makes integers of: convolutions between the first
    and the last. Raises InputError in one line.
    """
    model, _ = load_bundle(folder)
    network = _network(f"--init {folder}", folded(model), bands, classes, own_weights=True)
    rounded = frozenset(
        step.outputs[0] for step in _between(network.graph) if fake_quantised_kind(step.operation) is not None
    )
    if not rounded:
        raise InputError(f"--init {folder}: has no convolution between its first and its last that int8 could compute")
    return replace(network, rounded=rounded)


def _between(graph: Graph) -> list[Step]:
    """Steps after the first with weights, on every way from the image, and before the last with weights."""
    early, late = {0}, head_of(graph)
    for step in graph.steps:
        if early.intersection(step.inputs) and not _has_weights(step):
            early.update(step.outputs)
    return [step for step in graph.steps if early.isdisjoint(step.inputs) and step.outputs[0] not in late]


def _has_weights(step: Step) -> bool:
    return bool(getattr(step.operation, "weights", None))


def _network(
    option: str, model: keras.Model, bands: tuple[str, ...], classes: int, *, own_weights: bool
) -> NetworkFile:
    """A network to be trained, checked; ``option`` is what the user said. Raises InputError in one line."""
    try:
        facts = facts_of(model)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error
    if facts.bands != len(bands):
        raise InputError(
            f"{option}: takes {facts.bands} band{'s' * (facts.bands != 1)}, the dataset has {len(bands)} "
            f"({', '.join(bands)})"
        )
    if facts.channels != classes and (facts.channels, classes) != (1, 2):
        raise InputError(
            f"{option}: gives {facts.channels} channel{'s' * (facts.channels != 1)} for {classes} classes; "
            f"expected {classes}{' (or 1)' * (classes == 2)}"
        )
    graph, ending = flatten(model), facts.ending
    claim: Activation = next((kind for kind in _STRIPPED if ending is not None and kind == ending.kind), "logits")
    if why := contradiction(ending, facts.channels, claim):
        raise InputError(f"{option}: {why}")
    stripped = None if ending is None or claim == "logits" else _value_of(graph, ending.title)
    network = NetworkFile(model.name, graph, facts.locality.stride, stripped, own_weights)
    _check(network, option)
    return network


def _check(network: NetworkFile, option: str) -> None:
    """Build it once: a layer that cannot be made again, and odd ends of the graph, show. Raises InputError."""
    try:
        model = network.build("float32")
    except TilesegError:
        raise
    except Exception as error:  # layers of all origins raise what they like
        raise InputError(f"{option}: its layers cannot be made again: {first_line(error)}") from error
    if not model.trainable_weights:
        raise InputError(f"{option}: has no weights that can be trained")

    def compute(images: Any) -> Any:
        return to_numpy(model(images, training=False))

    if why := contradiction_of_outputs(
        compute, RandomImages(network.graph.bands), "logits", network.stride, network.name
    ):
        raise InputError(f"{option}: {why}")


def _value_of(graph: Graph, title: str) -> int:
    """What the last step of this title gives."""
    return next(step.outputs[0] for step in reversed(graph.steps) if step.title == title)


def _again(layer: Any, kind: Any, policy: str, name: str, *, last: bool) -> Callable[..., Any]:
    """A layer made again as some kind, with weights of its own; ``last``: without its activation."""
    config = layer.get_config() | {"dtype": policy, "name": name}
    if last:
        config["activation"] = "linear"
    made: Callable[..., Any] = kind.from_config(config)
    return made


def _free(name: str, names: set[str]) -> str:
    """The name, or one like it that is not taken: nested models are unfolded, and may use one twice."""
    number, free = 1, name
    while free in names:
        free, number = f"{name}_{number}", number + 1
    names.add(free)
    return free
