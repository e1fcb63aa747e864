"""Losses against hand-computed values, SciPy and NumPy, and their gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from scipy.ndimage import maximum_filter
from scipy.special import log_softmax, softmax

from tileseg.errors import UsageError
from tileseg.nn.backend import to_numpy
from tileseg.train.losses import TERMS, Loss, parse_loss, refuse_idle_options

Floats = npt.NDArray[np.float32]


def value(loss: Loss, labels, logits) -> float:
    made = loss(np.asarray(labels, np.uint8), tf.constant(logits))
    assert made.dtype == (tf.float64 if tf.constant(logits).dtype == tf.float64 else tf.float32)
    assert made.shape == ()
    return float(made)


def gradient(loss: Loss, labels, logits) -> Floats:
    z = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(z)
        made = loss(labels, z)
    return to_numpy(tape.gradient(made, z))


def logits_of(probabilities) -> Floats:
    """Two-class logits whose softmax gives class 1 these probabilities, (n, y, x)."""
    p = np.asarray(probabilities, np.float64)
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=-1).astype(np.float32)


def random_case(classes: int = 3, seed: int = 0) -> tuple[npt.NDArray[np.uint8], Floats]:
    """A (2, 5, 7) batch whose first rows are unknown in one image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (2, 5, 7)).astype(np.uint8)
    labels[0, :2, :5] = 255
    return labels, rng.normal(0, 2, (2, 5, 7, classes)).astype(np.float32)


