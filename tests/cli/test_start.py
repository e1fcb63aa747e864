"""Asking for help is quick because it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "tensorflow", "keras", "rasterio", "zarr", "dask", "distributed", "shapely", "geopandas", "pandas", "pyogrio",
    "pyarrow", "numba", "pyproj", "scipy",
)  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["vectorize", "--help"], ["model", "--help"], ["doctor", "--help"]]
)
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from tileseg.cli.main import main\n"
        f"sys.argv = ['tileseg', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Usage" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "loaded: []"
