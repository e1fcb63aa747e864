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


@pytest.fixture(scope="module")
def prepared(kill, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command and its folder, which both victims share: the second finds the undisturbed run finished."""
    work = tmp_path_factory.mktemp("kill")
    return kill.prepare(work), work


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_killed_runs_resume_to_the_same_bytes(kill, prepared, victim) -> None:
    tally = kill.Tally()
    kill.torment(*prepared, victim, kills=3, seed=5, tally=tally)
    assert tally.kills == 3
    assert tally.computed_twice == []
    assert tally.differing == []
