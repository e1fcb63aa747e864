"""Augmentation: exact where it can be, images and labels together, the same again from seed and step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError
from scipy.ndimage import correlate1d, map_coordinates

from tileseg.train import augment, distort
from tileseg.train.augment import Augmenter
from tileseg.train.augment_spec import AugmentSpec
from tileseg.train.draw import Draws, draw, spline

STRONG = {
    "flips": True,
    "turns": True,
    "rotation": 30.0,
    "scale": 0.5,
    "shift": 0.3,
    "elastic": 6.0,
    "brightness": 0.2,
    "contrast": 0.5,
    "saturation": 0.8,
    "hue": 0.2,
    "grey": 0.5,
    "gamma": 0.5,
    "haze": 0.6,
    "resolution": 2.0,
    "blur": 1.5,
    "noise": 0.1,
    "cutmix": 0.7,
}
MOVING = ("flips", "turns", "rotation", "scale", "shift", "elastic")
LOOKS = tuple(name for name in STRONG if name not in (*MOVING, "cutmix"))
LUMA = np.array([0.299, 0.587, 0.114])

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def only(*names: str) -> AugmentSpec:
    return AugmentSpec.model_validate(AugmentSpec.none().model_dump() | {name: STRONG[name] for name in names})


def batch(count: int = 6, height: int = 40, width: int = 70, bands: int = 3) -> tuple[Images, Labels]:
    """Random pixels away from 0 and 1, random labels, some unknown."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.6, (count, height, width, bands)).astype(np.float32)
    labels = rng.integers(0, 4, (count, height, width)).astype(np.uint8)
    labels[labels == 3] = 255
    return images, labels


def drawn_for(spec: AugmentSpec, images: Images, step: int = 0, seed: int = 5) -> Draws:
    return draw(spec, seed, step, images.shape)


def test_every_option_is_covered_here() -> None:
    assert set(STRONG) == set(AugmentSpec.model_fields)


def test_none_changes_nothing() -> None:
    images, labels = batch()
    moved, known = Augmenter(AugmentSpec.none(), 3, seed=5)(images, labels, 0)
    assert np.array_equal(moved, images)
    assert np.array_equal(known, labels)


@pytest.mark.parametrize("name", STRONG)
def test_each_can_be_switched_on_alone(name) -> None:
    images, labels = batch()
    kept = images.copy(), labels.copy()
    moved, known = Augmenter(only(name), 3, seed=5)(images, labels, 3)
    assert np.array_equal(images, kept[0])
    assert np.array_equal(labels, kept[1])
    assert (moved.dtype, known.dtype, moved.shape, known.shape) == (
        np.float32, np.uint8, images.shape, labels.shape
    )  # fmt: skip
    assert not np.array_equal(moved, images)
    assert np.array_equal(known, labels) == (name in LOOKS)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert set(np.unique(known)) <= {0, 1, 2, 255}


@pytest.mark.parametrize("name", ["haze", "resolution", "blur", "noise", "grey"])
def test_images_that_draw_nothing_pass_through_unharmed(name) -> None:
    images, labels = batch(count=12)
    moved, _ = Augmenter(only(name), 3, seed=5)(images, labels, 1)
    same = [np.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(moved, images, strict=True)]
    assert 2 <= sum(same) <= 10


def test_everything_at_once_is_the_same_again_and_of_no_other_step_or_seed(monkeypatch) -> None:
    images, labels = batch()
    spec = only(*STRONG)
    first = Augmenter(spec, 3, seed=5)
    results = [first(images, labels, step) for step in range(4)]
    compiled: list[Callable[..., Any]] = []
    compile_all = augment._compile
    monkeypatch.setattr(augment, "_compile", lambda *given: compiled.append(compile_all(*given)) or compiled[-1])
    again = Augmenter(spec, 3, seed=5)
    with ThreadPoolExecutor(4) as threads:  # all of them come before anything is compiled
        resumed = list(threads.map(lambda step: again(images, labels, step), range(4)))
    assert len(compiled) == 1
    assert all(
        not np.array_equal(a, b) for a, b in zip(drawn_for(spec, images), drawn_for(spec, images, seed=6), strict=True)
    )
    for k in (0, 1):
        assert all(np.array_equal(a[k], b[k]) for a, b in zip(resumed, results, strict=True))
        assert all(not np.array_equal(a[k], b[k]) for a, b in pairwise(results))


