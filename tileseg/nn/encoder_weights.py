"""Fill a network's encoder with weights that exist: VGG16's of ImageNet, or those of another network of tileseg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tileseg.errors import InputError, UsageError, first_line
from tileseg.nn.backend import keras, to_numpy
from tileseg.nn.bundle import load_archive

IMAGENET = "imagenet"
DEVIATION = (58.395, 57.12, 57.375)
"""Standard deviations of ImageNet's red, green and blue, in 8-bit values."""

_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
_LARGEST = 10_000_000
"""Numbers in one array of a file of weights: VGG16's largest convolution has 2.4 million."""

Arrays = list[npt.NDArray[np.float32]]


def load_encoder_weights(model: keras.Model, source: str) -> tuple[str, ...]:
    """Fill the encoder of a network of :func:`tileseg.nn.unet.build_network`, layer by layer, by name.

    Keras's VGG16 was trained on blue, green, red with ImageNet's mean taken off, in 8-bit values. Its first
    convolution is adapted to what a network of tileseg sees: red, green, blue of mean 0 and deviation 1. For another
    number of bands its kernels are averaged over colour and shared among them, so that the layer's response keeps its
    size. Batch normalisation, which VGG16 has not, is made to change nothing; :func:`settle_norms` then fits it to
    images.

    Args:
        model: The network.
        source: ``imagenet`` (Keras's own download, kept in its cache); Keras's ``..._notop.h5`` or another file of
            VGG16's weights; or a ``.keras`` file of VGG16, or of a network of tileseg with the same encoder and bands.

    Returns:
        The names of the layers that were filled.

    Raises:
        InputError: If the source cannot be had or read, or does not fit the network.
        UsageError: If the network's encoder is none that the source is for.
    """
    encoder = {layer.name: layer for layer in model.layers if layer.name.startswith("block") and layer.weights}
    convolutions = {name: layer for name, layer in encoder.items() if not _is_norm(layer)}
    found, is_vgg16 = _open(source, convolutions)
    if is_vgg16 and (missing := [name for name in found if name not in convolutions]):
        raise UsageError(
            f"{source}: holds VGG16's layer {missing[0]}, which the network has not: expected the encoder vgg16"
        )
    filled: dict[Any, Arrays] = {}
    for name, layer in encoder.items():
        arrays = found.get(name)
        if arrays is None:
            if _is_norm(layer):
                continue
            raise InputError(f"{source}: no layer {name}; expected the same encoder as the network's")
        if name == "block1_conv1" and is_vgg16 and arrays[0].ndim == 4 and arrays[0].shape[2] == 3:
            arrays = [_adapted(arrays[0], layer.weights[0].shape[2]), *arrays[1:]]
        theirs, ours = [tuple(a.shape) for a in arrays], [tuple(w.shape) for w in layer.weights]
        if theirs != ours:
            raise InputError(
                f"{source}: layer {name} has the shapes {_shown(theirs)}, the network's has {_shown(ours)}: "
                + ("VGG16's weights fit plain convolutions of width 1" if is_vgg16 else "expected the same encoder")
            )
        filled[layer] = arrays
    # Only once everything fits, so that an error leaves the network as it was.
    for layer, arrays in filled.items():
        layer.set_weights(arrays)
    for layer in encoder.values():
        if _is_norm(layer) and layer not in filled:
            one = np.ones(layer.weights[0].shape, np.float32)
            _set_norm(layer, mean=0 * one, variance=one)
    return tuple(layer.name for layer in filled)


def settle_norms(model: keras.Model, images: npt.NDArray[np.float32]) -> None:
    """Fit the encoder's batch normalisations to images so that, at the start, they normalise and still change nothing.

    Scale and shift become the deviation and mean of what each normalisation is given for these images, so that with
    them, and on average with any other batch while training, it gives what the network without normalisations would:
    a pretrained encoder begins as what it was, and its biases count.

    Args:
        model: A network whose encoder's normalisations change nothing yet, as :func:`load_encoder_weights` leaves it.
        images: (n, y, x, band), as the network sees them; sides are multiples of its stride.
    """
    norms = [layer for layer in model.layers if layer.name.startswith("block") and _is_norm(layer)]
    if not norms:
        return
    before = keras.Model(model.inputs[0], [layer.input for layer in norms])
    means, squares = [np.zeros(1) for _ in norms], [np.zeros(1) for _ in norms]
    for image in images:  # one by one: all maps of an encoder together are large
        for index, given in enumerate(before(image[None], training=False)):
            values = to_numpy(given).astype(np.float64)
            means[index] = means[index] + values.mean(axis=(0, 1, 2)) / len(images)
            squares[index] = squares[index] + np.square(values).mean(axis=(0, 1, 2)) / len(images)
    for layer, mean, square in zip(norms, means, squares, strict=True):
        _set_norm(layer, mean.astype(np.float32), np.maximum(square - mean**2, 0).astype(np.float32))


