"""Patches are the same for the same seed and step, rare classes come more often, and everything is in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import dataset, noise, write

from tileseg.dataset import Dataset, load_dataset
from tileseg.dataset.patches import PatchSampler, count_cells, read_patch, validation_windows
from tileseg.dataset.statistics import statistics
from tileseg.errors import InputError, UsageError
from tileseg.window import Window


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two scenes that are mostly ground; one has a small lake, which is the rarest class."""
    first = np.zeros((300, 420), np.uint8)
    first[40:100, 50:110] = 1
    first[250:262, 390:402] = 2
    first[:, 200:260] = 255
    second = np.zeros((90, 500), np.uint8)
    second[20:50, 400:440] = 1
    for name, labels in (("a", first), ("b", second)):
        pixels = noise(*labels.shape)
        pixels[..., 0] = labels  # shows which label a pixel should have
        write(tmp_path / f"{name}.tif", pixels)
        write(tmp_path / f"{name}_labels.tif", labels)
    text = "".join(
        f"[[scenes]]\nsplit = '{split}'\nimage = '{name}.tif'\nlabels = '{name}_labels.tif'\n"
        for name, split in (("a", "train"), ("b", "train"), ("b", "validate"))
    )
    return load_dataset(dataset(tmp_path, text))


def test_a_step_gives_the_same_batch_in_every_training(data: Dataset) -> None:
    first, again = (PatchSampler(data.train, 64, 5, seed=3) for _ in range(2))
    for step in (7, 0, 123456):
        for one, other in zip(first.batch(step), again.batch(step), strict=True):
            np.testing.assert_array_equal(one, other)
    assert first.windows(1) != first.windows(2)
    assert first.windows(1) != PatchSampler(data.train, 64, 5, seed=4).windows(1)


def test_images_and_labels_belong_together(data: Dataset) -> None:
    sampler = PatchSampler(data.train, 64, 6, seed=0)
    for step in range(20):
        images, labels = sampler.batch(step)
        assert (images.shape, images.dtype) == ((6, 64, 64, 3), np.uint8)
        assert (labels.shape, labels.dtype) == ((6, 64, 64), np.uint8)
        np.testing.assert_array_equal(images[..., 0], labels)


def shares(sampler: PatchSampler, steps: int) -> np.ndarray:
    counts = sum(np.bincount(sampler.batch(step)[1].ravel(), minlength=256) for step in range(steps))
    return counts[[0, 1, 2]] / counts[:3].sum()


def test_rare_classes_come_more_often_when_balanced(data: Dataset) -> None:
    truth = count_cells(data.train, 3, 16).pixels
    assert truth.tolist() == [300 * 360 - 3600 - 144 + 90 * 500 - 1200, 4800, 144]
    plain, balanced = (shares(PatchSampler(data.train, 48, 8, 0, balance=b), 40) for b in (0, 1))
    assert balanced[1] > 2 * plain[1]
    assert balanced[2] > 10 * truth[2] / truth.sum()
    only = PatchSampler(data.train, 48, 8, 0, balance=1, rare=[2])
    assert np.mean([(labels == 2).any() for step in range(10) for labels in only.batch(step)[1]]) > 0.8


def test_without_balance_every_known_pixel_is_about_as_likely(data: Dataset) -> None:
    sampler = PatchSampler(data.train, 32, 16, 0, balance=0)
    drawn = [item for step in range(60) for item in sampler.windows(step)]
    truth = count_cells(data.train, 3, 16)
    expected = truth.counts[1].sum() / truth.pixels.sum()
    assert np.mean([index == 1 for index, _ in drawn]) == pytest.approx(expected, abs=0.05)
    scenes = [replace(scene, weight=4.0 if i == 1 else 1.0) for i, scene in enumerate(data.train)]
    weighted = PatchSampler(scenes, 32, 16, 0, balance=0)
    found = np.mean([index == 1 for step in range(60) for index, _ in weighted.windows(step)])
    assert found == pytest.approx(4 * expected / (1 + 3 * expected), abs=0.06)
    first = [window for index, window in drawn if index == 0]
    assert min(w.row_off for w in first) == min(w.col_off for w in first) == 0
    assert max(w.row_stop for w in first) == 300
    assert max(w.col_stop for w in first) == 420