def test_cross_entropy_by_hand() -> None:
    loss = parse_loss("ce", classes=2)
    assert value(loss, [[[1, 0, 255]]], logits_of([[[0.9, 0.2, 0.5]]])) == pytest.approx(
        (-math.log(0.9) - math.log(0.8)) / 2, rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
def test_cross_entropy_is_the_published_formula(weights, smoothing) -> None:
    labels, logits = random_case()
    known = labels != 255
    log_p = log_softmax(logits[known].astype(np.float64), axis=-1)
    target = np.eye(3)[labels[known]]
    w = np.ones(3) if weights is None else np.array(weights)
    expected = -(w * ((1 - smoothing) * target + smoothing / 3) * log_p).sum() / (w * target).sum()
    loss = parse_loss("ce", classes=3, class_weights=weights, label_smoothing=smoothing)
    assert value(loss, labels, logits) == pytest.approx(expected, rel=1e-5)


def test_a_class_of_weight_2_counts_as_two_pixels() -> None:
    logits = logits_of([[[0.9, 0.2, 0.4]]])
    twice = logits_of([[[0.9, 0.9, 0.2, 0.4]]])
    weighted = value(parse_loss("ce", classes=2, class_weights=(1, 2)), [[[1, 0, 0]]], logits)
    assert weighted == pytest.approx(value(parse_loss("ce", classes=2), [[[1, 1, 0, 0]]], twice), rel=1e-6)


def test_dice_by_hand() -> None:
    # Class 1: hits 0.9, sums 0.9 + 0.2 + 0.4 = 1.5 and 1; class 0: hits 0.8 + 0.6, sums 0.1 + 0.8 + 0.6 = 1.5 and 2.
    expected = 1 - ((2 * 0.9 + 1) / (1.5 + 1 + 1) + (2 * 1.4 + 1) / (1.5 + 2 + 1)) / 2
    loss = parse_loss("dice", classes=2)
    assert value(loss, [[[1, 0, 0, 255]]], logits_of([[[0.9, 0.2, 0.4, 0.99]]])) == pytest.approx(expected, rel=1e-5)


def test_dice_counts_the_whole_batch_and_only_classes_that_it_has() -> None:
    labels, logits = random_case(classes=4)
    labels[labels == 2] = 0
    known = labels != 255
    p, t = softmax(logits[known].astype(np.float64), axis=-1), np.eye(4)[labels[known]]
    each = 1 - (2 * (p * t).sum(0) + 1) / (p.sum(0) + t.sum(0) + 1)
    assert value(parse_loss("dice", classes=4), labels, logits) == pytest.approx(each[[0, 1, 3]].mean(), rel=1e-5)


def test_focal_by_hand() -> None:
    logits = logits_of([[[0.9, 0.2]]])
    first, second = 0.1**2 * -math.log(0.9), 0.2**2 * -math.log(0.8)
    assert value(parse_loss("focal", classes=2), [[[1, 0]]], logits) == pytest.approx((first + second) / 2, rel=1e-4)
    weighted = parse_loss("focal", classes=2, focal_alpha=0.25)
    assert value(weighted, [[[1, 0]]], logits) == pytest.approx((0.25 * first + 0.75 * second) / 2, rel=1e-4)


def test_focal_without_focus_is_cross_entropy() -> None:
    labels, logits = random_case()
    focal, ce = parse_loss("focal", classes=3, focal_gamma=0), parse_loss("ce", classes=3)
    assert value(focal, labels, logits) == pytest.approx(value(ce, labels, logits), rel=1e-6)


def test_tversky_by_hand() -> None:
    # Class 1 alone: hits 0.9 + 0.3, missed 0.1 + 0.7, wrong 0.2.
    expected = 1 - (1.2 + 0.5) / (1.2 + 0.3 * 0.2 + 0.7 * 0.8 + 0.5)
    loss = parse_loss("tversky", classes=2)
    assert value(loss, [[[1, 0, 1]]], logits_of([[[0.9, 0.2, 0.3]]])) == pytest.approx(expected, rel=1e-5)


def test_tversky_at_half_is_dice_and_beta_punishes_what_is_missed() -> None:
    labels, logits = random_case()
    even = parse_loss("tversky", classes=3, tversky_beta=0.5, background=None)
    assert value(even, labels, logits) == pytest.approx(value(parse_loss("dice", classes=3), labels, logits), rel=1e-6)
    misses, invents = logits_of([[[0.1, 0.1, 0.9]]]), logits_of([[[0.9, 0.9, 0.9]]])
    high, low = (parse_loss("tversky", classes=2, tversky_beta=beta) for beta in (0.9, 0.1))
    assert value(high, [[[1, 0, 1]]], misses) > value(low, [[[1, 0, 1]]], misses)
    assert value(high, [[[1, 0, 1]]], invents) < value(low, [[[1, 0, 1]]], invents)


def house(top: int, left: int) -> npt.NDArray[np.uint8]:
    labels = np.zeros((1, 24, 30), np.uint8)
    labels[0, top : top + 8, left : left + 11] = 1
    return labels


def sure_of(labels) -> Floats:
    return np.where(labels[..., None] == np.arange(2), 30.0, -30.0).astype(np.float32)


def test_boundary_by_hand() -> None:
    # Outlines of 8 x 11 have 34 pixels. Two pixels off is found; three to the left, only the top and bottom rows
    # are found but for their last three, and the side that lies within two pixels of them.
    loss = parse_loss("boundary", classes=2)
    assert value(loss, house(6, 9), sure_of(house(6, 9))) == pytest.approx(0, abs=1e-6)
    assert value(loss, house(6, 9), sure_of(house(8, 9))) == pytest.approx(0, abs=1e-6)
    assert value(loss, house(6, 9), sure_of(house(6, 9) * 0)) == pytest.approx(1 - 2 / (1 + 34.5 / 0.5), abs=1e-4)
    assert 0.1 < value(loss, house(6, 9), sure_of(house(6, 6))) < 0.6
    assert value(loss, house(0, 0), sure_of(house(14, 18))) > 0.95


def test_boundary_is_the_published_formula() -> None:
    rng = np.random.default_rng(3)
    labels = np.kron(rng.integers(0, 3, (2, 4, 5)), np.ones((1, 4, 5), int)).astype(np.uint8)
    labels[1, 3:9, 5:12] = 255
    logits = rng.normal(0, 2, (*labels.shape, 3)).astype(np.float32)
    known = labels != 255

    def dilated(values, side) -> npt.NDArray[np.float64]:
        return maximum_filter(values, (1, side, side), mode="constant", cval=0)

    def edge(inside) -> npt.NDArray[np.float64]:
        outside = np.where(known, 1 - inside, 0)
        return np.where(known, dilated(outside, 3) - outside, 0)

    losses = []
    for k in (1, 2):
        found, true = edge(softmax(logits.astype(np.float64), axis=-1)[..., k]), edge(np.float64(labels == k))
        precision = ((found * dilated(true, 5)).sum() + 0.5) / (found.sum() + 0.5)
        recall = ((true * dilated(found, 5)).sum() + 0.5) / (true.sum() + 0.5)
        losses.append(1 - 2 * precision * recall / (precision + recall))
    assert value(parse_loss("boundary", classes=3), labels, logits) == pytest.approx(np.mean(losses), rel=1e-5)


def test_no_boundary_where_knowledge_ends() -> None:
    labels = house(6, 9)
    labels[0, :, 14:] = 255
    half = value(parse_loss("boundary", classes=2), labels, sure_of(house(6, 9)))
    assert half == pytest.approx(0, abs=1e-6)


def test_sums_are_weighted() -> None:
    labels, logits = random_case()
    ce, dice = (value(parse_loss(name, classes=3), labels, logits) for name in ("ce", "dice"))
    both = parse_loss("0.5*ce + 2*dice", classes=3)
    assert value(both, labels, logits) == pytest.approx(0.5 * ce + 2 * dice, rel=1e-6)
    assert {name: float(part) for name, part in both.each(labels, logits).items()} == pytest.approx(
        {"ce": ce, "dice": dice}, rel=1e-6
    )
    assert str(both) == "0.5*ce+2*dice"


ALL = "+".join(TERMS)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("text", [*TERMS, ALL])
def test_gradients_are_those_of_differences(text, channels) -> None:
    classes = max(channels, 2)
    labels, logits = random_case(classes, seed=7)
    logits = logits[..., -channels:]
    loss = parse_loss(
        text,
        classes=classes,
        class_weights=(1, 2, 3)[:classes],
        label_smoothing=0.05,
        focal_alpha=0.3,
        focal_gamma=1.5,
    )
    labels = tf.constant(labels)
    precise = logits.astype(np.float64)

    @tf.function
    def slopes(z) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            made = loss(labels, z)
        return made, tape.gradient(made, z)

    made = to_numpy(slopes(precise)[1])
    assert gradient(loss, labels, logits) == pytest.approx(made, rel=1e-3, abs=1e-5)
    h = 1e-6
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(precise)
        step[place] = h
        difference = float(slopes(precise + step)[0] - slopes(precise - step)[0]) / (2 * h)
        assert made[place] == pytest.approx(difference, rel=1e-4, abs=1e-8), place


@pytest.mark.parametrize("text", [*TERMS, ALL])
def test_unknown_pixels_have_no_say(text) -> None:
    labels, logits = random_case()
    loss = parse_loss(text, classes=3, label_smoothing=0.1)
    other = logits.copy()
    other[labels == 255] = np.random.default_rng(1).choice([np.nan, np.inf, -np.inf, 1e30], (10, 3))
    assert value(loss, labels, other) == value(loss, labels, logits)
    made = gradient(loss, labels, other)
    assert (made[labels == 255] == 0).all()
    assert np.array_equal(made, gradient(loss, labels, logits))
    assert np.abs(made[labels != 255]).max() > 0


@pytest.mark.parametrize("text", [*TERMS, ALL])
def test_where_nothing_is_known_there_is_nothing_to_learn(text) -> None:
    _, logits = random_case()
    labels = np.full(logits.shape[:3], 255, np.uint8)
    loss = parse_loss(text, classes=3, class_weights=(1, 2, 3), label_smoothing=0.1)
    assert value(loss, labels, logits) == 0
    assert (gradient(loss, labels, logits) == 0).all()


@pytest.mark.parametrize("text", [*TERMS, ALL])
@pytest.mark.parametrize("certainty", [60.0, 1e4])
def test_certain_logits_give_finite_gradients(text, certainty) -> None:
    labels, _ = random_case()
    for answer in (labels, (labels + 1) % 3):
        logits = np.where(answer[..., None] == np.arange(3), certainty, -certainty).astype(np.float32)
        loss = parse_loss(text, classes=3, focal_gamma=0.5)
        assert np.isfinite(value(loss, labels, logits))
        assert np.isfinite(gradient(loss, labels, logits)).all()


@pytest.mark.parametrize("text", TERMS)
def test_half_precision_logits_are_computed_in_float32(text) -> None:
    labels, logits = random_case()
    loss = parse_loss(text, classes=3)
    rounded = tf.cast(tf.constant(logits), "bfloat16")
    assert value(loss, labels, rounded) == value(loss, labels, tf.cast(rounded, "float32"))
    assert gradient(loss, labels, rounded).dtype == rounded.dtype


@pytest.mark.parametrize("text", TERMS)
def test_one_channel_is_the_second_class(text) -> None:
    labels, logits = random_case(classes=2)
    logits[..., 0] = 0
    loss = parse_loss(text, classes=2)
    assert value(loss, labels, logits[..., 1:]) == value(loss, labels, logits)


def test_background_may_be_any_class_or_none() -> None:
    labels, logits = random_case()
    order = [2, 0, 1]  # class 0 becomes 1, 1 becomes 2, 2 becomes 0
    turned = np.where(labels == 255, 255, (labels + 1) % 3)
    for text in ("tversky", "boundary", "focal"):
        first = parse_loss(text, classes=3, focal_alpha=0.3)
        moved = parse_loss(text, classes=3, focal_alpha=0.3, background=1)
        assert value(moved, turned, logits[..., order]) == pytest.approx(value(first, labels, logits), rel=1e-5)
        assert value(parse_loss(text, classes=3, focal_alpha=0.3, background=None), labels, logits) != pytest.approx(
            value(first, labels, logits), rel=1e-3
        )


def test_labels_may_be_of_any_integer_type_and_the_loss_compiled() -> None:
    labels, logits = random_case()
    loss = parse_loss(ALL, classes=3)
    compiled = tf.function(loss)
    for dtype in ("uint8", "int32", "int64"):
        assert float(compiled(tf.constant(labels, dtype), tf.constant(logits))) == pytest.approx(
            value(loss, labels, logits), rel=1e-5
        )


def test_logits_of_other_channels_are_a_mistake_of_the_program() -> None:
    labels, logits = random_case(classes=3)
    with pytest.raises(ValueError, match="3 channels for 4 classes"):
        parse_loss("ce", classes=4)(labels, logits)


def test_the_text_is_read_in_full() -> None:
    assert parse_loss(" focal+ .5 * dice +2e-1*boundary", classes=2).terms == (
        (1.0, "focal"),
        (0.5, "dice"),
        (0.2, "boundary"),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a term"),
        ("ce+", "expected a term"),
        ("ce dice", r"expected a \+"),
        ("ce-dice", r"expected a \+"),
        ("jaccard", "'jaccard'; there are ce, dice, focal, tversky, boundary"),
        ("0*ce", "more than 0"),
        ("1e999*ce", "finite"),
        ("-1*ce", "expected a term"),
        ("ce*0.5", r"expected a \+"),
        ("ce+0.5*ce", "twice"),
    ],
)
def test_mistakes_in_the_text_are_told_in_one_line(text, told) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        parse_loss(text, classes=2)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"classes": 1}, "2 to 255"),
        ({"background": 2}, "0 to 1"),
        ({"class_weights": (1, 2, 3)}, "3 values for 2 classes"),
        ({"class_weights": (0, 0)}, "not all 0"),
        ({"class_weights": (1, math.nan)}, "0 or more"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"focal_alpha": 2.0}, "between 0 and 1"),
        ({"focal_alpha": (0.1, 0.2, 0.3)}, "3 values for 2 classes"),
        ({"focal_gamma": -1.0}, "0 or more"),
        ({"tversky_beta": 1.5}, "between 0 and 1"),
    ],
)
def test_mistakes_in_options_are_told_in_one_line(options, told) -> None:
    with pytest.raises(UsageError, match=told):
        parse_loss("ce", **{"classes": 2, **options})


