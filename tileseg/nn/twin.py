"""A graph as it is run rather than trained: in a chosen precision, with batch normalisation folded away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tileseg.nn.backend import keras
from tileseg.nn.keras_crop import rebuild
from tileseg.nn.keras_graph import Graph, Step, flatten

Precision = Literal["float32", "bfloat16", "float16"]

_FOLDABLE = (
    keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
)  # fmt: skip


def inference_twin(model: keras.Model, height: int, width: int, margin: int, precision: Precision) -> keras.Model:
    """The model for one window size and precision, giving its output without ``margin`` pixels on each side.

    In float32 the layers are shared with ``model``, except those that compute in 16 bits, and where batch
    normalisation is folded into the convolution before it. In 16 bits every layer is remade with its weights rounded
    once; the last layer that has weights, and what follows it, stay in float32, so that logits are not rounded to
    three digits.

    Returns:
        A model (n, height, width, bands) float32 -> (n, height - 2 margin, width - 2 margin, channels) float32.
    """
    graph, twins = _prepare(flatten(model), precision)
    image = keras.Input((height, width, graph.bands), name="image", dtype="float32")
    # An operation that is no layer computes in the precision that it is given.
    entry = image if precision == "float32" else keras.layers.Identity(dtype=precision)(image)
    output = rebuild(graph, entry, margin, twins)
    if keras.backend.standardize_dtype(output.dtype) != "float32":
        output = keras.ops.cast(output, "float32")
    return keras.Model(image, output, name=f"{model.name}_{precision}")


def folded(model: keras.Model) -> keras.Model:
    """The model for images of any size without the normalisations that a convolution before them can take in."""
    graph, twins = _prepare(flatten(model), "float32")
    values: dict[int, Any] = {0: keras.Input((None, None, graph.bands), name="image")}
    for step in graph.steps:
        values.update(zip(step.outputs, step(values, twins.get(step.outputs[0])), strict=True))
    return keras.Model(values[0], values[graph.output], name=model.name)


@dataclass(slots=True)
class LayerCopy:
    """A layer made again: it gets its weights when it is first called, which is when it is built."""

    layer: Any
    weights: list[npt.NDArray[Any]]
    filled: bool = field(default=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        made = self.layer(*args, **kwargs)
        if not self.filled:
            self.layer.set_weights(self.weights)
            self.filled = True
        return made


def copy_layer(layer: Any, **changes: Any) -> LayerCopy:
    """A layer with the same weights and a configuration that differs by ``changes``."""
    weights = [np.asarray(keras.ops.convert_to_numpy(weight)) for weight in layer.weights]
    return LayerCopy(type(layer).from_config(layer.get_config() | changes), weights)


def _prepare(graph: Graph, precision: Precision) -> tuple[Graph, dict[int, Callable[..., Any]]]:
    """The graph without its foldable normalisations, and what to call for the steps that change."""
    readers = Counter(value for step in graph.steps for value in step.inputs)
    readers[graph.output] += 1
    makers = {step.outputs[0]: step for step in graph.steps}
    alias: dict[int, int] = {}
    folded: dict[int, Step] = {}
    for step in graph.steps:
        maker = makers.get(step.inputs[0]) if len(step.inputs) == 1 else None
        if maker is not None and readers[step.inputs[0]] == 1 and _folds(maker, step):
            folded[maker.outputs[0]] = step
            alias[step.outputs[0]] = maker.outputs[0]
    kept = [step for step in graph.steps if step.outputs[0] not in alias]
    merged = [
        Step(s.operation, s.node, tuple(alias.get(v, v) for v in s.inputs), s.outputs)
        for s in kept
    ]  # fmt: skip
    # Values are numbered without gaps, as Graph.shapes counts them.
    number = {0: 0}
    for step in merged:
        for value in step.outputs:
            number[value] = len(number)
    renamed = tuple(
        Step(s.operation, s.node, tuple(number[v] for v in s.inputs), tuple(number[v] for v in s.outputs))
        for s in merged
    )
    simple = Graph(renamed, number[alias.get(graph.output, graph.output)], graph.bands)

    head = head_of(simple)
    twins: dict[int, Callable[..., Any]] = {}
    made: dict[tuple[int, int, str], LayerCopy] = {}
    for before, step in zip(merged, renamed, strict=True):
        layer = step.operation
        norm = folded.get(before.outputs[0])
        dtype = "float32" if step.outputs[0] in head else precision
        if not isinstance(layer, keras.layers.Layer):
            if dtype == "float32" and type(layer).__name__ == "Cast" and _is_half(layer.dtype):
                twins[step.outputs[0]] = _to_float32
            elif dtype == "float32" and precision != "float32":
                twins[step.outputs[0]] = _in_float32(layer)
            continue
        if norm is None and dtype == "float32" and precision == "float32" and _computes_in_float32(layer):
            continue
        key = (id(layer), id(norm.operation) if norm else 0, dtype)
        if key not in made:
            made[key] = _remake(layer, norm.operation if norm else None, dtype)
        twins[step.outputs[0]] = made[key]
    return simple, twins


def _to_float32(x: Any, *_: Any, **__: Any) -> Any:
    """In place of a cast to 16 bits."""
    return keras.ops.cast(x, "float32")


def _computes_in_float32(layer: Any) -> bool:
    """Not under a policy of mixed precision, with which it may have been trained."""
    return not _is_half(layer.compute_dtype) and not any(_is_half(weight.dtype) for weight in layer.weights)


def _is_half(dtype: Any) -> bool:
    return keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")


def _in_float32(operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        def widen(x: Any) -> Any:
            return keras.ops.cast(x, "float32") if isinstance(x, keras.KerasTensor) else x

        return operation(*keras.tree.map_structure(widen, args), **keras.tree.map_structure(widen, kwargs))

    return call


def _folds(maker: Step, step: Step) -> bool:
    """Whether ``step`` normalises what the convolution ``maker`` gives, and nothing is in between."""
    layer, norm = maker.operation, step.operation
    return (
        type(norm) is keras.layers.BatchNormalization
        and not step.node.arguments.kwargs.get("training")
        and norm.axis in (-1, 3)
        and type(layer) in _FOLDABLE
        and layer.data_format == "channels_last"
        and layer.activation is keras.activations.linear
    )


def head_of(graph: Graph) -> set[int]:
    """The values from the last layer with weights on: they stay in float32."""
    makers = {step.outputs[0]: step for step in graph.steps}
    found: set[int] = set()
    pending = [graph.output]
    while pending:
        value = pending.pop()
        if value not in makers or value in found:
            continue
        found.add(value)
        step = makers[value]
        if len(step.inputs) == 1 and not getattr(step.operation, "weights", None):
            pending.extend(step.inputs)
    return found


def _remake(layer: Any, norm: Any | None, dtype: str) -> LayerCopy:
    config = layer.get_config() | {"dtype": dtype}
    weights = [np.asarray(keras.ops.convert_to_numpy(w), dtype=np.float64) for w in layer.weights]
    if norm is not None:
        config |= {"use_bias": True}
        weights = _fold(layer, norm, weights)
    kinds = [np.float32] * len(weights) if norm is not None else [_kind(w) for w in layer.weights]
    return LayerCopy(type(layer).from_config(config), [w.astype(k) for w, k in zip(weights, kinds, strict=True)])


def _kind(weight: Any) -> Any:
    name = keras.backend.standardize_dtype(weight.dtype)
    return np.float32 if "float" in name else np.dtype(name)


def _fold(layer: Any, norm: Any, weights: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Kernels and bias of a convolution that does what the convolution and its normalisation did."""

    def values(weight: Any) -> npt.NDArray[np.float64]:
        return np.asarray(keras.ops.convert_to_numpy(weight), dtype=np.float64)

    mean, variance = values(norm.moving_mean), values(norm.moving_variance)
    gain = 1 / np.sqrt(variance + norm.epsilon)
    gain = gain * values(norm.gamma) if norm.scale else gain
    shift = values(norm.beta) if norm.center else np.zeros_like(mean)
    *before, kernel = weights[:-1] if layer.use_bias else weights
    bias = weights[-1] if layer.use_bias else np.zeros_like(mean)
    # The last kernel makes the channels that are normalised, which are its last axis but where it is
    # (rows, columns, out, in) of a transposed convolution, or (rows, columns, in, out per in) of a depthwise one.
    if isinstance(layer, keras.layers.Conv2DTranspose):
        gains = gain[:, None]
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        gains = gain.reshape(kernel.shape[2:])
    else:
        gains = gain
    return [*before, kernel * gains, (bias - mean) * gain + shift]
