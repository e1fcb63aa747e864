"""workflows/prefect: real runs of the flow. Prefect has to be installed beside tileseg; it is none of its extras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from archives import delivered, draw_archive
from fakes import save_tiny_onnx

SCRIPT = Path(__file__).parents[2] / "workflows" / "prefect" / "nightly.py"
OPTIONS = {"model": "tiny", "block": "64", "workers": "0", "precision": "float32"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("prefect") is None, reason="prefect is not installed; workflows/prefect/try.sh does it"
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prefect")
    save_tiny_onnx(folder / "tiny")
    draw_archive(folder / "scenes", [(190, 240), (130, 70)])
    return folder


def python(place: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PREFECT_HOME": str(place / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300", "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_COLORS": "false", "NO_COLOR": "1", "COLUMNS": "400",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def once(place: Path) -> subprocess.CompletedProcess[str]:
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    return python(place, SCRIPT, "scenes", "--out", "results", "--once", "--merge", "all.gpkg", "--set", *options)


def items(place: Path) -> int:
    collection = json.loads((place / "results" / "collection.json").read_text())
    return sum(link["rel"] == "item" for link in collection["links"])


def test_the_flow_does_the_archive_as_a_batch_does(place) -> None:
    told = once(place)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "scene0.tif: done" in told.stderr
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    plain = python(place, "-m", "tileseg", "batch", "scenes", "--out", "plain", *options)
    assert plain.returncode == 0, plain.stderr
    assert delivered(place / "results") == delivered(place / "plain")
    assert items(place) == 2
    assert (place / "all.gpkg").stat().st_size > 0


def test_a_scene_that_is_useless_fails_the_flow_at_once_and_the_rest_is_done(place) -> None:
    (place / "scenes" / "text.tif").write_text("not a raster")
    told = once(place)
    assert told.returncode != 0
    assert "scene0.tif: skipped" in told.stderr
    assert "InputError" in told.stderr
    assert "{'skipped': 2, 'unusable': 1}" in told.stderr
    assert "will be retried" not in told.stderr
    assert "Awaiting" not in told.stderr
    assert items(place) == 2


RETRIES = """
import importlib.util, sys
from pathlib import Path
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from tileseg.errors import InputError, TilesegError, UsageError

found = importlib.util.spec_from_file_location("nightly", sys.argv[1])
nightly = importlib.util.module_from_spec(found)
found.loader.exec_module(nightly)
calls = []

def failing(error):
    def run_batch(spec, listener):
        calls.append(error.__name__)
        raise error("no")
    return run_batch

quick = nightly.segment.with_options(retry_delay_seconds=0)

@flow
def tried():
    return quick(["scenes"], "nowhere", {}, return_state=True)

with prefect_test_harness(server_startup_timeout=300):
    for error in (TilesegError, InputError, UsageError, ZeroDivisionError):
        nightly.run_batch = failing(error)
        assert tried(return_state=True).is_failed()
print({name: calls.count(name) for name in dict.fromkeys(calls)})
"""


def test_what_may_pass_is_tried_again_and_what_is_useless_is_not(place) -> None:
    told = python(place, "-c", RETRIES, SCRIPT)
    assert told.returncode == 0, told.stderr
    assert "{'TilesegError': 4, 'InputError': 1, 'UsageError': 1, 'ZeroDivisionError': 4}" in told.stdout
