"""What a network is made of. Plain data, so that reading a training's settings needs no Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Encoder = Literal["vgg16", "unet", "mobile"]
Decoder = Literal["bilinear", "transpose"]


class NetworkSpec(BaseModel):
    """The options of :func:`tileseg.nn.unet.build_network`, or the file of another network.

    All are local, so that tiles equal the whole (DESIGN.md), but ``squeeze_excite``. That is not written down here:
    it is derived from the finished graph by :func:`tileseg.nn.keras_graph.analyse`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    encoder: Encoder = "vgg16"
    """``vgg16``: takes ImageNet weights; ``unet``: the classic one; ``mobile``: light, separable throughout."""
    width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of every layer's filters."""
    decoder: Decoder = "bilinear"
    """How maps are enlarged: by interpolation, or by a transposed convolution with batch normalisation."""
    decoder_width: float = Field(default=1.0, gt=0, le=4)
    """Multiplier of the decoder's filters, over ``width``."""
    decoder_convs: int = Field(default=2, ge=1, le=4)
    """3x3 convolutions in each stage of the decoder."""
    align_skips: bool | int = Field(default=False, ge=0)
    """Pass each skip through a 1x1 convolution: true keeps its filters, a number sets them (before ``width``)."""
    batch_norm: bool = True
    """Normalise after each convolution: trains faster, and costs nothing in a run, which folds it away."""
    separable: bool = False
    """Depthwise-separable 3x3 convolutions: about an eighth of the multiplications."""
    squeeze_excite: bool = False
    """Weigh each skip's channels by what the whole window holds. Not local: runs blend their tiles."""
    attention: bool = False
    """Weigh each skip's pixels by what the coarser map sees there."""
    dilated: bool = False
    """Compute the last block at the resolution of the one before, with holes in its kernels: stride 8, not 16."""
    deep_supervision: bool = False
    """Coarser decoder stages give logits too: see :func:`tileseg.nn.unet.training_model`. In training only."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the channels dropped after the encoder and before the logits. In training only."""
    file: Annotated[Path | None, Field(strict=False)] = None
    """A ``.keras`` file whose network is trained instead of one of tileseg's; all other options but ``fresh`` are for
    those."""
    fresh: bool = False
    """Start the network of a file with random weights instead of those that the file has."""

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        others = self.model_fields_set - {"file", "fresh"}
        if self.file is not None and others:
            raise ValueError(f"{min(others)} is an option of tileseg's own networks: {self.file} is one already")
        if self.file is None and self.fresh:
            raise ValueError("fresh is for the network of a file: tileseg's own start with random weights always")
        return self
