"""Killed runs resume to the same bytes and compute nothing twice. ``benchmarks/kill.py`` does it 20 times each."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def kill() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    found = importlib.util.spec_from_file_location("kill", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["kill"] = module  # where its dataclass looks for the names of its types
    found.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_killed_runs_resume_to_the_same_bytes(kill, tmp_path, victim) -> None:
    tally = kill.Tally()
    kill.torment(kill.prepare(tmp_path), tmp_path, victim, kills=3, seed=5, tally=tally)
    assert tally.kills == 3
    assert tally.computed_twice == []
    assert tally.differing == []
