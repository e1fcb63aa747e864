"""Trainings without the learning."""

import pytest

from tileseg.train.learner import Learner


@pytest.fixture
def nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that change nothing, and cost nothing, for tests of what is done around them."""
    monkeypatch.setattr(Learner, "step", lambda self, images, labels, *, step, rate: 0.5)
