import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tileseg.labels import CERTAIN, NODATA, count, decide, decide_again, halve, probabilities

logit_blocks = hnp.arrays(
    np.float16,
    st.tuples(st.integers(2, 6), st.integers(1, 140), st.integers(1, 9)),
    elements=st.floats(-30, 30, width=16),
)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    return odds / odds.sum(axis=0)


@given(logit_blocks, st.randoms(use_true_random=False))
def test_labels_are_the_argmax_and_confidence_its_softmax(logits, random) -> None:
    valid = np.array([random.random() < 0.8 for _ in range(logits[0].size)]).reshape(logits.shape[1:])
    labels, confidence = decide(logits, valid)
    np.testing.assert_array_equal(labels, np.where(valid, logits.argmax(axis=0), NODATA))
    expected = np.where(valid, softmax(logits).max(axis=0) * CERTAIN, 0)
    np.testing.assert_allclose(confidence, expected, atol=0.51 + 2e-2)


@given(logit_blocks)
def test_confidence_is_the_same_from_stored_probabilities(logits) -> None:
    valid = np.ones(logits.shape[1:], bool)
    labels, confidence = decide(logits, valid)
    stored = probabilities(logits)
    np.testing.assert_allclose(stored, softmax(logits) * CERTAIN, atol=0.52)
    at_label = np.take_along_axis(stored, labels[None].astype(int), axis=0)[0]
    assert np.abs(at_label.astype(int) - confidence).max() <= 1


def test_thresholds_decide_anew() -> None:
    percent = np.array([[[60, 30, 20, 50]], [[35, 60, 20, 45]], [[5, 10, 60, 5]]])
    chances = (percent * CERTAIN // 100).astype(np.uint16)
    valid = np.array([[True, True, True, False]])
    labels, confidence = decide_again(chances, valid, {1: 0.3})
    np.testing.assert_array_equal(labels, [[1, 1, 2, NODATA]])
    assert confidence[0, 0] == chances[1, 0, 0]
    stricter, _ = decide_again(chances, valid, {1: 0.7})
    np.testing.assert_array_equal(stricter, [[0, 0, 2, NODATA]])
    nowhere, _ = decide_again(chances, valid, {0: 0.9, 1: 0.9, 2: 0.5})
    np.testing.assert_array_equal(nowhere, [[NODATA, NODATA, 2, NODATA]])


def test_halving_takes_the_majority() -> None:
    labels = np.array([[1, 2, 3], [2, 2, 255], [7, 8, 9]], np.uint8)
    np.testing.assert_array_equal(halve(labels), [[2, 3], [7, 9]])


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_halving_gives_a_most_frequent_label(labels) -> None:
    out = halve(labels)
    for (row, col), label in np.ndenumerate(out):
        four = np.pad(labels, ((0, 1), (0, 1)), mode="edge")[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        counts = np.bincount(four.ravel())
        assert counts[label] == counts.max()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_counting(labels) -> None:
    counts = np.ones(256, np.int64)
    count(labels, counts)
    np.testing.assert_array_equal(counts - 1, np.bincount(labels.ravel(), minlength=256))


def test_uniform_labels_stay_uniform() -> None:
    assert (halve(np.full((5, 7), 4, np.uint8)) == 4).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_ties_go_to_the_lower_id(classes) -> None:
    labels, confidence = decide(np.zeros((classes, 2, 3), np.float16), np.ones((2, 3), bool))
    assert (labels == 0).all()
    assert (confidence == round(CERTAIN / classes)).all()
