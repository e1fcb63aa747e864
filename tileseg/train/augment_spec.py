"""Which distortions there are, and how strong they are."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class AugmentSpec(BaseModel):
    """Which distortions a training image goes through, and how strong at most: 0 or false leaves one out.

    Every image draws its own strengths, evenly between none and the one given here. The defaults are for images from
    above, which have no upright.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    flips: bool = True
    """Left and right, top and bottom, each for half of the images."""
    turns: bool = True
    """Quarter turns; half turns only where patches are not square."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Degrees, either way."""
    scale: Share = 0.25
    """0.25: objects become up to 1.25 times as large, or as small."""
    shift: Share = 0.0
    """Share of the patch, along both axes. Patches are cut at random places, so that it adds little."""
    elastic: Annotated[float, Field(ge=0, le=16)] = 0.0
    """Pixels: standard deviation of displacements at points 64 pixels apart. For tissue; houses have straight walls."""

    brightness: Share = 0.15
    """Added to all bands alike; bands reach from 0 to 1."""
    contrast: Share = 0.25
    """0.25: differences from the image's mean become 0.75 to 1.25 times as large."""
    saturation: Share = 0.3
    """As contrast, of differences from grey. Images of three bands (red, green, blue) only, as are hue and grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.03
    """Share of the colour circle, either way."""
    grey: Share = 0.05
    """Share of the images that lose their colours."""
    gamma: Share = 0.25
    """0.25: values to a power between 1 / 1.25 and 1.25."""
    haze: Share = 0.4
    """Thickness of a bright veil, uneven over the image; half of the images have none."""
    resolution: Annotated[float, Field(ge=0, le=3)] = 0.5
    """0.5: pixels up to 1.5 times as coarse, enlarged again as over-zoomed images are; half of the images stay."""
    blur: Annotated[float, Field(ge=0, le=3)] = 0.7
    """Pixels: standard deviation of a Gaussian; half of the images stay sharp."""
    noise: Share = 0.02
    """Standard deviation of noise in every pixel and band; half of the images have none."""
    cutmix: Share = 0.0
    """Share of the images that get a rectangle of another one, labels included (Yun et al. 2019)."""

    @classmethod
    def none(cls) -> Self:
        """Nothing at all: images and labels as they are."""
        return cls(**{name: type(field.default)(0) for name, field in cls.model_fields.items()})

    @property
    def moves(self) -> bool:
        """Whether any pixel changes its place."""
        return any((self.flips, self.turns, self.rotation, self.scale, self.shift, self.elastic))
