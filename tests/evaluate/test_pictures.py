"""Pictures in the page of an evaluation."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from tileseg.evaluate.pictures import data_uri


def test_a_picture_of_noise_becomes_text() -> None:
    """Its JPEG is larger than a byte a pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (216, 288, 3)).astype(np.uint8)
    kind, _, text = data_uri(noise).partition(",")
    assert kind == "data:image/jpeg;base64"
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert again.shape == noise.shape
    assert np.abs(again.astype(float) - noise).mean() < 20
