"""What the network is trained on equals what a run makes of the same pixels by the card's scaling."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import dataset, noise, patchy, write

from tileseg.card import Scaling
from tileseg.dataset import load_dataset
from tileseg.dataset.patches import PatchSampler
from tileseg.dataset.statistics import DatasetStatistics, statistics
from tileseg.train.normalisation import Normalisation, normalisation_of
from tileseg.train.spec import TrainSpec

STATISTICS = DatasetStatistics((900.0, 1200.0), (200.0, 350.0), (0.9, 0.1), 1000)


def spec(**options) -> TrainSpec:
    return TrainSpec.parse({"dataset": "d.toml", "out": "m", **options})


def as_a_run_does(pixels, scaling: Scaling) -> np.ndarray:
    """The formula of the card's docstring."""
    values = pixels.astype(np.float64)
    if scaling.kind == "window":
        low, high = scaling.center - scaling.width / 2, scaling.center + scaling.width / 2
        values = (np.clip(values, low, high) - low) / scaling.width
    else:
        values = values / scaling.divisor
    return (values - np.array(scaling.mean)) / np.array(scaling.std)


def as_trained(pixels, values: Normalisation) -> np.ndarray:
    return (values.to_unit(pixels) - np.float32(values.mean)) / np.float32(values.std)


@pytest.mark.parametrize("options", [{}, {"scaling": "unit"}, {"value_window": "1000,800"}])
def test_training_and_running_scale_alike(options) -> None:
    values = normalisation_of(spec(**options), "uint16", STATISTICS)
    pixels = np.random.default_rng(0).integers(0, 4000, (5, 7, 2)).astype(np.uint16)
    np.testing.assert_allclose(as_trained(pixels, values), as_a_run_does(pixels, values.scaling), atol=2e-5)


def test_dataset_scaling_makes_mean_0_and_deviation_1() -> None:
    values = normalisation_of(spec(), "uint16", STATISTICS)
    pixels = np.array([[900, 1200], [1100, 1550]], np.uint16)
    np.testing.assert_allclose(as_trained(pixels, values), [[0, 0], [1, 1]], atol=1e-3)


def test_8_bits_are_divided_by_255_and_others_by_a_round_number_above_nearly_all() -> None:
    assert normalisation_of(spec(), "uint8", STATISTICS).reach == 255
    assert normalisation_of(spec(), "uint16", STATISTICS).reach == 3000  # 1200 + 4 * 350 = 2600


def test_a_window_has_the_statistics_of_what_it_clips_to(tmp_path) -> None:
    hounsfield = np.random.default_rng(5).normal(-300, 600, (60, 90, 1)).round().astype(np.int16)
    write(tmp_path / "a.tif", hounsfield)
    write(tmp_path / "l.tif", patchy(60, 90))
    path = dataset(tmp_path, "bands = ['ct']\n[[scenes]]\nimage = 'a.tif'\nlabels = 'l.tif'\n")
    windowed = spec(value_window="40,400")
    found = statistics(load_dataset(path).train, classes=3, limits=windowed.value_limits)
    values = normalisation_of(windowed, "int16", found)
    seen = as_trained(hounsfield, values)
    assert (seen.mean(), seen.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))
    assert values.mean[0] == pytest.approx(((np.clip(hounsfield, -160, 240) + 160) / 400).mean(), abs=1e-4)


def test_a_window_clips() -> None:
    values = normalisation_of(spec(value_window="40,400"), "int16", STATISTICS)
    np.testing.assert_array_equal(values.to_unit(np.array([-1000, -160, 40, 240, 3000], np.int16)), [0, 0, 0.5, 1, 1])


def test_statistics_and_rarity_count_scenes_by_their_weights(tmp_path) -> None:
    """As if a scene of weight 3 were there three times: so patches are drawn too."""
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / f"{name}.tif", noise(64, 96, seed=seed) // (1 if name == "a" else 3))
        write(tmp_path / f"{name}_l.tif", patchy(64, 96, classes=2 if name == "a" else 3, seed=seed))
    entry = "[[scenes]]\nimage = '{0}.tif'\nlabels = '{0}_l.tif'\n"
    weighted = dataset(tmp_path, entry.format("a") + entry.format("b") + "weight = 3\n")
    one = load_dataset(weighted).train
    thrice = load_dataset(dataset(tmp_path, entry.format("a") + 3 * entry.format("b"))).train
    found, expected = (statistics(scenes, classes=3) for scenes in (one, thrice))
    for name in ("mean", "std", "class_shares"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    rarity = [PatchSampler(scenes, 32, 4, seed=0)._chances for scenes in (one, thrice)]
    np.testing.assert_allclose(*rarity)
