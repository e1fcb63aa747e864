import threading
import time

import pytest

from tileseg.ahead import computed_ahead
from tileseg.errors import InputError, UsageError


def test_it_keeps_the_order_whatever_takes_longest() -> None:
    def make(step: int) -> int:
        time.sleep(0.02 if step % 3 == 0 else 0)
        return step * step

    assert list(computed_ahead(make, range(5, 30), ahead=6, threads=3)) == [step * step for step in range(5, 30)]
    assert list(computed_ahead(make, range(5, 5), ahead=6, threads=3)) == []


def test_it_never_runs_further_ahead_than_told() -> None:
    started: list[int] = []
    batches = computed_ahead(lambda step: started.append(step) or step, range(100), ahead=4, threads=2)
    for taken in range(10):
        assert next(batches) == taken
        time.sleep(0.005)
        assert max(started) <= taken + 4
    batches.close()
    count = len(started)
    time.sleep(0.02)
    assert len(started) == count <= 14


def test_an_exception_is_raised_at_its_step() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise InputError("step 3")
        return step

    batches = computed_ahead(make, range(10), ahead=5, threads=2)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="step 3"):
        next(batches)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    batches = computed_ahead(lambda step: step, range(10**9), ahead=3, threads=3)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_items_are_taken_when_their_turn_comes() -> None:
    taken: list[int] = []
    results = computed_ahead(lambda item: -item, (taken.append(i) or i for i in range(100)), ahead=3, threads=1)
    assert taken == []
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    results.close()


@pytest.mark.parametrize("wrong", [{"ahead": 0, "threads": 1}, {"ahead": 1, "threads": 0}])
def test_nobody_works_on_nothing(wrong) -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        next(computed_ahead(abs, [1], **wrong))
