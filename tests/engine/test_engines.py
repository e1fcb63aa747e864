"""An engine that the package does not know: one file and one line of the registry, and a run takes it."""

from __future__ import annotations

import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes import CLASSES, smooth_noise, write_scene
from oracle import resample

from tileseg import RunSpec, run
from tileseg.card import Form, ModelCard, Scaling
from tileseg.engine.host import HostArrays
from tileseg.engine.kinds import ENGINES, EngineKind
from tileseg.engine.registry import open_network
from tileseg.errors import InputError
from tileseg.mosaic import Mosaic
from tileseg.nn.folder import load_card, save_card
from tileseg.window import Window

TOY = '''
import json

import numpy as np

from tileseg.engine.host import HostArrays


class Toy:
    """Every class's logit is its weight times the mean of the band's 3 x 3 neighbours."""

    arrays = HostArrays()

    def __init__(self, folder, card, threads):
        self.card = card
        self.weights = np.float32(json.loads((folder / "model.toy").read_text()))

    def engine(self, window):
        def compute(images):
            assert images.dtype == np.float32
            assert images.shape == (window.batch, window.rows, window.cols, 3)
            framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
            rows, cols = window.rows, window.cols
            total = sum(framed[:, y : y + rows, x : x + cols] for y in range(3) for x in range(3))
            kept = slice(window.crop, -window.crop or None)
            return (total / np.float32(9))[:, kept, kept] * self.weights

        return compute

    def is_out_of_memory(self, error):
        return isinstance(error, MemoryError)
'''
WEIGHTS = (1.0, -1.0, 2.0)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a file of a new kind, and the engine for it."""
    (tmp_path / "toy_engine.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_engine", raising=False)
    monkeypatch.setitem(ENGINES, "toy", EngineKind("toy_engine:Toy", (".toy",), {"float32": 1.0}, {}))
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "model.toy").write_text(json.dumps(WEIGHTS))
    card = ModelCard(
        name="toy", bands=("red", "green", "blue"), classes=CLASSES, scaling=Scaling(divisor=255, mean=(0.4,)),
        output_channels=3, stride=1, radius=1, flops_per_pixel=9, activation_bytes_per_pixel=24, parameters=3,
        forms=(Form(file="model.toy", sha256=hashlib.sha256((folder / "model.toy").read_bytes()).hexdigest()),),
    )  # fmt: skip
    save_card(card, folder)
    return folder


@pytest.mark.parametrize(("scales", "flips"), [((Fraction(1),), "none"), ((Fraction(1, 2), Fraction(3, 2)), "d4")])
def test_a_run_takes_an_engine_of_ones_own(tmp_path: Path, toy: Path, scales: tuple, flips: str) -> None:
    pixels = smooth_noise(75, 122, 3)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    options = {"workers": 0, "block": 64, "scales": scales, "flips": flips, "precision": "float32"}
    run(RunSpec(scene=scene, model=str(toy), out=tmp_path / "out", **options))
    found = Mosaic(tmp_path / "out" / "mosaic.zarr").read_logits(Window(0, 0, 75, 122)).astype(np.float32)
    margin = 32
    image = np.pad(pixels, ((margin, margin + 5), (margin, margin + 6), (0, 0)), mode="reflect") / 255 - 0.4
    total = np.zeros((3, 75, 122))
    for scale in scales:
        seen = resample(image.astype(np.float32), scale)
        framed = np.pad(seen, ((1, 1), (1, 1), (0, 0)))
        height, width = seen.shape[:2]
        mean = sum(framed[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
        back = resample((mean * np.float32(WEIGHTS)).astype(np.float32), 1 / scale)
        total += np.moveaxis(back[margin : margin + 75, margin : margin + 122], -1, 0) / len(scales)
    assert np.abs(found - total).max() < 2e-3


def test_the_host_resamples_every_window_to_the_bits_of_the_whole() -> None:
    image = np.random.default_rng(0).normal(size=(1, 96, 144, 2)).astype(np.float32)
    for scale in (Fraction(3, 4), Fraction(3, 2), Fraction(1, 3), Fraction(2)):
        whole = HostArrays().resample(image, scale)
        inside = (slice(8, -8), slice(8, -8))  # at the ends the oracle weighs the taps that exist
        assert np.abs(whole[0] - resample(image[0], scale))[inside].max() < 1e-5
        part = HostArrays().resample(image[:, 24:84, 36:108], scale)
        edge = int(12 * scale)
        rows, cols = (slice(int(n * scale) + edge, int(m * scale) - edge) for n, m in ((24, 84), (36, 108)))
        np.testing.assert_array_equal(part[:, edge:-edge, edge:-edge], whole[:, rows, cols])


def test_a_kind_of_model_that_no_engine_knows_is_refused(tmp_path: Path, toy: Path) -> None:
    (toy / "model.toy").rename(toy / "model.dll")
    card = load_card(toy)
    form = card.forms[0].model_copy(update={"file": "model.dll"})
    save_card(card.model_copy(update={"forms": (form,)}), toy)
    with pytest.raises(InputError, match=r"model\.dll: no engine computes such a model; expected model\.keras"):
        open_network(toy, load_card(toy), 1)
    with pytest.raises(InputError, match=r"model toy, model\.dll: no engine computes such a model"):
        run(RunSpec(scene=write_scene(tmp_path / "scene.tif", smooth_noise(32, 40, 3)), model=str(toy), out=tmp_path))
