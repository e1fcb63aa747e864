"""Augmentation of batches: from the spec, the seed and the step to distorted images and labels.

Keras has layers for most of this. They are not used, because each would resample the batch again (23 ms for rotation,
20 for zoom, 20 for shift, 18 for flips, 66 for elastic; 51 for colours: 8 x 256 x 256 x 3 on one core), blur it each
time, and fill what comes in from outside with labels that are not known. Here geometry is one field of coordinates and
one resampling, colour is one matrix per image, and all of it is one compiled function of Keras' operations
(``distort.py``) whose numbers are drawn beforehand (``draw.py``), from the seed and the step alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tileseg.train.augment_spec import AugmentSpec
from tileseg.train.draw import Draws, draw

Images = npt.NDArray[np.float32]
_Label = TypeVar("_Label", np.uint8, np.int16)


class Augmenter:
    """Distorts batches: a pure function of the seed, the step and the batch, on any backend.

    One compiled function per shape of batch; it may be called from any thread.
    """

    def __init__(self, spec: AugmentSpec, bands: int, seed: int, *, size: int | None = None) -> None:
        """Prepare to distort images of so many ``bands``.

        ``size`` is the side of the patches that come out, cut from the middle: larger ones put in let rotation,
        shift and smaller objects bring in real surroundings. By default as large as what is put in; what comes in
        from outside is then mirrored and its label unknown.
        """
        self.spec = spec
        self.bands = bands
        self.seed = seed
        self.size = size
        self._compiled: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._compiling = threading.Lock()

    def __call__(self, images: Images, labels: npt.NDArray[_Label], step: int) -> tuple[Images, npt.NDArray[_Label]]:
        """Distort (n, y, x, band) float32 images and their (n, y, x) labels together.

        Most values of images should lie between 0 and 1, for which strengths are meant. What comes out does too, or
        lies within the image's own range where that is wider. Labels move to the nearest pixel; 255 where nothing
        is known. The inputs are left as they are.
        """
        from tileseg.nn.backend import to_numpy

        count, rows, cols, bands = images.shape
        if bands != self.bands or labels.shape != images.shape[:3]:
            raise ValueError(f"images {images.shape} and labels {labels.shape}: expected {self.bands} bands, same size")
        height, width = (rows, cols) if self.size is None else (self.size, self.size)
        if height > rows or width > cols or (rows - height) % 2 or (cols - width) % 2:
            raise ValueError(f"patches of {rows} x {cols} for {height} x {width}: must be larger by an even number")
        drawn = draw(self.spec, self.seed, step, (count, height, width, bands))
        with self._compiling:  # that threads share one, instead of each making its own
            if images.shape not in self._compiled:
                self._compiled[images.shape] = _compile(self.spec, (height, width))
        moved, known = self._compiled[images.shape](images, labels, drawn)
        return to_numpy(moved), to_numpy(known)


def _compile(spec: AugmentSpec, size: tuple[int, int]) -> Callable[..., Any]:
    """The whole way, in up to five compiled functions.

    As one, it takes three times as long: XLA computes a pixel again for each of the neighbours that ask for it.
    """
    from tileseg.nn import backend
    from tileseg.train import distort

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return backend.compile(function, fused=True)

    move = compiled(lambda images, labels, *drawn: distort.move(spec, images, labels, Draws(*drawn), size))
    mix = compiled(lambda images, labels, *drawn: distort.mix(images, labels, Draws(*drawn)))
    looks: list[Callable[..., Any]] = []
    if any((spec.saturation, spec.hue, spec.grey, spec.brightness, spec.contrast, spec.gamma, spec.haze)):
        looks.append(compiled(lambda images, *drawn: distort.light(spec, images, Draws(*drawn))))
    if spec.blur or spec.resolution:
        looks.append(compiled(lambda images, *drawn: distort.blur(images, Draws(*drawn))))
    if spec.resolution or spec.noise:
        looks.append(compiled(lambda images, *drawn: distort.sense(spec, images, Draws(*drawn))))

    def function(images: Any, labels: Any, drawn: Draws) -> Any:
        if spec.moves or images.shape[1:3] != size:
            images, labels = move(images, labels, *drawn)
        for look in looks:
            images = look(images, *drawn)
        return mix(images, labels, *drawn) if spec.cutmix else (images, labels)

    return function