def test_an_option_draws_the_same_whatever_the_others_are() -> None:
    images, _ = batch()
    alone, beside = drawn_for(only("flips", "noise"), images), drawn_for(only(*STRONG), images)
    assert np.array_equal(alone.noise, beside.noise)
    assert np.array_equal(alone.key, beside.key)
    assert np.array_equal(drawn_for(only("haze"), images).haze, beside.haze)
    assert not np.array_equal(drawn_for(only("haze"), images, step=1).haze, beside.haze)


def test_compiled_once_per_shape(monkeypatch) -> None:
    traced = []
    light = distort.light
    monkeypatch.setattr(distort, "light", lambda spec, images, drawn: traced.append(1) or light(spec, images, drawn))
    augmenter = Augmenter(only("brightness"), 3, seed=0)
    for step in range(5):
        augmenter(*batch(), step)
    assert len(traced) == 1
    augmenter(*batch(count=2), 5)
    assert len(traced) == 2


# Geometry


def symmetries(image: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
    """The eight of a square, of (y, x, ...)."""
    return [np.rot90(part, k) for part in (image, image[:, ::-1]) for k in range(4)]


def test_flips_and_turns_are_the_eight_symmetries_for_images_and_labels_alike() -> None:
    images, labels = batch(count=8, height=37, width=37)
    augmenter = Augmenter(only("flips", "turns"), 3, seed=5)
    seen = set()
    for step in range(6):
        moved, known = augmenter(images, labels, step)
        for k in range(8):
            which = [np.array_equal(moved[k], s) for s in symmetries(images[k])]
            assert which == [np.array_equal(known[k], s) for s in symmetries(labels[k])]
            assert sum(which) == 1
            seen.add(which.index(True))
    assert seen == set(range(8))


@pytest.mark.parametrize(("name", "times"), [("flips", 2), ("turns", 4)])
def test_round_trip(name, times) -> None:
    images, labels = batch(count=8, height=36, width=36)
    augmenter = Augmenter(only(name), 3, seed=5)
    moved, known = augmenter(images, labels, 2)
    assert not np.array_equal(moved, images)
    for _ in range(times - 1):
        moved, known = augmenter(moved, known, 2)
    assert np.array_equal(moved, images)
    assert np.array_equal(known, labels)


def test_oblong_patches_make_half_turns_only() -> None:
    images, labels = batch(count=8)
    moved, known = Augmenter(only("turns"), 3, seed=5)(images, labels, 0)
    turned = 0
    for k in range(8):
        assert np.array_equal(moved[k], images[k]) or np.array_equal(moved[k], images[k, ::-1, ::-1])
        half = np.array_equal(known[k], labels[k, ::-1, ::-1])
        turned += half
        assert half or np.array_equal(known[k], labels[k])
    assert 0 < turned < 8


@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("names", [("rotation",), ("scale",), ("shift",), ("elastic",), MOVING], ids="+".join)
def test_geometry_is_that_of_scipy(names, size) -> None:
    images, labels = batch()
    spec = only(*names)
    height, width = (40, 70) if size is None else (size, size)
    drawn = draw(spec, 5, 1, (6, height, width, 3))
    moved, known = Augmenter(spec, 3, seed=5, size=size)(images, labels, 1)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) - [
        (height - 1) / 2,
        (width - 1) / 2,
    ]
    down, across = spline(height).astype(float), spline(width).astype(float)
    for k in range(6):
        place = grid @ drawn.turning[k].astype(float).T + drawn.shift[k] + [39 / 2, 69 / 2]
        if "elastic" in names:
            place = place + np.einsum("yi,ijk,xj->yxk", down, drawn.elastic[k].astype(float), across)
        at = np.moveaxis(place, -1, 0)
        for band in range(3):
            expected = map_coordinates(images[k, :, :, band].astype(float), at, order=1, mode="reflect")
            assert moved[k, :, :, band] == pytest.approx(expected, abs=2e-5)
        nearest = np.floor(at + 0.5).astype(int)
        inside = ((nearest >= 0) & (nearest < np.array([40, 70])[:, None, None])).all(axis=0)
        expected = np.where(inside, labels[k][tuple(np.clip(nearest, 0, [[[39]], [[69]]]))], 255)
        assert (known[k] == expected).mean() > 0.999  # float32 may fall on the other side of a pixel's edge


