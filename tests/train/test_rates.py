import math

import pytest

from tileseg.train.rates import Plateau, learning_rate
from tileseg.train.spec import TrainSpec


def spec(**options) -> TrainSpec:
    return TrainSpec.parse({"dataset": "d.toml", "out": "m", "rate": 0.1, "warmup": 0, **options})


def test_warm_up_is_a_line() -> None:
    warm = spec(schedule="constant", warmup=4)
    assert [learning_rate(warm, step, 0, Plateau()) for step in range(6)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    )


def test_the_default_warm_up_is_at_most_a_tenth() -> None:
    def rates(share: float, **options) -> list[float]:
        chosen = spec(schedule="constant", warmup=None, **options)
        return [learning_rate(chosen, step, step * share, Plateau()) for step in (0, 1, 2, 24, 49)]

    assert rates(1 / 2000, steps=2000) == pytest.approx([0.002, 0.004, 0.006, 0.05, 0.1])
    assert rates(1 / 500, minutes=60) == pytest.approx([0.002, 0.004, 0.006, 0.05, 0.1])
    assert rates(1 / 50, steps=50) == pytest.approx([0.02, 0.04, 0.06, 0.1, 0.1])
    # By the clock: 20 steps in all, of which two are a tenth.
    assert rates(1 / 20, minutes=1)[:3] == pytest.approx([0.002, 0.05, 0.1])
    assert spec(warmup=None, steps=5).warmup_steps == 0
    assert learning_rate(spec(schedule="constant", warmup=50, steps=5), 4, 0.8, Plateau()) == pytest.approx(0.01)


def test_a_warm_up_that_is_not_given_is_told_as_the_number_that_it_is() -> None:
    assert spec(warmup=None).choices()["warmup"] == spec(warmup=None, minutes=9).choices()["warmup"] == 50
    assert spec(warmup=None, steps=30).choices() == spec(warmup=3, steps=30).choices()
    assert spec(warmup=None, steps=500).choices() == spec(warmup=50, steps=500).choices()


def test_cosine_falls_from_all_to_a_thousandth() -> None:
    rates = [learning_rate(spec(), 0, share, Plateau()) for share in (0, 1 / 3, 0.5, 1)]
    assert rates == pytest.approx([0.1, 1e-4 + 0.0999 * 0.75, 1e-4 + 0.0999 * 0.5, 1e-4])


def test_steps_fall_at_whole_epochs() -> None:
    stepped = spec(schedule="step", step_epochs=2, steps_per_epoch=10, fall=0.5)
    found = [learning_rate(stepped, step, 0, Plateau()) for step in (0, 19, 20, 39, 40)]
    assert found == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])


def test_a_plateau_falls_after_so_many_validations_without_a_better_one() -> None:
    plateau, falls = Plateau(), []
    for score in (0.2, 0.3, 0.3, 0.1, 0.31, 0.3, 0.3, 0.3, 0.3):
        plateau = plateau.after(score, 2)
        falls.append(plateau.falls)
    assert falls == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert learning_rate(spec(schedule="plateau", fall=0.5), 0, 0, plateau) == pytest.approx(0.1 / 8)


def test_a_first_score_is_better_than_none() -> None:
    assert Plateau().best == -math.inf
    assert Plateau().after(0.0, 1) == Plateau(0.0, 0, 0)
