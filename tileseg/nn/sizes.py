"""Models that were built for images of one size, made to take any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tileseg.errors import InputError, first_line
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.keras_graph import Step, flatten
from tileseg.nn.twin import copy_layer


def with_free_size(model: keras.Model) -> keras.Model:
    """The same layers and weights for images of any number, height and width; the model itself where it takes those.

    A model that has names for its image and its map (a dictionary of one) takes and gives them alone.

    Raises:
        InputError: In one line, if a layer was made for the size at hand, or the map has another size than the image.
    """
    graph = flatten(model)
    given, made = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if given[:3] == (None, None, None):
        plain = all(isinstance(side, keras.KerasTensor) for side in (model.input, model.output))
        return model if plain else keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    size = " x ".join(str(side or "any") for side in given[1:3])
    if len(made) == 4 and made[1:3] != given[1:3]:
        raise InputError(
            f"model {model.name} gives a map of {' x '.join(map(str, made[1:3]))} for an image of {size}: expected the "
            "rows and columns of its input; convolve with padding 'same', and enlarge what was made smaller"
        )

    def refusal(step: Step, why: str) -> InputError:
        return InputError(
            f"model {model.name} takes images of {size} alone, because of layer {step.title}: {why}; build it with "
            f"keras.Input((None, None, {graph.bands})) and layers for any size, and load these weights into it"
        )

    image = keras.Input((None, None, graph.bands), name=model.inputs[0].name, dtype=model.inputs[0].dtype)
    values: dict[int, Any] = {0: image}
    names: dict[str, int] = {}
    copies: dict[int, Callable[..., Any]] = {}
    for step in graph.steps:
        operation: Any = step.operation
        # Nested models are unfolded, and a name may be taken in one and in another.
        named = isinstance(operation, keras.layers.Layer)
        taken = named and names.setdefault(operation.name, id(operation)) != id(operation)
        if taken and id(operation) not in copies:
            copies[id(operation)] = copy_layer(operation, name=_free_name(operation.name, names))
        try:
            found = step(values, copies.get(id(operation)))
        except Exception as error:  # layers of all origins raise what they like
            raise refusal(step, first_line(error)) from error
        if _has_weights_for_a_size(step):
            raise refusal(step, "its weights are for that size")
        for tensor in found:
            if len(tensor.shape) == 4 and any(side not in (None, 1) for side in tensor.shape[1:3]):
                raise refusal(step, f"it always gives {' x '.join(map(str, tensor.shape[1:3]))}")
        values.update(zip(step.outputs, found, strict=True))
    free = keras.Model(image, values[graph.output], name=model.name)
    _check_equal(model, free, size)
    return free


def _has_weights_for_a_size(step: Step) -> bool:
    """Whether a weight has the rows and columns of the map that a layer was built for."""
    sizes = [tuple(tensor.shape[1:3]) for tensor in step.node.input_tensors if len(tensor.shape) == 4]
    weights = getattr(step.operation, "weights", [])
    return any(tuple(weight.shape[:2]) in sizes and max(weight.shape[:2]) > 1 for weight in weights)


def _free_name(name: str, names: dict[str, int]) -> str:
    number = 1
    while f"{name}_{number}" in names:
        number += 1
    names[f"{name}_{number}"] = 0
    return f"{name}_{number}"


def _check_equal(model: keras.Model, free: keras.Model, size: str) -> None:
    """Both give the same for an image of the size that the model was built for."""
    count, rows, cols, bands = (
        side or fallback for side, fallback in zip(model.inputs[0].shape, (1, 64, 64, 1), strict=True)
    )
    image = np.random.default_rng(0).normal(size=(count, rows, cols, bands)).astype(np.float32)
    one, other = (to_numpy(network(image, training=False)) for network in (model, free))
    if one.shape != other.shape or not np.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise InputError(f"model {model.name} takes images of {size} alone: built for any size, it gives other values")
