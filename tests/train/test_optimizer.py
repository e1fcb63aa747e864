"""The optimizer against Keras's own AdamW, the running mean against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from tileseg.nn.backend import keras, to_numpy
from tileseg.train.optimizer import PartwiseAdam, RunningMean


def variables(seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.normal(size=shape).astype(np.float32), name=name)
        for name, shape in (("kernel", (3, 2)), ("bias", (5,)), ("other", (2, 4)))
    ]


def gradients(step: int) -> list:
    rng = np.random.default_rng(100 + step)
    return [keras.ops.convert_to_tensor(rng.normal(size=s).astype(np.float32)) for s in ((3, 2), (5,), (2, 4))]


def run(optimizer, count: int = 5) -> list[np.ndarray]:
    made = variables()
    optimizer.build(made)
    for step in range(count):
        optimizer.apply(gradients(step), made)
    return [to_numpy(v) for v in made]


def test_with_equal_shares_it_is_adamw() -> None:
    ours = run(PartwiseAdam(rate=0.01, decay=0.1, clip=1.5))
    theirs = keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=1.5)
    theirs.exclude_from_weight_decay(var_names=["bias"])
    for found, expected in zip(ours, run(theirs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_each_variable_learns_at_its_own_rate() -> None:
    shares = {"kernel": 0.1, "bias": 1.0, "other": 0.0}
    found = run(PartwiseAdam(rate=0.02, decay=0.1, share=lambda v: shares[v.name]))
    slow, quick = run(PartwiseAdam(rate=0.002, decay=0.1)), run(PartwiseAdam(rate=0.02, decay=0.1))
    np.testing.assert_allclose(found[0], slow[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], quick[1], rtol=1e-6)
    np.testing.assert_array_equal(found[2], to_numpy(variables()[2]))


def test_accumulated_batches_make_one_update() -> None:
    one, other = variables(), variables()
    gathering = PartwiseAdam(rate=0.01, decay=0.1, clip=1.0, accumulate=2)
    at_once = PartwiseAdam(rate=0.01, decay=0.1, clip=1.0)
    gathering.build(one)
    at_once.build(other)
    for step in range(0, 6, 2):
        gathering.apply(gradients(step), one)
        gathering.apply(gradients(step + 1), one)
        at_once.apply([(a + b) / 2 for a, b in zip(gradients(step), gradients(step + 1), strict=True)], other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), rtol=1e-5, atol=1e-7)


def test_a_running_mean_is_its_formula() -> None:
    made = variables()
    mean = RunningMean(made, 0.6)
    expected = to_numpy(made[0]).astype(np.float64)
    for n in range(1, 30):
        made[0].assign(np.random.default_rng(n).normal(size=(3, 2)).astype(np.float32))
        mean.update(n)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * to_numpy(made[0])
    np.testing.assert_allclose(to_numpy(mean.variables[0]), expected, rtol=1e-5)


def test_swapping_shows_the_mean_and_swapping_again_goes_back() -> None:
    made = variables()
    mean = RunningMean(made, 0.9)
    made[1].assign(np.arange(5, dtype=np.float32))
    mean.update(1000)
    averaged = to_numpy(mean.variables[1])
    assert averaged == pytest.approx(0.9 * to_numpy(variables()[1]) + 0.1 * np.arange(5), rel=1e-5)
    mean.swap()
    np.testing.assert_array_equal(to_numpy(made[1]), averaged)
    mean.swap()
    np.testing.assert_array_equal(to_numpy(made[1]), np.arange(5))
    np.testing.assert_array_equal(to_numpy(mean.variables[1]), averaged)