def test_a_drawn_shape_moves_with_its_label() -> None:
    y, x = np.mgrid[:64, :80]
    disk = ((y - 25) ** 2 + (x - 30) ** 2 < 15**2) | ((abs(y - 45) < 8) & (abs(x - 60) < 12))
    images = np.repeat(disk[None, :, :, None].astype(np.float32), 6, axis=0)
    labels = np.repeat(disk[None].astype(np.uint8), 6, axis=0)
    moved, known = Augmenter(only(*MOVING), 1, seed=5)(images, labels, 0)
    for image, label in zip(moved[..., 0], known, strict=True):
        assert not np.array_equal(label, labels[0])
        seen = (label != 255) & (abs(image - 0.5) > 0.3)  # but for the blurred outline
        assert seen.sum() > 1500
        assert np.array_equal(image[seen] > 0.5, label[seen] == 1)


def test_larger_patches_bring_their_surroundings() -> None:
    images, labels = batch(height=80, width=80)
    labels[labels == 255] = 0
    moved, known = Augmenter(AugmentSpec.none(), 3, seed=0, size=40)(images, labels, 0)
    assert np.array_equal(moved, images[:, 20:60, 20:60])
    assert np.array_equal(known, labels[:, 20:60, 20:60])
    spec = only("rotation", "scale")  # at most 1.5 times as much, turned by 30 degrees: 1.5 (cos + sin) x 40 = 82
    assert (Augmenter(spec, 3, seed=0, size=40)(images, labels, 0)[1] != 255).mean() > 0.999
    assert (Augmenter(spec, 3, seed=0)(images, labels, 0)[1] != 255).mean() < 0.95


def test_smooth_fields_are_cubic_splines() -> None:
    made = spline(200)
    assert made.shape == (200, 7)
    assert made.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert made.min() >= 0
    assert made @ (np.arange(7) - 1) * 64 == pytest.approx(np.arange(200) + 0.5, abs=1e-3)


# Looks


def looks(name: str, images: Images, step: int = 1) -> Images:
    labels = np.zeros(images.shape[:3], np.uint8)
    return Augmenter(only(name), images.shape[-1], seed=5)(images, labels, step)[0]


def test_brightness_adds() -> None:
    images, _ = batch()
    added = looks("brightness", images) - images
    assert np.ptp(added, axis=(1, 2, 3)) == pytest.approx(0, abs=1e-6)
    means = added.mean(axis=(1, 2, 3))
    assert np.abs(means).max() <= 0.2
    assert means.min() < 0 < means.max()


def test_contrast_keeps_the_mean_of_every_band() -> None:
    images, _ = batch(bands=5)
    images *= np.linspace(0.7, 1.2, 5, dtype=np.float32)
    made = looks("contrast", images)
    before, after = (part.mean(axis=(1, 2), keepdims=True) for part in (images, made))
    assert after == pytest.approx(before, abs=1e-5)
    factor = drawn_for(only("contrast"), images, 1).contrast[:, None, None, None]
    assert made - after == pytest.approx((images - before) * factor, abs=1e-5)
    assert np.abs(factor - 1).max() <= 0.5


def test_gamma_is_a_power() -> None:
    images, _ = batch()
    exponents = np.log(looks("gamma", images)) / np.log(images)
    assert np.ptp(exponents, axis=(1, 2, 3)) == pytest.approx(0, abs=1e-4)
    assert exponents.max() <= 1.5 + 1e-4
    assert exponents.min() >= 1 / 1.5 - 1e-4