def test_scenes_or_places_count_alike_whatever_their_size(data: Dataset) -> None:
    """Or one large scene is all that is learnt from."""
    big, small = data.train
    again = replace(big, weight=2.0)

    def shares_of(scenes: list, by: str) -> list[float]:
        sampler = PatchSampler(scenes, 32, 16, 0, balance=0, by=by)
        drawn = [index for step in range(60) for index, _ in sampler.windows(step)]
        return [drawn.count(index) / len(drawn) for index in range(len(scenes))]

    assert shares_of([big, small], "pixel")[1] < 0.4
    assert shares_of([big, small], "scene") == pytest.approx([0.5, 0.5], abs=0.06)
    assert shares_of([again, small], "scene") == pytest.approx([2 / 3, 1 / 3], abs=0.06)
    one, two, three = (replace(scene, place=place) for scene, place in ((big, "a"), (small, "a"), (small, "b")))
    found = shares_of([one, two, three], "place")
    assert found[2] == pytest.approx(0.5, abs=0.06)
    assert found[0] > found[1], "within a place by pixels"
    drawn = [replace(scene, drawn=True, place=str(i)) for i, scene in enumerate((small, small, small))]
    assert shares_of([one, *drawn], "place")[0] == pytest.approx(0.5, abs=0.06)


def test_patches_that_show_nothing_known_are_avoided(data: Dataset) -> None:
    sampler = PatchSampler(data.train, 48, 8, 0)
    unknown = [(labels == 255).mean() for step in range(40) for labels in sampler.batch(step)[1]]
    assert max(unknown) < 0.95
    assert np.mean(np.array(unknown) > 0.75) < 0.05


def test_scenes_smaller_than_a_patch_are_continued_by_reflection(data: Dataset) -> None:
    scene = data.train[1]
    pixels, labels = read_patch(scene, Window(0, 100, 90, 128), 128)
    whole, truth = scene.read(Window(0, 100, 90, 128))
    np.testing.assert_array_equal(pixels, np.pad(whole, ((0, 38), (0, 0), (0, 0)), mode="reflect"))
    np.testing.assert_array_equal(labels[:90], truth)
    assert (labels[90:] == 255).all()
    images, _ = PatchSampler(data.train[1:], 128, 4, 0).batch(0)
    assert images.shape == (4, 128, 128, 3)
    assert read_patch(scene, Window(88, 498, 2, 2), 16)[0].shape == (16, 16, 3)


def test_validation_windows_cover_every_pixel_once(data: Dataset) -> None:
    windows = validation_windows(data.scenes, 64)
    seen = {scene: np.zeros((scene.grid.height, scene.grid.width), int) for scene in data.scenes}
    for scene, window in windows:
        seen[scene][window.slices] += 1
    assert all((count == 1).all() for count in seen.values())
    few = validation_windows(data.scenes, 64, most=7)
    assert len(few) == 7
    assert {scene for scene, _ in few} == {*data.scenes}
    assert set(few) <= set(windows)


@pytest.mark.parametrize(("most", "counts"), [(6, (3, 3)), (20, (10, 10)), (40, (24, 16)), (1, (1, 1))])
def test_places_are_looked_at_alike_however_many_windows_they_have(data: Dataset, most: int, counts: tuple) -> None:
    """Or a small place would decide nothing of which weights are the best."""
    scenes = [replace(scene, place=place) for scene, place in zip(data.scenes, ("one", "one", "two"), strict=True)]
    windows = validation_windows(scenes, 64)
    assert [sum(scene.place == place for scene, _ in windows) for place in ("one", "two")] == [51, 16]
    few = validation_windows(scenes, 64, most=most)
    assert tuple(sum(scene.place == place for scene, _ in few) for place in ("one", "two")) == counts
    assert len(set(few)) == len(few)
    assert few == [window for window in windows if window in few], "in the order of the scenes"


def test_what_makes_no_sense_is_refused(data: Dataset, tmp_path: Path) -> None:
    for options in ({"size": 0}, {"batch": 0}, {"balance": 1.5}):
        with pytest.raises(UsageError):
            PatchSampler(data.train, **({"size": 8, "batch": 1, "seed": 0} | options))
    with pytest.raises(InputError, match="no scenes for training"):
        PatchSampler([], 8, 1, 0)
    write(tmp_path / "a_labels.tif", np.full((300, 420), 255, np.uint8))
    with pytest.raises(InputError, match="no pixel of the training scenes"):
        PatchSampler(load_dataset(tmp_path / "dataset.toml").train[:1], 8, 1, 0)


def test_statistics_are_those_of_the_known_pixels(data: Dataset) -> None:
    found = statistics(data.train, classes=3)
    pixels, labels = zip(*(scene.read(scene.extent) for scene in data.train), strict=True)
    known = np.concatenate([p[truth != 255] for p, truth in zip(pixels, labels, strict=True)]).astype(float)
    np.testing.assert_allclose(found.mean, known.mean(axis=0))
    np.testing.assert_allclose(found.std, known.std(axis=0))
    counts = np.bincount(np.concatenate([truth[truth != 255] for truth in labels]), minlength=3)
    np.testing.assert_allclose(found.class_shares, counts / counts.sum())
    assert found.pixels == len(known)
    assert statistics(data.train, classes=3) == found