GIVEN = {
    "class_weights": (1.0, 3.0, 9.0),
    "label_smoothing": 0.2,
    "focal_alpha": 0.9,
    "focal_gamma": 0.5,
    "tversky_beta": 0.2,
}
SERVED = {
    #                    class_weights label_smoothing focal_alpha focal_gamma tversky_beta
    "ce":               (True,         True,           False,      False,      False),
    "focal":            (True,         False,          True,       True,       False),
    "dice":             (False,        False,          False,      False,      False),
    "tversky":          (False,        False,          False,      False,      True),
    "boundary":         (False,        False,          False,      False,      False),
    "ce+dice":          (True,         True,           False,      False,      False),
    "focal+tversky":    (True,         False,          True,       True,       True),
    "0.5*dice+boundary": (False,       False,          False,      False,      False),
}  # fmt: skip


@pytest.mark.parametrize("option", GIVEN)
@pytest.mark.parametrize("text", SERVED)
def test_an_option_changes_the_loss_or_is_refused(text, option) -> None:
    labels, logits = random_case()
    plain = value(parse_loss(text, classes=3), labels, logits)
    changed = value(parse_loss(text, classes=3, **{option: GIVEN[option]}), labels, logits)
    if SERVED[text][list(GIVEN).index(option)]:
        refuse_idle_options(text, [option])
        assert changed != pytest.approx(plain, rel=1e-4)
    else:
        assert changed == plain
        with pytest.raises(UsageError, match=rf"--{option.replace('_', '-')}: changes nothing in the loss") as raised:
            refuse_idle_options(text, [option])
        assert "\n" not in str(raised.value)


def test_class_weights_are_those_of_the_focal_loss_unless_it_has_its_own() -> None:
    labels, logits = random_case()
    weights = (1.0, 3.0, 9.0)
    by_class = parse_loss("focal", classes=3, class_weights=weights)
    assert value(by_class, labels, logits) == value(parse_loss("focal", classes=3, focal_alpha=weights), labels, logits)
    refuse_idle_options("ce+focal", ["class_weights", "focal_alpha"])
    with pytest.raises(UsageError, match="give one of them"):
        refuse_idle_options("focal+dice", ["class_weights", "focal_alpha"])