@pytest.mark.parametrize("name", LOOKS)
def test_values_stay_between_0_and_1_or_in_the_images_own_range(name) -> None:
    images, _ = batch(count=8)
    low = np.array([0, -0.7, 0, -0.5] * 2, np.float32)[:, None, None, None]
    high = np.array([1, 1, 1.6, 2] * 2, np.float32)[:, None, None, None]
    images = (images - 0.3) / 0.3 * (high - low) + low
    made = looks(name, images)
    assert (made >= low - 1e-6).all()
    assert (made <= high + 1e-6).all()
    assert (np.ptp(made, axis=(1, 2, 3)) > 0.25 * np.ptp(images, axis=(1, 2, 3))).all()


@pytest.mark.parametrize("name", ["saturation", "hue", "grey"])
def test_colors_change_around_grey(name) -> None:
    images, _ = batch()
    made = looks(name, images)
    assert made @ LUMA == pytest.approx(images @ LUMA, abs=3e-4)  # the standard's numbers have three digits
    grey = np.repeat(images[..., :1], 3, axis=-1)
    assert looks(name, grey) == pytest.approx(grey, abs=1e-3)
    assert np.array_equal(looks(name, batch(bands=4)[0]), batch(bands=4)[0])


def test_grey_drops_the_colors_of_its_share() -> None:
    images, _ = batch(count=40, height=8, width=9)
    made = looks("grey", images)
    dropped = np.ptp(made, axis=-1).max(axis=(1, 2)) < 1e-3
    assert 10 <= dropped.sum() <= 30
    assert made[~dropped] == pytest.approx(images[~dropped], abs=1e-6)


def test_hue_turns_and_saturation_stretches_the_differences_from_grey() -> None:
    images, _ = batch()
    yiq = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

    def chroma(values: Images) -> npt.NDArray[np.complex128]:
        i, q = np.moveaxis(values @ yiq.T, -1, 0)
        return i + 1j * q

    turned, stretched = (chroma(looks(name, images)) / chroma(images) for name in ("hue", "saturation"))
    far = np.abs(chroma(images)) > 0.05
    assert np.abs(turned[far]) == pytest.approx(1, abs=1e-3)
    assert np.abs(np.angle(turned[far])).max() <= 2 * np.pi * 0.2 + 1e-3
    assert np.abs(np.angle(stretched[far])).max() < 1e-3
    assert np.abs(stretched[far] - 1).max() <= 0.8 + 1e-3


def test_haze_lies_between_the_image_and_a_bright_color() -> None:
    images, _ = batch()
    images *= 0.5
    spec = only("haze")
    drawn = drawn_for(spec, images, 1)
    thickness = np.einsum("yi,nij,xj->nyx", spline(40), drawn.haze, spline(70))[..., None]
    made = looks("haze", images)
    assert made == pytest.approx(images * (1 - thickness) + drawn.veil[:, None, None, :] * thickness, abs=1e-5)
    assert thickness.min() == 0
    assert 0.2 < thickness.max() <= 0.6
    assert drawn.veil.min() > 0.5
    assert np.ptp(thickness, axis=(1, 2)).max() > 0.01  # uneven


def test_blur_is_a_gaussian() -> None:
    images, _ = batch()
    kernel = drawn_for(only("blur"), images, 1).kernel.astype(float)
    made = looks("blur", images)
    for k in range(6):
        expected = images[k].astype(float)
        for axis in (0, 1):
            expected = correlate1d(expected, kernel[k], axis=axis, mode="reflect")
        assert made[k] == pytest.approx(expected, abs=1e-5)
    places = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    deviations = np.sqrt((kernel * places**2).sum(axis=1))
    assert 0.5 < deviations.max() <= 1.5
    assert deviations.min() == 0


