"""What an engine is: the little that one has to bring. All else around a network is the same for all.

A *network* is what a model folder opens as: its card, and an engine for each size of window. An *engine* computes the
network's maps for windows of one size. The pixels that it is given are scaled and resampled already, and its maps are
resampled, flipped back and merged by :mod:`tileseg.engine.predictor`, in the array library that the network names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tileseg.card import ModelCard, Scaling
from tileseg.plan import Precision

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """What one engine is made for: windows of one size, in pixels of the network's input."""

    rows: int
    cols: int
    crop: int
    """Pixels of the map that are not wanted, on all four sides: an engine may save computing them."""
    batch: int
    """Windows per call, always as many."""
    precision: Precision


class Engine(Protocol):
    """Computes a network on windows of one size. It is called by one thread at a time."""

    def __call__(self, images: Any, /) -> Any:
        """Images (n, rows, columns, bands), float32 and scaled -> maps (n, rows - 2 crop, columns - 2 crop, channels).

        Both are float32 arrays of the network's array library, the maps a new one each time. They are what the card's
        ``activation`` says.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ends:
    """What stands before and behind a network, and may be computed where the network is, so that less is copied."""

    dtype: str
    """Type of the scene's pixels, in NumPy's words."""
    scaling: Scaling
    """How they become the network's input: with numbers, those of the scene filled in."""
    kept: bool
    """Whether the maps are wanted as a run keeps them: (n, channels, rows, columns) in float16, finite where they were
    finite."""


class Arrays(Protocol):
    """The array library of a network's device: what is done around the network is done there."""

    @property
    def ops(self) -> Any:
        """Functions named as in NumPy that take and give its arrays.

        They are ``clip``, ``concatenate``, ``flip``, ``isfinite``, ``log``, ``maximum``, ``minimum``, ``sqrt``,
        ``sum``, ``transpose``, ``where``, ``zeros_like``; and ``cast`` (array, name of a type) and ``softmax`` (array,
        axis) as in Keras.
        """
        ...

    def compile(self, function: Callable[..., Any], *, fused: bool = False) -> Callable[..., Any]:
        """A function of arrays of fixed shapes that computes the same, faster where the library can compile.

        What it returns takes NumPy arrays as well. ``fused``: the function is a chain of elementwise operations.
        """
        ...

    def resample(self, images: Any, scale: Fraction) -> Any:
        """Resample (n, rows, columns, channels) by the filters of :func:`tileseg.tta.polyphase`.

        A pixel gets the same bits whichever window it is computed in; taps beyond the ends take the outermost pixel.
        """
        ...

    def to_numpy(self, array: Any) -> npt.NDArray[np.generic]:
        """The array in the host's memory."""
        ...


class Network(Protocol):
    """What a model folder opens as. It may take pixels as they are, too: :class:`TakesPixels`."""

    @property
    def card(self) -> ModelCard:
        """What it expects and gives."""
        ...

    @property
    def arrays(self) -> Arrays:
        """The array library of its engines: NumPy (:class:`tileseg.engine.host.HostArrays`) where nothing is faster."""
        ...

    def engine(self, window: WindowSpec, /) -> Engine:
        """An engine for windows of one size. Raises InputError if the network does not take them."""
        ...

    def is_out_of_memory(self, error: BaseException, /) -> bool:
        """Whether an error of an engine says that its device has no memory left: smaller windows may do."""
        ...


@runtime_checkable
class TakesPixels(Protocol):
    """A network whose engines scale pixels on their device: the scene's own bytes go there, and maps come back."""

    def pixel_engine(self, window: WindowSpec, ends: Ends, /) -> Engine:
        """An engine for windows of one size: pixels (n, rows, columns, bands) in the type that ``ends`` say -> maps.

        The same numbers as of an engine that gets the pixels scaled. Raises InputError if the network does not take
        such windows.
        """
        ...
