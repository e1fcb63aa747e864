"""Decoder cropping of Keras graphs: the plan of :mod:`tileseg.nn.crop`, with Cropping2D."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tileseg.nn.backend import keras
from tileseg.nn.crop import Part, plan_crop
from tileseg.nn.keras_graph import Graph, SizedKerasGraph, flatten


def cropped(model: keras.Model, height: int, width: int, margin: int) -> keras.Model:
    """The same layers and weights for one window size, giving the output without ``margin`` pixels on each side.

    Args:
        model: Any functional graph of one image to one map of the same size.
        height, width: Of the window in pixels, multiples of the model's stride.
        margin: Pixels of the output to leave out on all four sides; the output is equal to the uncropped one there.

    Returns:
        A model (n, height, width, bands) -> (n, height - 2 margin, width - 2 margin, channels).

    Raises:
        UsageError: If nothing would be left, or the window is no multiple of the stride.
        InputError: If the model does not take a window of that size.
    """
    image = keras.Input((height, width, model.inputs[0].shape[-1]), name="image", dtype=model.inputs[0].dtype)
    output = rebuild(flatten(model), image, margin)
    return keras.Model(image, output, name=f"{model.name}_cropped")


def rebuild(graph: Graph, image: Any, margin: int, twins: Mapping[int, Callable[..., Any]] | None = None) -> Any:
    """Apply a graph to ``image`` (n, rows, columns, bands), computing only what lies ``margin`` inside the output.

    ``twins`` holds what to call in place of a step's layer, by the step's first output: the layer in another
    precision, say. Returns the output tensor.
    """
    plan = plan_crop(SizedKerasGraph(graph, *image.shape[1:3]), margin)
    values: dict[int, Any] = {0: image}
    for index in sorted(plan.needed):
        step = graph.steps[index]
        here = dict(values)
        for slot, value in enumerate(step.inputs):
            if (index, slot) in plan.crops:
                here[value] = _crop(values[value], *plan.crops[index, slot])
        made = step(here, (twins or {}).get(step.outputs[0]))
        values.update(zip(step.outputs, made, strict=True))
    have = plan.parts[graph.output]
    return values[graph.output] if have == plan.core else _crop(values[graph.output], have, plan.core)


def _crop(tensor: Any, have: Part, want: Part) -> Any:
    sides = tuple((w[0] - h[0], h[1] - w[1]) for h, w in zip(have, want, strict=True))
    return keras.layers.Cropping2D(sides, dtype=tensor.dtype)(tensor)