def _set_norm(layer: Any, mean: npt.NDArray[np.float32], variance: npt.NDArray[np.float32]) -> None:
    """Make a normalisation expect these statistics, and give back what it takes away."""
    layer.set_weights([np.sqrt(variance + np.float32(layer.epsilon)), mean, mean, variance])


def _is_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _adapted(kernel: npt.NDArray[np.float32], bands: int) -> npt.NDArray[np.float32]:
    """VGG16's first kernel (rows, columns, blue-green-red, filters) for normalised bands."""
    adapted: npt.NDArray[np.float32] = kernel[:, :, ::-1] * np.array(DEVIATION, np.float32)[:, None]
    if bands == 3:
        return adapted
    return np.repeat(adapted.sum(axis=2, keepdims=True) / np.float32(bands), bands, axis=2)


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def _open(source: str, wanted: Mapping[str, Any]) -> tuple[dict[str, Arrays], bool]:
    """The weights of a source's encoder by layer, and whether it is VGG16 as Keras ships it."""
    if source == IMAGENET:
        return _of_model(_download()), True
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {IMAGENET!r}, {_FILE} or a .keras file")
    if path.suffix == ".keras":
        model = load_archive(path)
        return _of_model(model), not any(layer.name == "logits" for layer in model.layers)
    if path.name.endswith(".weights.h5"):
        return _of_model(_restored(path)), True
    if path.suffix in (".h5", ".hdf5"):
        return _of_hdf5(path, wanted), True
    raise InputError(f"{path}: expected {IMAGENET!r}, {_FILE} or a .keras file")


def _of_model(model: keras.Model) -> dict[str, Arrays]:
    return {
        layer.name: layer.get_weights() for layer in model.layers if layer.name.startswith("block") and layer.weights
    }


def _download() -> keras.Model:
    """VGG16 with the weights of ImageNet, which Keras downloads once."""
    try:
        return keras.applications.VGG16(include_top=False, weights=IMAGENET)
    except Exception as error:  # all that Keras says where a download fails is Exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the ImageNet weights of VGG16 could not be downloaded ({reason}); without a connection, fetch {_FILE} "
            "elsewhere and give its path instead: --encoder-weights PATH"
        ) from error


def _restored(path: Path) -> keras.Model:
    """VGG16 from the ``.weights.h5`` that Keras 3 saves, where layers are known by their order alone."""
    model = keras.applications.VGG16(include_top=False, weights=None)
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: not the weights of keras.applications.VGG16 without top: {first_line(error)}"
        ) from error
    return model


def _of_hdf5(path: Path, wanted: Mapping[str, Any]) -> dict[str, Arrays]:
    """The layers of a file of weights as Keras 2 wrote them: one group per layer, with its kernel and bias.

    Nothing in the file is run. What is not in the file itself (links to other files, arrays that are kept elsewhere)
    is not followed.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = _own(file, "model_weights") if "model_weights" in file else file
            names = [name for name in groups if name in wanted or name.startswith("block")]
            found = {name: _arrays(_own(groups, name)) for name in names}
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a file of Keras's weights: {first_line(error)}") from error
    return {name: arrays for name, arrays in found.items() if arrays}


def _own(group: Any, name: str) -> Any:
    """An item of a group that lies in the same file. Raises ValueError where it is a link."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link")  # noqa: TRY004 - about the file, not about an argument
    return group[name]


def _arrays(item: Any) -> Arrays:
    """All arrays of a layer's group, the kernel before the bias."""
    import h5py

    if isinstance(item, h5py.Group):
        inner = [array for name in item for array in _arrays(_own(item, name))]
        return sorted(inner, key=lambda array: -array.ndim)
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external or item.size > _LARGEST:
        raise ValueError(f"{item.name} is no array of a convolution")
    return [np.asarray(item[()], np.float32)]