def test_coarse_pixels_are_joined_by_straight_lines() -> None:
    images, _ = batch()
    drawn = drawn_for(only("resolution"), images, 1)
    made = looks("resolution", images)
    coarsest = int(np.argmax(drawn.step))
    step, origin = float(drawn.step[coarsest]), drawn.origin[coarsest]
    assert step > 1.8
    smooth = images[coarsest].astype(float)
    for axis in (0, 1):
        smooth = correlate1d(smooth, drawn.kernel[coarsest].astype(float), axis=axis, mode="reflect")
    for axis, size in ((0, 40), (1, 70)):
        points = np.arange(-1, size / step + 2)
        pixels = np.clip(np.floor(points * step + origin[axis] + 0.5), 0, size - 1).astype(int)
        lines = np.take(smooth, pixels, axis=axis)
        place = (np.arange(size) - origin[axis]) / step
        smooth = np.apply_along_axis(lambda line, p=points, at=place: np.interp(at, p, line), axis, lines)
    assert made[coarsest] == pytest.approx(smooth, abs=1e-4)


def test_noise_is_normal_and_nowhere_the_same() -> None:
    images = np.full((4, 128, 160, 3), 0.5, np.float32)
    drawn = drawn_for(only("noise"), images, 1)
    made = looks("noise", images) - 0.5
    loud = drawn.noise > 0.02
    assert 1 <= loud.sum() <= 3
    assert made[~loud & (drawn.noise == 0)] == pytest.approx(0, abs=1e-7)
    unit = made[loud] / drawn.noise[loud][:, None, None, None]
    assert unit.mean() == pytest.approx(0, abs=0.01)
    assert unit.std() == pytest.approx(1, abs=0.01)
    assert (np.abs(unit) > 2).mean() == pytest.approx(0.0455, abs=0.005)
    for axis in (1, 2, 3):
        neighbours = np.corrcoef(
            np.delete(unit, -1, axis).ravel(), np.delete(unit, 0, axis).ravel()
        )[0, 1]  # fmt: skip
        assert abs(neighbours) < 0.02
    again = looks("noise", images, step=2) - 0.5
    assert abs(np.corrcoef(made.ravel(), again.ravel())[0, 1]) < 0.02


def test_cutmix_shows_a_rectangle_of_another_image_with_its_labels() -> None:
    images, labels = batch(count=8)
    labels = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None], labels.shape).copy()
    moved, known = Augmenter(only("cutmix"), 3, seed=5)(images, labels, 0)
    source = known.astype(int)
    assert np.array_equal(moved, images[source, np.arange(40)[None, :, None], np.arange(70)[None, None, :]])
    mixed = 0
    for k in range(8):
        other = known[k] != k
        if other.any():
            mixed += 1
            rows, cols = other.any(axis=1), other.any(axis=0)
            assert np.array_equal(other, rows[:, None] & cols[None, :])
            assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
            assert len(np.unique(known[k][other])) == 1
    assert 2 <= mixed <= 7


def test_a_single_image_has_no_partner() -> None:
    images, labels = batch(count=1)
    assert np.array_equal(Augmenter(only("cutmix"), 3, seed=5)(images, labels, 0)[0], images)


# What is refused


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": -1.0},
        {"scale": 1.5},
        {"hue": 0.6},
        {"flips": 1},
        {"noise": "0.1"},
        {"brightnes": 0.1},
        {"haze": float("nan")},
    ],
)
def test_mistakes_in_the_spec_are_refused(options) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        AugmentSpec.model_validate(options)


def test_whole_numbers_are_fine() -> None:
    assert AugmentSpec.model_validate({"rotation": 15, "haze": 0}) == AugmentSpec(rotation=15.0, haze=0.0)


def test_batches_that_do_not_fit_are_mistakes_of_the_program() -> None:
    images, labels = batch()
    with pytest.raises(ValueError, match="expected 4 bands"):
        Augmenter(AugmentSpec(), 4, seed=0)(images, labels, 0)
    with pytest.raises(ValueError, match="same size"):
        Augmenter(AugmentSpec(), 3, seed=0)(images, labels[:, 1:], 0)
    for size in (64, 31):
        with pytest.raises(ValueError, match="larger by an even number"):
            Augmenter(AugmentSpec(), 3, seed=0, size=size)(images, labels, 0)
