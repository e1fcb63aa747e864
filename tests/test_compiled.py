"""Machine code without a place to keep it, and with one that is damaged: slower to start, the same results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tileseg

PACKAGE = Path(tileseg.__file__).parent

USE = """
import numpy as np
import tileseg.source.rescale, tileseg.evaluate.calibration, tileseg.publish.geojson, tileseg.polygons.join
from tileseg.evaluate.confusion import confusion
from tileseg.labels import halve
labels = np.array([[1, 2, 2], [1, 1, 2]], np.uint8)
print(tileseg.__file__, halve(labels).tolist(), confusion(labels, labels, 3).tolist())
"""
RESULT = "[[1, 2]] [[0, 0, 0], [0, 3, 0], [0, 0, 3]]"


def test_numba_waits_for_the_first_call_and_loops_for_those_that_they_call() -> None:
    code = (
        "import sys\n"
        "import numpy as np\n"
        "import tileseg.run.vectorize, tileseg.labels\n"
        "from tileseg.imports import own_process\n"
        "print('numba' in sys.modules)\n"
        "own_process()\n"
        "print(tileseg.labels.halve(np.array([[1, 2, 2], [1, 1, 2]], np.uint8)).tolist())\n"
        "print('numba' in sys.modules, 'scipy.linalg' in sys.modules)\n"
        "import scipy.linalg\n"  # whoever wants it has it
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split("\n")[:3] == ["False", "[[1, 2]]", "True False"]


def use(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    unset = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", USE],
        cwd=root,
        env=inherited | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """The package where no folder for machine code can be made, not even by root."""
    shutil.copytree(
        PACKAGE, tmp_path / "tileseg", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in {path.parent for path in (tmp_path / "tileseg").rglob("*.py")}:
        (folder / "__pycache__").touch()
    return tmp_path


def test_a_read_only_installation_works_without_a_home(installation: Path) -> None:
    found = use(installation, HOME="/dev/null")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == f"{installation / 'tileseg' / '__init__.py'} {RESULT}"


def test_a_cache_folder_that_cannot_be_made_is_done_without(installation: Path) -> None:
    found = use(installation, HOME="/dev/null", NUMBA_CACHE_DIR="/dev/null/cache")
    assert found.returncode == 0, found.stderr
    assert RESULT in found.stdout


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with machine code."""
    folder = tmp_path_factory.mktemp("kept")
    assert RESULT in use(PACKAGE.parent, NUMBA_CACHE_DIR=str(folder)).stdout
    assert len([*folder.rglob("*.nbi"), *folder.rglob("*.nbc")]) >= 4  # an index and code for each of two functions
    return folder


def test_a_damaged_cache_is_compiled_anew(kept: Path, tmp_path: Path) -> None:
    cache = shutil.copytree(kept, tmp_path / "cache")
    for number, path in enumerate(sorted([*cache.rglob("*.nbi"), *cache.rglob("*.nbc")])):
        path.write_bytes(b"" if number % 2 else path.read_bytes()[: path.stat().st_size // 2])
    found = use(PACKAGE.parent, NUMBA_CACHE_DIR=str(cache))
    assert found.returncode == 0, found.stderr
    assert RESULT in found.stdout


def test_a_cache_that_can_no_longer_be_written_to_is_done_without(kept: Path, tmp_path: Path) -> None:
    """An index that is a folder stands for every file that cannot be opened: another user's, a full disk's."""
    cache = shutil.copytree(kept, tmp_path / "cache")
    for index in cache.rglob("*.nbi"):
        index.unlink()
        index.mkdir()
    found = use(PACKAGE.parent, NUMBA_CACHE_DIR=str(cache))
    assert found.returncode == 0, found.stderr
    assert RESULT in found.stdout
